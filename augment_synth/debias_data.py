"""A labelled data set with what ASPIRE may use of it: captions, the person's own masks, and groups for measuring."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from augment_synth.groups import GroupedImages, grouped
from workbench.datasets import OpenSplit, load_images, open_split, require_classes
from workbench.errors import UserError
from workbench.pictures import as_colour
from workbench.png_files import open_image

MASK_COLUMN = "mask_file_name"


@dataclass(frozen=True)
class DebiasData:
    """Images of one size in colour, uint8; `masks` are True on the label's object. None: the data say nothing of it."""

    images: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"]
    label_names: tuple[str, ...]
    ids: tuple[str, ...]
    captions: tuple[str, ...] | None
    masks: Bool[Tensor, "n h w"] | None
    attributes: Int64[Tensor, " n"] | None
    attribute_names: tuple[str, ...]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def grouped(self) -> GroupedImages:
        """With groups of label and attribute where there are attributes, else none."""
        if self.attributes is None:
            real = torch.zeros(len(self), dtype=torch.bool)
            return GroupedImages(self.images, self.labels, self.label_names, None, (), real)
        return grouped(self.images, self.labels, self.label_names, self.attributes, self.attribute_names)


def load_data(
    name: str, split: str, size: tuple[int, int], caption_column: str, group_column: str | None,
    attribute_names: Sequence[str] | None = None,
) -> DebiasData:  # fmt: skip
    """One split, squeezed to `size`. `attribute_names`: those of another split, so that groups are numbered alike.

    Raises `UserError` for data that cannot be used: unlabelled images, two classes of one name, a missing group column.
    """
    opened = open_split(name, split)
    loaded = load_images(name, split, size, channels=3, crop=False)
    require_classes(loaded)
    _check_names(loaded.label_names)
    kept = _kept(opened, loaded.file_names, len(loaded))
    captions = _column(opened, caption_column, kept)
    masks = _column(opened, MASK_COLUMN, kept)
    attributes, names = _attributes(opened, group_column, kept, attribute_names)
    return DebiasData(
        images=torch.stack([as_colour(image) for image in loaded.images]), labels=loaded.labels,
        label_names=loaded.label_names, ids=loaded.file_names or tuple(map(str, kept)),
        captions=None if captions is None else tuple(map(_text, captions)),
        masks=None if masks is None else _masks(Path(name), split, masks, size),
        attributes=attributes, attribute_names=names, notes=loaded.notes,
    )  # fmt: skip


def _check_names(names: Sequence[str]) -> None:
    lower = [name.strip().lower() for name in names]
    if doubled := sorted({name for name in lower if lower.count(name) > 1}):
        raise UserError(f"two classes are called {doubled[0]!r}: captions cannot tell them apart; rename one")


def _kept(opened: OpenSplit, file_names: Sequence[str] | None, count: int) -> list[int]:
    """Which of the split's images could be read, in order."""
    if count == len(opened.positions):
        return list(range(count))
    every = opened.source.file_names(opened.positions)
    kept = set(file_names or ())
    return [place for place, name in enumerate(every or ()) if name in kept]


def _column(opened: OpenSplit, name: str, kept: Sequence[int]) -> list[Any] | None:
    try:
        cells = list(opened.source.column(name, opened.positions))
    except UserError:
        return None
    return [cells[place] for place in kept]


def _text(cell: Any) -> str:
    return " with ".join(map(str, cell)) if isinstance(cell, list | tuple) else str(cell or "")


def _masks(root: Path, split: str, names: Sequence[Any], size: tuple[int, int]) -> Bool[Tensor, "n h w"] | None:
    if not all(isinstance(name, str) for name in names):
        return None
    resized = [open_image(root, name, split).convert("L").resize((size[1], size[0]), 0) for name in names]
    return torch.from_numpy(np.stack([np.asarray(mask) > 127 for mask in resized]))


def _attributes(
    opened: OpenSplit, column: str | None, kept: Sequence[int], known: Sequence[str] | None
) -> tuple[Int64[Tensor, " n"] | None, tuple[str, ...]]:
    if column is None:
        return None, ()
    cells = _column(opened, column, kept)
    if cells is None:
        raise UserError(f"the data set has no column {column!r} of groups: name another with --group-column")
    values = [str(cell) for cell in cells]
    names = tuple(dict.fromkeys([*(known or ()), *sorted(set(values))]))
    return torch.tensor([names.index(value) for value in values]), names
