"""Data sets: look at any on the shelf image by image, with where each came from; verify it, export it."""

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ui.app_config import AppConfig
from ui.jobs import Report, follow, sentence
from ui.results import told_record, where, zipped
from ui.shelf import DEMO_DATA, Shelf, pick
from workbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ALL = "all classes"
PER_PAGE = 24
FORMATS = ("folder", "parquet", "webdataset")
ABOUT = ("counts", "sizes", "command", "seed", "created", "parents", "versions", "checksum")  # of dataset.json


@dataclass(frozen=True)
class Page:
    """Some images of a split with their labels, what is known of each, and how many there are in all."""

    pictures: "list[tuple[np.ndarray, str]]"
    rows: list[dict[str, Any]]
    total: int

    @property
    def text(self) -> str:
        """How many there are, and how many pages."""
        pages = -(-self.total // PER_PAGE)
        return f"{self.total:,} image{'s' * (self.total != 1)} on {pages} page{'s' * (pages != 1)}."


def look(name: str, split: str, label: str, page: int, max_pixels: int) -> Page:
    """A page, counted from 1, of a split's images of one class, or of all.

    Raises UserError for an unknown split or class, and a page beyond the last.
    """
    from workbench.datasets import open_split
    from workbench.image_files import PixelForm

    opened = open_split(name, split, None if label == ALL else [label])
    first, total = (int(page) - 1) * PER_PAGE, len(opened.positions)
    if not 0 <= first < total:
        raise UserError(f"there is no page {page}; give one from 1 to {-(-total // PER_PAGE)}")
    positions = opened.positions[first : first + PER_PAGE]
    decoded = opened.source.pixels(positions, PixelForm(max_pixels=max_pixels))
    files = opened.source.file_names(positions) or [f"image {number}" for number in positions.tolist()]
    labels = opened.labels[first : first + PER_PAGE]
    known = provenance(name, split)
    pictures, rows = [], []
    for image, kept in zip(decoded.images, decoded.kept.tolist(), strict=True):
        label_name = opened.label_names[labels[kept]] if labels[kept] >= 0 else "no label"
        pixels = image.numpy().transpose(1, 2, 0)
        pictures.append((pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels, label_name))
        rows.append(known.get(files[kept], {"file_name": files[kept], "label_name": label_name}))
    return Page(pictures, rows, total)


def provenance(name: str, split: str) -> dict[str, dict[str, Any]]:
    """The row of each file, named from its root, of a data set of ours in folder form; empty for any other."""
    from workbench.convert import detect_form
    from workbench.records import read_rows

    if not made_here(name) or detect_form(name) != "folder":
        return {}
    return {f"{split}/{row['file_name']}": row for row in read_rows(name, split)}


def about(name: str) -> dict[str, Any]:
    """What a data set of ours says of itself; of another, its name."""
    from workbench.dataset_format import read_dataset_info

    if not made_here(name):
        return {"name": name}
    info = read_dataset_info(name)
    return {key: info[key] for key in ABOUT if key in info}


def made_here(name: str) -> bool:
    """Whether a data set is one of ours, with a record of how it was made."""
    return (Path(name) / "dataset.json").is_file()


def choices_of(name: str) -> tuple[list[str], list[str]]:
    """Splits and classes of a data set."""
    from workbench.datasets import available_splits, open_split

    splits = available_splits(name)
    return splits, [ALL, *open_split(name, splits[0]).label_names]


# ---- the page --------------------------------------------------------------------------------------------------------


def build(shelf: Shelf, config: AppConfig) -> None:
    """Lay the tab out."""
    names = list(shelf.data_sets())
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            name = gr.Dropdown(names, value=names[0], label="Data set", allow_custom_value=True)
            refresh = gr.Button("Look again for data sets", size="sm")
            split = gr.Dropdown(["train", "validation", "test"], value="train", label="Split", allow_custom_value=True)
            label = gr.Dropdown([ALL], value=ALL, label="Class", allow_custom_value=True)
            page = gr.Number(1, precision=0, minimum=1, label="Page")
            show = gr.Button("Show", variant="primary")
            with gr.Accordion("Check and export", open=False):
                check = gr.Button("Verify every file")
                form = gr.Dropdown(list(FORMATS), value="parquet", label="Format")
                export = gr.Button("Export")
                download = gr.DownloadButton("Download the export", visible=False)
        with gr.Column(scale=3, min_width=280):
            gallery = gr.Gallery(
                label="Images", columns=6, object_fit="contain", height=530, format="png", elem_classes="pixels",
                elem_id="browsed",
            )  # fmt: skip
            summary = gr.Markdown("Choose a data set and click Show; click an image for where it came from.")
            row = gr.JSON(label="This image", open=True)
            whole = gr.JSON(label="The data set", open=False)
    rows = gr.JSON(visible=False, label="Where each image came from")
    _connect_looking(shelf, config, [name, split, label, page], show, [gallery, summary, whole, rows])
    _connect_work(shelf, name, form, check, export, [summary, download])
    gallery.select(_chosen, rows, row, api_visibility="private")
    refresh.click(_list(shelf), None, name, api_name="list_data_sets")
    name.change(_classes(shelf), name, [split, label, page], api_name="classes_of_data_set")
    gr.Examples([[one, "test"] for one in DEMO_DATA], [name, split], label="Examples")


def _chosen(rows: list[dict[str, Any]], event: gr.SelectData) -> dict[str, Any]:
    return rows[event.index] if isinstance(event.index, int) and event.index < len(rows) else {}


def _list(shelf: Shelf) -> Any:
    def list_data_sets() -> Any:
        """The data sets that can be chosen."""
        return gr.update(choices=list(shelf.data_sets()))

    return list_data_sets


def _classes(shelf: Shelf) -> Any:
    def classes_of_data_set(data_set: str) -> tuple[Any, Any, int]:
        """Splits and classes of a data set."""
        splits, labels = sentence(lambda: choices_of(pick(shelf.data_sets, data_set, "data set")), shelf)
        return gr.update(choices=splits, value=splits[0]), gr.update(choices=labels, value=ALL), 1

    return classes_of_data_set


def _connect_looking(shelf: Shelf, config: AppConfig, fields: list[Any], show: Any, outputs: list[Any]) -> None:
    def browse(data_set: str, split: str, label: str = ALL, page: int = 1) -> Any:
        """A page of a data set's images, what it says of itself, and where each image came from."""

        def work() -> tuple[Any, ...]:
            name = pick(shelf.data_sets, data_set, "data set")
            found = look(name, split, label, page, config.max_image_pixels)
            return found.pictures, found.text, told_record(shelf, about(name)), found.rows

        return sentence(work, shelf)

    gr.on([show.click, fields[3].submit], browse, fields, outputs, api_name="browse")


def _connect_work(shelf: Shelf, name: Any, form: Any, check: Any, export: Any, outputs: list[Any]) -> None:
    def verify(data_set: str, progress: gr.Progress = gr.Progress()) -> Generator[Any, None, None]:
        """Read every file of a data set made here, and say what is wrong with it."""

        def work(report: Report) -> str:
            from workbench.verify import verify

            return verify(_ours(shelf, data_set)).summary()

        verdict = yield from follow(work, progress, shelf, turn=nullcontext())
        yield f"```\n{shelf.told(verdict)}\n```"

    def export_data_set(
        data_set: str, format: str, progress: gr.Progress = gr.Progress()
    ) -> Generator[Any, None, None]:
        """Convert a data set made here to another form; returns where it is kept, and a zip file of it."""

        def work(report: Report) -> Any:
            from workbench.convert import convert

            return convert(_ours(shelf, data_set), shelf.new_result("exported"), format)

        folder = yield from follow(work, progress, shelf, turn=nullcontext())
        yield where(shelf, folder, "Exported."), gr.update(value=zipped(folder), visible=True)

    check.click(verify, name, outputs[0], api_name="verify")
    export.click(export_data_set, [name, form], outputs, api_name="export")


def _ours(shelf: Shelf, name: str) -> str:
    folder = pick(shelf.data_sets, name, "data set")
    if not made_here(folder):
        raise UserError(f"{name} is no data set made here; choose one that is")
    return folder
