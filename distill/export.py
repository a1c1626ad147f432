"""A distilled set for people and for other programs: beside the tensors its pictures, as a data set, and its card.

FOLDER/distilled.safetensors, metadata.json   the product: see `distill.product`
FOLDER/png/                                   a view of it: 8-bit copies, as a data set that image folder readers open
FOLDER/grid.png, README.md                    a picture of all, and the card
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from distill.card import render_card
from distill.distilled import Distilled
from distill.evaluation_config import TrainingRecipe
from distill.product import METADATA, Origin, describe, save_distilled
from workbench.errors import UserError
from workbench.files import make_folder, user_errors_for_disk, write_atomic
from workbench.launch import command_line
from workbench.pictures import encode_png, image_grid
from workbench.records import DatasetWriter

PICTURES = "png"
GRID_COLUMNS = 10
CELL = 64  # pixels: smaller images are shown larger by a whole number


def export_distilled(
    distilled: Distilled, recipe: TrainingRecipe, origin: Origin, folder: Path, overwrite: bool = False
) -> None:
    """Write the whole product. Raises UserError where one is there already, unless `overwrite`."""
    if (folder / METADATA).exists() and not overwrite:
        raise UserError(f"{folder} holds a distilled set already; give --overwrite to replace it, or another --output")
    with user_errors_for_disk(folder):
        make_folder(folder)
        (folder / METADATA).unlink(missing_ok=True)
        write_pictures(distilled, origin, folder / PICTURES)
        write_atomic(folder / "grid.png", encode_png(picture(distilled)))
        write_atomic(folder / "README.md", render_card(describe(distilled, recipe, origin)))
    save_distilled(distilled, recipe, origin, folder)


def picture(distilled: Distilled) -> UInt8[Tensor, "3 height width"]:
    """All images, a class a column; with many classes, or unequal ones, class after class."""
    order = distilled.classes.cpu().argsort(stable=True)
    sizes = torch.bincount(distilled.classes.cpu(), minlength=len(distilled.label_names))
    if len(sizes) <= GRID_COLUMNS and bool((sizes == sizes[0]).all()):
        order = order.view(len(sizes), -1).T.flatten()
    pixels = distilled.pixels[order]
    times = max(1, CELL // max(pixels.shape[2:]))
    enlarged = pixels.repeat_interleave(times, 2).repeat_interleave(times, 3)
    return image_grid(enlarged, columns=min(len(sizes), GRID_COLUMNS))


def write_pictures(distilled: Distilled, origin: Origin, folder: Path) -> None:
    """The 8-bit copy as a data set, with soft labels as probabilities; an earlier copy is replaced."""
    pixels, rows = distilled.pixels, _rows(distilled)
    identity = {"distilled_from": origin.data_checksum, "settings": distilled.settings}
    writer = DatasetWriter(folder, distilled.label_names, identity, overwrite=folder.exists())
    for shard in writer.missing_shards(len(rows)):
        part = slice(shard * writer.shard_size, (shard + 1) * writer.shard_size)
        writer.write_shard(shard, pixels[part], rows[part])
    writer.finish(
        {
            "title": f"Pictures of a set distilled from {origin.data}",
            "description": f"{len(rows)} images distilled from {origin.data}, in 8 bits: a view of the float tensors "
            "one folder up, which train better networks.",
            "limits": ["Each picture mixes many real ones, and may show parts of them recognisably."],
        },
        command=command_line(),
        parents=[{"name": origin.data, "checksum": origin.data_checksum}],
    )


def _rows(distilled: Distilled) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"label": int(label), "source": "distilled"} for label in distilled.classes]
    if distilled.labels.is_floating_point():
        for row, probabilities in zip(rows, distilled.labels.double().softmax(1).tolist(), strict=True):
            row["soft_label"] = probabilities
    return rows
