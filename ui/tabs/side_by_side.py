"""Side by side: the same labels, sizes and seeds from several models, or from one in several numbers of steps."""

import shutil
from collections.abc import Generator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import gradio as gr

from ui.app_config import AppConfig
from ui.jobs import Report, follow
from ui.results import where
from ui.shelf import PipelineFacts, Shelf, pick, pipeline_facts
from ui.stop import StopButton
from ui.tabs.generated import OWN, Generated, generate, request
from workbench.errors import UserError

MODELS, ROWS = 3, 4  # at most
STEPS = "A row for each number, such as 1, 2, 8: what does a one-step model gain from more? Empty: the model's own."


class Row(NamedTuple):
    """A model, and in how many steps it draws; None: its own number."""

    name: str
    spec: str
    facts: PipelineFacts
    steps: int | None

    @property
    def title(self) -> str:
        """What tells it from the other rows."""
        steps = "" if self.steps is None else f", {self.steps} step{'s' * (self.steps != 1)}"
        trained = f", trained at {self.facts.size}" if self.facts.size else ""
        return f"{self.name}: {self.facts.about}{trained}{steps}"


def rows_of(shelf: Shelf, models: Sequence[str], steps: str) -> list[Row]:
    """Each model in each number of steps. Raises UserError for too many rows, and for what is no number."""
    if not 1 <= len(models) <= MODELS:
        raise UserError(f"{len(models)} models were chosen; choose up to {MODELS}")
    try:
        numbers: list[int | None] = [int(word) for word in steps.replace(",", " ").split()]
    except ValueError:
        raise UserError(f"{steps!r} are no numbers of steps; write them as 1, 2, 8") from None
    known = [(name, pick(shelf.generators, name, "generator")) for name in dict.fromkeys(models)]
    rows = [Row(name, spec, pipeline_facts(spec), number) for (name, spec), number in product(known, numbers or [None])]
    if len(rows) > ROWS:
        raise UserError(f"{len(rows)} rows are too many; choose models and numbers of steps for {ROWS} or fewer")
    return rows


def shared_labels(rows: Sequence[Row]) -> list[str]:
    """The classes that all models know, in the first one's order. Raises UserError where there is none."""
    first, *others = [row.facts.labels for row in rows]
    shared = [label for label in first if all(label in labels for labels in others)]
    if not shared and any([first, *others]):
        raise UserError("these models have no class in common; choose others")
    return shared


def generate_rows(
    shelf: Shelf, config: AppConfig, rows: Sequence[Row], labels: Sequence[str], sizes: Sequence[str],
    num_images: int, guidance: float | None, seed: int, report: Report,
) -> list[Generated]:  # fmt: skip
    """A data set for each row; of what is stopped, or fails, no row is kept."""
    labels = labels or shared_labels(rows)
    made: list[Generated] = []

    def report_row(number: int, share: float, text: str) -> None:
        report((number + share) / len(rows), f"row {number + 1} of {len(rows)}: {text}")

    try:
        for number, row in enumerate(rows):
            output = shelf.new_result("generated")
            asked = request(row.spec, output, labels, sizes, num_images, row.steps, guidance, OWN, seed, config.device)
            made.append(generate(asked, partial(report_row, number)))
    except BaseException:
        for one in made:
            shutil.rmtree(one.folder)
        raise
    return made


# ---- the page --------------------------------------------------------------------------------------------------------


def build(shelf: Shelf, config: AppConfig, model: Any, label: Any, sizes: Any, guidance: Any, seed: Any) -> None:
    """Lay it out below the tab whose model, classes, sizes, guidance and seed it shares."""
    with gr.Accordion("Side by side: several models, or one in several numbers of steps", open=False):
        with gr.Row():
            others = gr.Dropdown(
                list(shelf.generators()), value=[], multiselect=True, max_choices=MODELS - 1, label="Beside the model",
                allow_custom_value=True, info="The same classes, sizes, guidance and seeds as above.",
            )  # fmt: skip
            steps = gr.Textbox(label="Steps of each row", info=STEPS)
            count = gr.Slider(1, min(16, config.max_images), 8, step=1, label="Images of each row")
        with gr.Row():
            start = gr.Button("Generate side by side", variant="primary")
            stop = StopButton()
        galleries = [
            gr.Gallery(visible=False, columns=8, height=190, object_fit="contain", format="png",
                       elem_classes="pixels", elem_id=f"row-{number}")
            for number in range(ROWS)
        ]  # fmt: skip
        summary = gr.Markdown()

    def side_by_side(
        model: str, labels: list[str], sizes: list[str], guidance: float | None, seed: int, others: list[str],
        steps: str = "", num_images: int = 8, progress: gr.Progress = gr.Progress(),
    ) -> Generator[Any, None, None]:  # fmt: skip
        """Images of the same classes, sizes and seeds, a row for each model and number of steps; each is kept."""

        def work(report: Report) -> tuple[list[Row], list[Generated]]:
            rows = rows_of(shelf, [model, *others], steps)
            if len(rows) * num_images > config.max_images:
                raise UserError(f"{len(rows) * num_images} images are too many for one click; {config.max_images} fit")
            return rows, generate_rows(shelf, config, rows, labels, sizes, int(num_images), guidance, int(seed), report)

        rows, made = yield from follow(work, progress, shelf, stop)
        shown = [
            gr.update(value=one.pictures, label=row.title, visible=True) for row, one in zip(rows, made, strict=True)
        ]
        hidden = [gr.update(value=[], visible=False)] * (ROWS - len(rows))
        text = "\n\n".join(where(shelf, one.folder, f"{row.title}.") for row, one in zip(rows, made, strict=True))
        yield *shown, *hidden, text

    fields = [model, label, sizes, guidance, seed, others, steps, count]
    stop.counts([start.click])
    event = start.click(
        side_by_side, fields, [*galleries, summary], api_name="side_by_side", concurrency_id="model",
        concurrency_limit=1, show_progress_on=summary,
    )  # fmt: skip
    stop.ends([event], summary)
