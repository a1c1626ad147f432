"""Generate: labelled images of any size from a trained generator, kept as a documented data set."""

from collections.abc import Generator
from typing import Any

import gradio as gr

from gen.rpe2d.modes import POSITION_MODES
from ui.app_config import AppConfig
from ui.jobs import Report, follow, sentence
from ui.results import where, zipped
from ui.shelf import PipelineFacts, Shelf, pick, pipeline_facts
from ui.stop import StopButton
from ui.tabs import side_by_side
from ui.tabs.generated import OWN, Generated, generate, request
from workbench.errors import UserError

SIZES = "Height x width, in pixels; several take turns. Others than these can be typed."


def facts(shelf: Shelf, model: str | None) -> PipelineFacts:
    """A model's labels and sizes. Raises UserError for an unknown name."""
    return pipeline_facts(pick(shelf.generators, model, "generator"))


# ---- the page --------------------------------------------------------------------------------------------------------


def build(shelf: Shelf, config: AppConfig) -> None:
    """Lay the tab out."""
    names = list(shelf.generators())
    known = facts(shelf, names[0]) if names else PipelineFacts([], "", [], "")
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            model = gr.Dropdown(names, value=names[0] if names else None, label="Model", allow_custom_value=True)
            label = gr.Dropdown(
                known.labels, value=[], multiselect=True, label="Classes", info="All of them unless chosen.",
                allow_custom_value=True,
            )  # fmt: skip
            sizes = gr.Dropdown(
                size_choices(known), value=known.sizes[:1], multiselect=True, label="Sizes", info=SIZES,
                allow_custom_value=True,
            )  # fmt: skip
            count = gr.Slider(1, config.max_images, 12, step=1, label="Images")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed", info="Image k is drawn from seed + k.")
            with gr.Accordion("More settings", open=False):
                steps = gr.Number(None, label="Steps", info="The model's own unless given; fewer are quicker.")
                guidance = gr.Number(None, label="Guidance", info="1 is off; more is clearer and less varied.")
                positions = gr.Dropdown(
                    [OWN, *POSITION_MODES], value=OWN, label="Positions",
                    info="How a size other than the trained one is placed in the trained positions.",
                )  # fmt: skip
            with gr.Row():
                start = gr.Button("Generate", variant="primary")
                stop = StopButton()
        with gr.Column(scale=3, min_width=280):
            gallery = gr.Gallery(
                label="Generated images: click one for where it came from", columns=4, object_fit="contain",
                height=580, format="png", elem_classes="pixels", elem_id="generated",
            )  # fmt: skip
            summary = gr.Markdown("The images appear here, and are kept as a data set.")
            row = gr.JSON(label="This image", open=True)
            download = gr.DownloadButton("Download the data set", visible=False)
    rows = gr.JSON(visible=False, label="Where each image came from")
    fields = [model, label, sizes, count, steps, guidance, positions, seed]
    _connect(shelf, config, fields, start, stop, [gallery, summary, download, rows])
    model.change(_labels(shelf), model, [label, sizes], api_name="labels")
    gallery.select(_chosen, rows, row, api_visibility="private")
    if names:
        several = [known.sizes[:1], known.sizes[1:3], known.sizes[3:4] or known.sizes[:1]]
        examples = [[names[0], labels, *rest] for labels, *rest in
                    zip(([], known.labels[:2], known.labels[-1:]), several, (12, 8, 4), strict=True)]  # fmt: skip
        gr.Examples(examples, [model, label, sizes, count], label="Examples")
    side_by_side.build(shelf, config, model, label, sizes, guidance, seed)


def size_choices(known: PipelineFacts) -> list[tuple[str, str]]:
    """Sizes to offer, the trained one marked."""
    return [(f"{size} (trained)" if size == known.size else size, size) for size in known.sizes]


def _chosen(rows: list[dict[str, Any]], event: gr.SelectData) -> dict[str, Any]:
    return rows[event.index] if isinstance(event.index, int) and event.index < len(rows) else {}


def _labels(shelf: Shelf) -> Any:
    def labels(model: str) -> tuple[Any, Any]:
        """The classes and the sizes of a generator."""
        known = sentence(lambda: facts(shelf, model), shelf)
        return gr.update(choices=known.labels, value=[]), gr.update(choices=size_choices(known), value=known.sizes[:1])

    return labels


def _connect(
    shelf: Shelf, config: AppConfig, fields: list[Any], start: Any, stop: StopButton, outputs: list[Any]
) -> None:
    def generate_images(
        model: str, labels: list[str], sizes: list[str], num_images: int = 12, steps: float | None = None,
        guidance: float | None = None, positions: str = OWN, seed: int = 0, progress: gr.Progress = gr.Progress(),
    ) -> Generator[Any, None, None]:  # fmt: skip
        """Generate labelled images; returns them, where they are kept, a zip of the data set, and each one's origin."""

        def work(report: Report) -> Generated:
            if num_images > config.max_images:
                raise UserError(f"{num_images} images are too many for one click; ask for {config.max_images} or fewer")
            folder = pick(shelf.generators, model, "generator")
            output = shelf.new_result("generated")
            return generate(
                request(folder, output, labels, sizes, num_images, steps, guidance, positions, seed, config.device),
                report,
            )

        made = yield from follow(work, progress, shelf, stop)
        text = where(shelf, made.folder, f"{len(made.pictures)} images, a data set with the provenance of each.")
        yield made.pictures, text, gr.update(value=zipped(made.folder), visible=True), made.rows

    stop.counts([start.click])
    event = start.click(
        generate_images, fields, outputs, api_name="generate", concurrency_id="model", concurrency_limit=1,
        show_progress_on=outputs[0],
    )  # fmt: skip
    stop.ends([event], outputs[1])
