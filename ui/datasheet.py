"""`workbench datasheet`: measure a data set against real images, and write the figures into its card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from workbench.command import parse, polite
from workbench.config import Device
from workbench.errors import UserError

if TYPE_CHECKING:
    from workbench.datasets import LabelledImages
    from workbench.fidelity import Fidelity


@dataclass
class DatasheetConfig:
    """Measure how close a data set is to real images, for each image size, and whether it repeats them.

    workbench datasheet data/generated --reference fashion-mnist

    The figures go into the data set's card and dataset.json where it was made here; its images do not change.
    """

    data: tyro.conf.Positional[str]
    """The data set to measure."""
    reference: str
    """Real images of the same classes: a name, a folder, a parquet file. Its test split is compared with, if any."""
    num_images: int = 2000
    """At most so many images of each size."""
    json: bool = False
    """Print the figures as JSON."""
    seed: int = 0
    device: Device = "auto"
    overwrite: bool = False
    """Replace figures that the card already has."""


def datasheet(arguments: Sequence[str] | None = None, program: str = "workbench datasheet") -> None:
    """Measure, print, and write the card."""
    with polite():
        run(parse(DatasheetConfig, arguments, program))


def run(config: DatasheetConfig) -> None:
    """Measure the data set of `config`. Raises UserError when there is nothing to compare."""
    from workbench.dataset_format import read_dataset_info
    from workbench.datasets import load_images
    from workbench.datasheet import update_card

    ours = (Path(config.data) / "dataset.json").exists()
    if ours and read_dataset_info(config.data).get("card", {}).get("measured") and not config.overwrite:
        raise UserError(f"{config.data} has measured figures already; give --overwrite to measure it again")
    results = measure_against(load_images(config.data), config.reference, config.num_images, config.seed, config.device)
    if ours:
        update_card(config.data, measured=card_figures(results))
    if config.json:
        print(json.dumps([result.to_dict() for result in results]))
    else:
        print("\n\n".join(as_text(result) for result in results))


def measure_against(
    generated: LabelledImages, reference: str, num_images: int = 2000, seed: int = 0, device: Device = "auto"
) -> list[Fidelity]:
    """Measure each size of `generated` against the real images of `reference`, through one feature network.

    The network is trained on the reference's training images, at the smallest generated size (64 pixels at most);
    every image is resized to what it sees, whatever its shape.
    """
    from workbench.datasets import available_splits, load_images
    from workbench.devices import choose_device
    from workbench.feature_network import feature_network
    from workbench.fidelity import measure_by_size

    resolution = min(64, *(max(image.shape[1:]) for image in generated.images))
    training = load_images(reference, "train", resolution, channels=generated.channels, crop=False)
    split = next((s for s in ("test", "validation") if s in available_splits(reference)), None)
    held_out = load_images(reference, split, resolution, channels=generated.channels, crop=False) if split else None
    network = feature_network(training, held_out, resolution, device=choose_device(device))
    chosen = generated.select(_first_of_each_size(generated, num_images))
    return measure_by_size(chosen, held_out or training, training, network, seed)


def _first_of_each_size(images: LabelledImages, count: int) -> list[int]:
    seen: Counter[tuple[int, ...]] = Counter()
    chosen = []
    for index, image in enumerate(images.images):
        size = tuple(image.shape[1:])
        seen[size] += 1
        if seen[size] <= count:
            chosen.append(index)
    return chosen


def card_figures(results: Sequence[Fidelity]) -> dict[str, dict[str, Any]]:
    """The measured figures as the data set's card holds them: one entry for each measure and size."""
    figures = {}
    for result in results:
        size = "{}x{}".format(*result.size) if result.size else "all sizes"
        for row in result.rows():
            entry = {"value": row["generated"], "n": result.figures.n, "network": result.network}
            figures[f"{row['measure']}, {size}"] = {**entry, "note": f"real images: {row['real']}; best: {row['best']}"}
    return figures


def as_text(result: Fidelity) -> str:
    """One result as a table for the terminal."""
    rows = [["measure", "generated", "real", "best"], *(list(map(str, row.values())) for row in result.rows())]
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([result.caption, *lines, *(f"note: {warning}" for warning in result.warnings)])
