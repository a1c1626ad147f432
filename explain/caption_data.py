"""Captioned pictures in memory: of any data set with captions, or of made scenes, and some held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from explain.caption_config import SCENES, CaptionConfig
from workbench import seeds
from workbench.datasets import available_splits, open_split, skip_notes
from workbench.errors import UserError
from workbench.image_files import PixelForm
from workbench.tokens import tokenize

CHOICE = 44  # stream of randomness
HELD_OUT_SPLITS = ("validation", "test")
BRICK_SHARE = 3  # one scene in so many stands on the third background, which no class owns
Words = tuple[str, ...]


@dataclass(frozen=True)
class Captioned:
    """Pictures and the words of their captions."""

    images: UInt8[Tensor, "n 3 h w"]
    words: tuple[Words, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def read_captioned(config: CaptionConfig) -> tuple[Captioned, Captioned]:
    """Pictures to learn from and held-out ones: the data's own validation or test split, or else a tenth.

    Raises UserError for data that cannot be read, or has no captions.
    """
    if config.data == SCENES:
        return scenes(config, "train", config.max_images), scenes(config, "test", config.validation_images)
    train = _read(config, "train", config.max_images)
    split = next((name for name in HELD_OUT_SPLITS if name in available_splits(config.data)), None)
    if split:
        return train, _read(config, split, config.validation_images)
    count = max(1, min(config.validation_images, len(train) // 10))
    if len(train) < 2:
        raise UserError(f"{config.data} has {len(train)} captioned pictures; give at least a few hundred")
    return _part(train, slice(count, None)), _part(train, slice(count))


def scenes(config: CaptionConfig, split: str, count: int) -> Captioned:
    """Items of all ten classes on any background, with nothing that goes together."""
    from workbench.fashion_mnist import LABEL_NAMES
    from workbench.planted import planted

    brick = count // BRICK_SHARE
    parts = [
        planted(
            indices, config.size, seed=config.seed, split=split, plant="none", background=ground, classes=LABEL_NAMES
        )
        for indices, ground in ((range(brick, count), None), (range(brick), "brick"))
        if len(indices)
    ]
    captions = [caption for part in parts for caption in part.captions]
    return Captioned(torch.cat([part.images for part in parts]), tuple(map(tokenize, captions)))


def _read(config: CaptionConfig, split: str, wanted: int) -> Captioned:
    opened = open_split(config.data, split, config.classes)
    order = torch.randperm(len(opened.positions), generator=seeds.generator(config.seed, CHOICE))
    words = opened.tokens(config.caption_column)
    captioned = [position for position in order.tolist() if words[position]]
    chosen = np.sort(captioned[:wanted])
    if not len(chosen):
        raise UserError(f"no picture of {config.data} has a caption in the column {config.caption_column!r}: add some")
    form = PixelForm(config.size, 3, crop=False, max_pixels=config.max_image_pixels)
    decoded = opened.source.pixels(opened.positions[chosen], form)
    assert isinstance(decoded.images, Tensor)  # one size was asked for
    notes = (*opened.notes, *skip_notes(decoded.failures))
    if left_out := len(words) - len(captioned):
        notes = (*notes, f"{left_out:,} pictures without a caption are left out")
    kept = Captioned(decoded.images, tuple(words[position] for position in chosen[decoded.kept]), notes)
    return _part(kept, _shuffled(len(kept), config.seed))


def _part(data: Captioned, chosen: slice | Sequence[int]) -> Captioned:
    positions = torch.arange(len(data))[chosen]
    return Captioned(data.images[positions], tuple(data.words[i] for i in positions.tolist()), data.notes)


def _shuffled(count: int, seed: int) -> list[int]:
    return list(torch.randperm(count, generator=seeds.generator(seed, CHOICE, 1)).tolist())
