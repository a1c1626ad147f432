"""Distil: what a distilled set looks like and how good it is, its curves while it is made; begin, stop, go on."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import gradio as gr

from distill.presets import Method
from ui import processes
from ui.app_config import AppConfig
from ui.distill_config import DistillConfig
from ui.jobs import sentence
from ui.results import charts_of, handed_out, opened, plain, read_rows, told_record
from ui.shelf import DISTILLING, TENSORS, Shelf, pick, read_json, read_settings
from workbench.config import from_mapping
from workbench.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

STAGES = ("experts", "matching")  # folders that are no part of the product
EFFORTS = ("auto", "quick", "full")
FACTS = (
    "label_names", "images_per_class", "height", "width", "channels", "labels", "preprocessing", "data", "recipe",
    "command", "versions", "checksum",
)  # fmt: skip
CURVES = ("validation_accuracy_average", "validation_accuracy_raw", "loss", "step_size")  # first, where there are any
FIGURES = ("accuracy on real images", "mean", "deviation", "networks")


@dataclass(frozen=True)
class DistilledSet:
    """A set as the page shows it, finished or not."""

    folder: Path
    text: str
    picture: "Image | None"
    charts: str
    accuracies: list[list[str]]
    card: str
    facts: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether it can be used."""
        return (self.folder / TENSORS).exists() and (self.folder / "metadata.json").exists()


def read_set(folder: Path, name: str) -> DistilledSet:
    """All that is there of a finished, running or stopped distillation."""
    metadata, curves = read_json(folder / "metadata.json"), folder / "matching" / "metrics.jsonl"
    started = processes.find(name)
    state = "finished" if metadata else "not finished: Go on takes it further"
    state = "running" if started is not None and started.runs else state
    charts = charts_of(read_rows(curves), CURVES) if curves.exists() else ""
    card = folder / "README.md"
    return DistilledSet(
        folder, f"**{plain(name)}**: {state}.", newest_picture(folder), charts, accuracies(folder, metadata),
        without_pictures(card.read_text()) if card.exists() else "There is no card yet.",
        {key: metadata[key] for key in FACTS if key in metadata},
    )  # fmt: skip


def newest_picture(folder: Path) -> "Image | None":
    """All images of the set; of one that is being made, as they last were."""
    samples = sorted((folder / "matching" / "samples").glob("step-*.png"))
    found = [path for path in (folder / "grid.png", *samples[-1:]) if path.exists()]
    return opened(found[0]) if found else None


def accuracies(folder: Path, metadata: dict[str, Any]) -> list[list[str]]:
    """What was measured so far, a figure a row, in the order of FIGURES."""
    measured = [metadata, *(read_json(folder / "matching" / name) for name in ("figures.json", "figures.json.partial"))]
    figures: dict[str, Any] = next((one["figures"] for one in measured if one.get("figures")), {})
    return [[name, f"{one['mean']:.1%}", f"{one['std']:.1%}", str(one["n"])] for name, one in figures.items()]


def without_pictures(card: str) -> str:
    """A card's Markdown without its header and its pictures, which are shown beside it."""
    text = card.split("\n---\n", 1)[-1]
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("!["))


def request(
    data: str, images_per_class: int, method: Any, effort: Any, output: Path, device: Any = "auto"
) -> DistillConfig:
    """The settings of `workbench distill` that the page's fields are. UserError for what is no method or effort."""
    for given, known in ((method, get_args(Method)), (effort, EFFORTS)):
        if given not in known:
            raise UserError(f"{given!r} cannot be chosen; choose one of {', '.join(known)}")
    return DistillConfig(
        data=data, output=output, images_per_class=int(images_per_class), method=method, effort=effort, device=device
    )


# ---- the page --------------------------------------------------------------------------------------------------------


