"""Distil: what a distilled set looks like and how good it is; and a new one, made by a process of its own."""

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import gradio as gr

from distill.presets import Method
from ui import processes
from ui.app_config import AppConfig
from ui.jobs import sentence
from ui.results import opened, zipped
from ui.shelf import Shelf, pick, read_json
from workbench.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

PATIENCE = 1.0  # seconds between two looks at the process
FACTS = ("classes", "images_per_class", "shape", "method", "data", "recipe", "command", "seed", "versions", "checksum")


@dataclass(frozen=True)
class DistilledSet:
    """A set as the page shows it."""

    folder: Path
    picture: "Image | None"
    card: str
    facts: dict[str, Any]


def read_set(folder: Path) -> DistilledSet:
    """The picture, the card without its pictures, and the facts of a distilled set."""
    picture, card = folder / "grid.png", folder / "README.md"
    text = card.read_text().split("\n---\n", 1)[-1] if card.exists() else "This set has no card."
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("![")]
    metadata = read_json(folder / "metadata.json")
    facts = {key: metadata[key] for key in FACTS if key in metadata}
    return DistilledSet(folder, opened(picture) if picture.exists() else None, "\n".join(lines), facts)


def words_of(data: str, images_per_class: int, method: str, effort: str, output: Path, device: str) -> list[str]:
    """The command that distils. Raises UserError for what is no method or effort."""
    for given, known in ((method, get_args(Method)), (effort, ("auto", "quick", "full"))):
        if given not in known:
            raise UserError(f"{given!r} cannot be chosen; choose one of {', '.join(known)}")
    return [
        "distill", data, "--images-per-class", str(int(images_per_class)), "--method", method, "--effort", effort,
        "--output", str(output), "--device", device,
    ]  # fmt: skip


# ---- the page --------------------------------------------------------------------------------------------------------


def build(shelf: Shelf, config: AppConfig) -> None:
    """Lay the tab out."""
    names, sources = list(shelf.distilled_sets()), list(shelf.data_sets())
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            name = gr.Dropdown(names, value=names[0] if names else None, label="Distilled set", allow_custom_value=True)
            with gr.Row():
                show = gr.Button("Show", variant="primary")
                refresh = gr.Button("Look again")
            with gr.Accordion("Distil a data set", open=not names):
                data = gr.Dropdown(sources, value=sources[0], label="Data set", allow_custom_value=True)
                count = gr.Slider(1, 50, 1, step=1, label="Images of each class")
                method = gr.Dropdown(list(get_args(Method)), value="ftd", label="Method")
                effort = gr.Dropdown(["auto", "quick", "full"], value="auto", label="Effort",
                                     info="quick is minutes on a processor; full needs a GPU.")  # fmt: skip
                with gr.Row():
                    start = gr.Button("Distil")
                    stop = gr.Button("Stop")
                running = gr.Textbox(visible=False, label="Started")
                log = gr.Textbox(label="What it says", lines=8, max_lines=8, autoscroll=True)
        with gr.Column(scale=3, min_width=280):
            picture = gr.Image(label="All images of the set", format="png", interactive=False, elem_classes="pixels",
                               elem_id="distilled")  # fmt: skip
            card = gr.Markdown("Choose a distilled set, or distil a data set." if not names else "")
            facts = gr.JSON(label="How it was made", open=False)
            download = gr.DownloadButton("Download the set", visible=False)
    gr.Examples([["fashion-mnist:extract", 1, "ftd", "quick"]], [data, count, method, effort], label="Examples")
    show.click(_show(shelf), name, [picture, card, facts, download], api_name="show_distilled")
    refresh.click(lambda: gr.update(choices=list(shelf.distilled_sets())), None, name, api_visibility="private")
    start.click(
        _distil(shelf, config), [data, count, method, effort], [running, log], api_name="distill",
        concurrency_id="process", concurrency_limit=2,
    )  # fmt: skip
    stop.click(lambda run: sentence(lambda: processes.stop(run)), running, None, api_name="stop_distilling")


def _show(shelf: Shelf) -> Any:
    def show_distilled(distilled_set: str) -> tuple[Any, ...]:
        """A distilled set's picture, its card, how it was made, and a zip file of it."""
        found = sentence(lambda: read_set(Path(pick(shelf.distilled_sets, distilled_set, "distilled set"))))
        copy = shelf.new_result("distilled-copy")
        copy.parent.mkdir(exist_ok=True)
        archive = zipped(found.folder, copy)
        return found.picture, found.card, found.facts, gr.update(value=archive, visible=True)

    return show_distilled


def _distil(shelf: Shelf, config: AppConfig) -> Any:
    def distill(
        data_set: str, images_per_class: int = 1, method: str = "ftd", effort: str = "auto"
    ) -> Generator[Any, None, None]:
        """Start distilling; tells what the process prints. It goes on when the page is closed."""

        def begin() -> tuple[str, processes.Started]:
            output = shelf.new_result("distilled")
            data = pick(shelf.data_sets, data_set, "data set")
            words = words_of(data, images_per_class, method, effort, output, config.device)
            return shelf.shown(output), processes.start(shelf.shown(output), words, output.with_suffix(".log"))

        name, started = sentence(begin)
        while started.runs:
            yield name, started.tail
            time.sleep(PATIENCE)
        yield name, f"{started.tail}\n(ended with code {started.process.returncode})"

    return distill
