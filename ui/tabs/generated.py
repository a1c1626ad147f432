"""What the Generate tab asks of the library: labelled images, kept as a documented data set."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen.sampling_config import SampleConfig
from ui.jobs import Report, Stopped

OWN = "the model's own"
BATCH = 16  # images at a time: a stop waits for one step of so many


@dataclass(frozen=True)
class Generated:
    """A data set, its images with their labels, and where each came from."""

    folder: Path
    pictures: list[tuple[str, str]]
    rows: list[dict[str, Any]]


def request(
    folder: str, output: Path, labels: Sequence[str], sizes: Sequence[str], num_images: int, steps: float | None,
    guidance: float | None, positions: str, seed: int, device: Any = "auto",
) -> SampleConfig:  # fmt: skip
    """The settings of `workbench sample` that the page's fields are."""
    return SampleConfig(
        pipeline=folder, output=output, num_images=int(num_images), size=[size.strip() for size in sizes],
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
    return read_generated(folder)


def read_generated(folder: Path) -> Generated:
    """The images of a generated data set, and the row of each."""
    from workbench.records import read_rows

    rows = list(read_rows(folder))
    pictures = [(str(folder / "train" / row["file_name"]), row["label_name"] or "image") for row in rows]
    return Generated(folder, pictures, rows)


def _calls(config: SampleConfig, pipe: Any, num_sizes: int) -> int:
    """How often the sampler will call back, at most."""
    from gen.sampling_request import make_request

    steps = make_request(config, pipe, pipe.native_size).provenance["num_inference_steps"]
    batches = num_sizes * -(-config.num_images // (num_sizes * config.batch_size))
    return int(steps) * batches
