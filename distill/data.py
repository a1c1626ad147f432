"""The images a set is distilled from: for training, held out for every choice, and for the one test at the end."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from workbench import seeds
from workbench.datasets import LabelledImages, available_splits, load_images, require_classes
from workbench.errors import UserError
from workbench.image_files import Size

VALIDATION, TEST = 101, 102  # streams of randomness
TEST_SHARE = 0.1  # of the training images, where the data has no test split


class Sources(NamedTuple):
    """Real images of one size and one set of classes, uint8."""

    train: LabelledImages
    validation: LabelledImages  # never trained on; empty where all training images are trained on
    test: LabelledImages  # measured once


def load_sources(
    name: str,
    resolution: int | Size | None = None,
    classes: Sequence[str] | None = None,
    *,
    channels: int | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
) -> Sources:
    """Load a data set by name, and hold out a share of each class by the seed.

    Raises UserError unless there are two classes of two labelled images, all of one size.
    """
    everything = load_images(name, "train", resolution, classes, channels=channels)
    require_classes(everything)
    if not isinstance(everything.images, Tensor):
        raise UserError(f"the images of {name} have several sizes; give one with --resolution, such as 32 or 48x32")
    size = (everything.images.shape[2], everything.images.shape[3])
    split = next((split for split in ("test", "validation") if split in available_splits(name)), None)
    if split:
        test = load_images(name, split, size, everything.label_names, channels=everything.channels)
    else:
        everything, test = hold_out(everything, TEST_SHARE, seeds.generator(seed, TEST))
    train, validation = hold_out(everything, validation_share, seeds.generator(seed, VALIDATION))
    return Sources(train, validation, test)


def hold_out(data: LabelledImages, share: float, generator: torch.Generator) -> tuple[LabelledImages, LabelledImages]:
    """What stays, and a share of each class: at least one image of it unless the share is 0, never all."""
    order = torch.randperm(len(data), generator=generator)
    taken = []
    for label in range(len(data.label_names)):
        own = order[data.labels[order] == label]
        taken.append(own[: min(max(round(share * len(own)), int(share > 0)), len(own) - 1)])
    held = torch.zeros(len(data), dtype=torch.bool).index_fill_(0, torch.cat(taken), True)
    return data.select(~held), data.select(held)


def as_float(data: LabelledImages) -> Float[Tensor, "n c h w"]:
    """The images in [0, 1]."""
    assert isinstance(data.images, Tensor)
    return data.images.float() / 255


def checksum(data: LabelledImages) -> str:
    """SHA-256 of pixels, labels and class names: says which images something was made from."""
    assert isinstance(data.images, Tensor)
    digest = hashlib.sha256(repr((tuple(data.images.shape), data.label_names)).encode())
    digest.update(data.images.contiguous().numpy().data)
    digest.update(data.labels.contiguous().numpy().data)
    return digest.hexdigest()
