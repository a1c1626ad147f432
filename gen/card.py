"""The model card of a trained generator: how to use it, what it was trained on, how, and how well it did."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

from workbench.files import write_atomic
from workbench.markdown import code_block, training_section

LIMITS = (
    "## Limits\n\nThe images show what the training data shows, with its biases and no more variety than it has. "
    "Measure them before use: `workbench datasheet DATA --reference REAL`."
)


@runtime_checkable
class LearnedFrom(Protocol):
    """The training data, as far as a card speaks of it."""

    name: str
    label_names: tuple[str, ...]

    def __len__(self) -> int: ...


def write_card(
    folder: Path,
    title: str,
    data: LearnedFrom,
    record: Mapping[str, Any],
    use: str | None = None,
    trained: str | None = None,
) -> None:
    """Write README.md into a pipeline's folder, with the run's newest validation pictures where it has some.

    `use` says how what is no generator of labelled images is used, `trained` what several stages were trained on.
    """
    pictures = sorted((folder.parent / "samples").glob("*.png"))
    if pictures:
        shutil.copyfile(pictures[-1], folder / "samples.png")
    settings = record["settings"]
    header = {
        "library_name": "diffusers",
        **({} if use else {"pipeline_tag": "unconditional-image-generation"}),
        "tags": ["workbench", settings["recipe"], "image-generation"],
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {title}",
        trained or _trained(data, settings),
        "![Images generated at the end of training](samples.png)" if pictures else "",
        "## Use\n\n" + (use or _usage(data)),
        training_section(record),
        "" if use else LIMITS,
    ]
    write_atomic(folder / "README.md", "\n\n".join(part for part in parts if part) + "\n")


def _trained(data: LearnedFrom, settings: Mapping[str, Any]) -> str:
    return (
        f"Trained on {len(data):,} images of {data.name} at {settings['resolution']} pixels for "
        f"{settings['max_train_steps']:,} steps of {settings['global_batch_size']} images."
    )


def _usage(data: LearnedFrom) -> str:
    names = ", ".join(data.label_names)
    call = 'import gen\n\npipe = gen.load("THIS_FOLDER")\n'
    call += f'images = pipe(["{data.label_names[0]}"] * 4).images' if names else "images = pipe(num_images=4).images"
    return code_block(call, "python") + (f"\n\nLabels: {names}." if names else "")
