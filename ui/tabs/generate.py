"""Generate: labelled images of any size from a trained generator, kept as a documented data set."""

import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from gen.rpe2d.modes import POSITION_MODES
from gen.sampling_config import SampleConfig
from ui.app_config import AppConfig
from ui.jobs import Report, Stopped, follow, sentence
from ui.results import where, zipped
from ui.shelf import Shelf, pick, pipeline_facts
from workbench.errors import UserError

OWN = "the model's own"
BATCH = 16  # images at a time: a stop waits for one step of so many


@dataclass(frozen=True)
class Generated:
    """A data set, and its images with their captions."""

    folder: Path
    pictures: list[tuple[str, str]]


def request(
    folder: str, output: Path, labels: Sequence[str], sizes: str, num_images: int, steps: float | None,
    guidance: float | None, positions: str, seed: int, device: Any = "auto",
) -> SampleConfig:  # fmt: skip
    """The settings of `workbench sample` that the page's fields are."""
    return SampleConfig(
        pipeline=folder, output=output, num_images=int(num_images), size=sizes.replace(",", " ").split(),
        label=list(labels), num_inference_steps=None if steps is None else int(steps),
        guidance_scale=None if guidance is None else float(guidance),
        position_mode=None if positions == OWN else positions, seed=int(seed), batch_size=BATCH, device=device,
    )  # fmt: skip


def generate(config: SampleConfig, report: Report) -> Generated:
    """Make the data set with the library's sampler; nothing is left of one that is stopped.

    Raises UserError for settings that the generator cannot follow.
    """
    from gen.sample import plan, sample
    from ui.models import generator
    from workbench.files import partial_folder

    config.check()
    pipe = generator(config.pipeline, config.device)
    report(0.0, "drawing noise")
    sizes = {job.size for job in plan(config, pipe)}
    expected = _calls(config, pipe, len(sizes))
    calls = 0

    def callback(pipe: Any, step: int, timestep: Any, tensors: Any) -> None:
        nonlocal calls
        calls += 1
        report(calls / expected, f"step {calls} of {expected}")

    try:
        folder, _ = sample(config, pipe, callback)
    except Stopped:
        shutil.rmtree(partial_folder(config.output), ignore_errors=True)
        raise
    return Generated(folder, pictures_of(folder))


def pictures_of(folder: Path) -> list[tuple[str, str]]:
    """Each image of a generated data set, with its label, size and seed."""
    from workbench.records import read_rows

    return [(str(folder / "train" / row["file_name"]), _caption(row)) for row in read_rows(folder)]


def _caption(row: dict[str, Any]) -> str:
    return f"{row['label_name'] or 'image'}, {row['height']}x{row['width']}, seed {row['seed']}"


def _calls(config: SampleConfig, pipe: Any, num_sizes: int) -> int:
    """How often the sampler will call back, at most."""
    from gen.sampling_request import make_request

    steps = make_request(config, pipe, pipe.native_size).provenance["num_inference_steps"]
    batches = num_sizes * -(-config.num_images // (num_sizes * config.batch_size))
    return int(steps) * batches


def facts(shelf: Shelf, model: str | None) -> tuple[list[str], str]:
    """A model's labels and training size. Raises UserError for an unknown name."""
    return pipeline_facts(pick(shelf.generators, model, "generator"))


# ---- the page --------------------------------------------------------------------------------------------------------


def build(shelf: Shelf, config: AppConfig) -> None:
    """Lay the tab out."""
    names = list(shelf.generators())
    labels, size = facts(shelf, names[0]) if names else ([], "")
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            model = gr.Dropdown(names, value=names[0] if names else None, label="Model", allow_custom_value=True)
            label = gr.Dropdown(
                labels, value=[], multiselect=True, label="Classes", info="All of them unless chosen.",
                allow_custom_value=True,
            )  # fmt: skip
            sizes = gr.Textbox(
                size, label="Sizes", info=_size_info(size), placeholder="32, 48x32 (height x width)"
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
                stop = gr.Button("Stop")
        with gr.Column(scale=3, min_width=280):
            gallery = gr.Gallery(
                label="Generated images", columns=4, object_fit="contain", height=520, format="png",
                elem_classes="pixels", elem_id="generated",
            )  # fmt: skip
            summary = gr.Markdown("The images appear here, and are kept as a data set.")
            download = gr.DownloadButton("Download the data set", visible=False)
    fields = [model, label, sizes, count, steps, guidance, positions, seed]
    _connect(shelf, config, fields, start, stop, [gallery, summary, download])
    model.change(_labels(shelf), model, [label, sizes], api_name="labels")
    if names:
        gr.Examples(
            [[names[0], [], size, 12], [names[0], labels[:2], "32, 48x32", 8], [names[0], labels[-1:], "24x40", 4]],
            [model, label, sizes, count], label="Examples",
        )  # fmt: skip


def _size_info(size: str) -> str:
    own = f"Trained at {size}; other" if size else "Several"
    return f"{own} sizes with commas between take turns."


def _labels(shelf: Shelf) -> Any:
    def labels(model: str) -> tuple[Any, Any]:
        """The classes and the training size of a generator."""
        names, size = sentence(lambda: facts(shelf, model))
        return gr.update(choices=names, value=[]), gr.update(value=size, info=_size_info(size))

    return labels


def _connect(shelf: Shelf, config: AppConfig, fields: list[Any], start: Any, stop: Any, outputs: list[Any]) -> None:
    def generate_images(
        model: str, labels: list[str], sizes: str, num_images: int = 12, steps: float | None = None,
        guidance: float | None = None, positions: str = OWN, seed: int = 0, progress: gr.Progress = gr.Progress(),
    ) -> Generator[Any, None, None]:  # fmt: skip
        """Generate labelled images; returns them, where they are kept, and a zip file of the data set."""

        def work(report: Report) -> Generated:
            if num_images > config.max_images:
                raise UserError(f"{num_images} images are too many for one click; ask for {config.max_images} or fewer")
            folder = pick(shelf.generators, model, "generator")
            output = shelf.new_result("generated")
            return generate(
                request(folder, output, labels, sizes, num_images, steps, guidance, positions, seed, config.device),
                report,
            )

        made = yield from follow(work, progress)
        text = where(shelf, made.folder, f"{len(made.pictures)} images, a data set with the provenance of each.")
        yield made.pictures, text, gr.update(value=zipped(made.folder), visible=True)

    event = start.click(
        generate_images, fields, outputs, api_name="generate", concurrency_id="model", concurrency_limit=1,
        show_progress_on=outputs[0],
    )  # fmt: skip
    stop.click(lambda: "Stopped: nothing is kept.", None, outputs[1], cancels=[event], api_visibility="private")
