"""Runs: the curves of a training run as it goes on, its pictures, and a stop and a resumption."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ui import processes
from ui.app_config import AppConfig
from ui.jobs import sentence
from ui.results import charts_of, opened, plain, read_rows
from ui.run import RECIPES
from ui.shelf import Shelf, examples, pick, read_settings, require_own
from workbench.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SECONDS = 2.0  # between two looks
SHOWN = ("loss", "grad_norm", "images_per_second")  # first, where a run has them
SAMPLES = 3


@dataclass(frozen=True)
class Look:
    """A run as the page shows it."""

    text: str
    charts: str
    samples: "list[tuple[Image, str]]"
    log: str


def look(folder: Path, name: str) -> Look:
    """The newest of a run's folder. Raises UserError where its figures cannot be read."""
    try:
        rows = read_rows(folder / "metrics.jsonl")
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}); choose another run") from error
    started = processes.find(name)
    state = "finished" if (folder / "finished.json").exists() else "not finished"
    state = "running here" if started is not None and started.runs else state
    step = rows[-1]["step"] if rows else 0
    samples = sorted((folder / "samples").glob("*.png"), key=lambda path: path.stat().st_mtime)[-SAMPLES:]
    pictures = [(opened(path), path.stem) for path in samples[::-1]]
    told = started.told if started is not None else ""
    return Look(f"**{plain(name)}**: {state}, step {step:,}.", charts_of(rows, SHOWN), pictures, told)


def check_resumable(folder: Path, name: str) -> None:
    """Raise UserError for a run that `workbench run` does not know: a stage of a larger command; or one of the zoo."""
    require_own(folder, name)
    recipe = read_settings(folder / "config.yaml").get("recipe")
    if recipe not in RECIPES:
        raise UserError(f"{name} is a stage ({recipe}) of another command; go on with that command, or in its own tab")


# ---- the page --------------------------------------------------------------------------------------------------------


def build(shelf: Shelf, config: AppConfig) -> None:
    """Lay the tab out."""
    names = list(shelf.runs())
    with gr.Row():
        name = gr.Dropdown(names, value=names[0] if names else None, label="Run", allow_custom_value=True, scale=3)
        refresh = gr.Button("Look again for runs", min_width=120)
        live = gr.Checkbox(False, label="Live", info=f"Look every {SECONDS:g} seconds.", min_width=120)
    with gr.Row():
        show = gr.Button("Show", variant="primary")
        stop = gr.Button("Stop it")
        resume = gr.Button("Resume it")
    summary = gr.Markdown("Runs of `workbench train` below the served folder, and one that comes with the workbench.")
    charts = gr.HTML(label="Curves", elem_id="curves")
    samples = gr.Gallery(label="Newest validation pictures", columns=3, object_fit="contain", height=470, format="png",
                         elem_classes="pixels")  # fmt: skip
    log = gr.Textbox(label="What it says", lines=6, max_lines=6, visible=True, autoscroll=True)
    timer = gr.Timer(SECONDS, active=False)
    outputs = [summary, charts, samples, log]
    shown = _show(shelf)
    show.click(shown, name, outputs, api_name="show_run")
    timer.tick(shown, name, outputs, api_visibility="private", show_progress="hidden")
    live.change(lambda on: gr.Timer(active=on), live, timer, api_visibility="private")
    refresh.click(_list(shelf), None, name, api_name="list_runs")
    stop.click(_stop(shelf), name, summary, api_name="stop_run")
    resume.click(_resume(shelf), name, summary, api_name="resume_run")
    gr.Examples(examples(names), name, outputs, shown, cache_examples=False, run_on_click=True)


def _list(shelf: Shelf) -> Any:
    def list_runs() -> Any:
        """The runs that can be shown."""
        return gr.update(choices=list(shelf.runs()))

    return list_runs


def _show(shelf: Shelf) -> Any:
    def show_run(run: str) -> tuple[Any, ...]:
        """A run's state, curves, newest pictures and output."""
        found = sentence(lambda: look(Path(pick(shelf.runs, run, "run")), run), shelf)
        return found.text, found.charts, found.samples, shelf.told(found.log)

    return show_run


def _stop(shelf: Shelf) -> Any:
    def stop_run(run: str) -> str:
        """Ask a run that was started here to save and end."""
        sentence(lambda: pick(shelf.runs, run, "run"), shelf)
        sentence(lambda: processes.stop(run), shelf)
        return f"**{plain(run)}** saves and ends."

    return stop_run


def _resume(shelf: Shelf) -> Any:
    def resume_run(run: str) -> str:
        """Go on with a run from its newest checkpoint, by its own config.yaml."""

        def begin() -> None:
            folder = Path(pick(shelf.runs, run, "run"))
            check_resumable(folder, run)
            log = folder.with_name(f"{folder.name}.log")
            processes.start(run, ["run", str(folder / "config.yaml")], log)

        sentence(begin, shelf)
        return f"**{plain(run)}** goes on; tick Live to watch it."

    return resume_run