def build(shelf: Shelf, config: AppConfig) -> None:
    """Lay the tab out."""
    names, sources = list(shelf.distilled_sets()), list(shelf.data_sets())
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            name = gr.Dropdown(names, value=names[0] if names else None, label="Distilled set", allow_custom_value=True)
            refresh = gr.Button("Look again for sets", size="sm")
            with gr.Row():
                show = gr.Button("Show", variant="primary", min_width=90)
                again = gr.Button("Go on", min_width=90)
                stop = gr.Button("Stop", min_width=90)
            with gr.Accordion("Distil a data set", open=not names):
                data = gr.Dropdown(sources, value=sources[0], label="Data set", allow_custom_value=True)
                count = gr.Slider(1, 50, 1, step=1, label="Images of each class")
                method = gr.Dropdown(list(get_args(Method)), value="ftd", label="Method")
                effort = gr.Dropdown(list(EFFORTS), value="auto", label="Effort",
                                     info="quick is minutes on a processor; full needs a GPU.")  # fmt: skip
                start = gr.Button("Distil")
            log = gr.Textbox(label="What it says", lines=8, max_lines=8, autoscroll=True)
        with gr.Column(scale=3, min_width=280):
            summary = gr.Markdown("Choose a distilled set and click Show." if names else "Distil a data set.")
            picture = gr.Image(label="All images of the set", format="png", interactive=False, elem_classes="pixels",
                               elem_id="distilled")  # fmt: skip
            figures = gr.Dataframe(
                headers=list(FIGURES), label="Measured", interactive=False, wrap=True, elem_id="measured",
                elem_classes="plain-table",
            )  # fmt: skip
            charts = gr.HTML(label="Curves", elem_id="matching", padding=False)
            with gr.Accordion("The card: what it is, and how to train on it", open=False):
                card = gr.Markdown()
            with gr.Accordion("How it was made", open=False):
                facts = gr.JSON(show_label=False)
            download = gr.DownloadButton("Download the set", visible=False)
    gr.Examples([["fashion-mnist:extract", 1, "ftd", "quick"]], [data, count, method, effort], label="Examples")
    seen = [summary, picture, figures, charts, card, facts, download, log]
    gr.on([show.click, name.select], _show(shelf), name, seen, api_name="show_distilled")
    refresh.click(_list(shelf), None, name, api_name="list_distilled")
    stop.click(_stop(shelf), name, None, api_name="stop_distilling")
    shared: dict[str, Any] = {"concurrency_id": "process", "concurrency_limit": 2}
    live, fields = [name, log, charts, picture], [data, count, method, effort]
    begun = start.click(_distil(shelf, config), fields, live, api_name="distill", **shared)
    gone_on = again.click(_go_on(shelf, config), name, live, api_name="resume_distilling", **shared)
    for event in (begun, gone_on):
        event.then(_show(shelf), name, seen, api_visibility="private")


def _list(shelf: Shelf) -> Any:
    def list_distilled() -> Any:
        """The distilled sets that can be shown."""
        return gr.update(choices=list(shelf.distilled_sets()))

    return list_distilled


def _stop(shelf: Shelf) -> Any:
    def stop_distilling(distilled_set: str) -> None:
        """Ask a distillation that was started here to save and end."""
        sentence(lambda: processes.stop(distilled_set), shelf)

    return stop_distilling


def _show(shelf: Shelf) -> Any:
    def show_distilled(distilled_set: str) -> tuple[Any, ...]:
        """A distilled set: its state, picture, figures, curves, card, how it was made, a zip file of it, its log."""
        folder = Path(sentence(lambda: pick(shelf.distilled_sets, distilled_set, "distilled set"), shelf))
        found, started = read_set(folder, distilled_set), processes.find(distilled_set)
        archive = handed_out(shelf, folder, STAGES) if found.finished else None
        return (
            found.text, found.picture, found.accuracies, found.charts, shelf.told(found.card),
            told_record(shelf, found.facts), gr.update(value=archive, visible=found.finished),
            "" if started is None else shelf.told(started.told),
        )  # fmt: skip

    return show_distilled


def _distil(shelf: Shelf, config: AppConfig) -> Any:
    def distill(
        data_set: str, images_per_class: int = 1, method: str = "ftd", effort: str = "auto"
    ) -> Generator[Any, None, None]:
        """Start distilling; tells its name, what it prints, its curves and newest picture.

        It goes on when the page is closed.
        """

        def begin() -> processes.Started:
            data = pick(shelf.data_sets, data_set, "data set")
            asked = request(data, images_per_class, method, effort, output, config.device)
            return processes.start(
                shelf.shown(output), processes.words_of("distill", asked), output.with_suffix(".log")
            )

        output = shelf.new_result("distilled")
        yield from _watch(shelf, sentence(begin, shelf), output)

    return distill


def _go_on(shelf: Shelf, config: AppConfig) -> Any:
    def resume_distilling(distilled_set: str) -> Generator[Any, None, None]:
        """Go on with a distillation that was stopped, by its own settings; tells the same as distill."""

        def begin() -> tuple[processes.Started, Path]:
            folder = Path(pick(shelf.distilled_sets, distilled_set, "distilled set"))
            if not (folder / DISTILLING).exists():
                raise UserError(f"{distilled_set} was not made by workbench distill here, and cannot be gone on with")
            stored = from_mapping(DistillConfig, read_settings(folder / DISTILLING) | {"output": str(folder)})
            words = processes.words_of("distill", replace(stored, device=config.device))
            return processes.start(distilled_set, words, folder.with_name(f"{folder.name}.log")), folder

        yield from _watch(shelf, *sentence(begin, shelf))

    return resume_distilling


def _watch(shelf: Shelf, started: processes.Started, folder: Path) -> Generator[Any, None, None]:
    name = shelf.shown(folder)
    for told in started.watch():
        found = read_set(folder, name)
        yield gr.update(choices=list(shelf.distilled_sets()), value=name), shelf.told(told), found.charts, found.picture
