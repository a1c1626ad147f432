"""What a T-TAME run learns from: images without labels, a little larger than they are shown, and some held out."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from explain.layers import Size
from explain.ttame_config import TTameConfig
from workbench import seeds
from workbench.datasets import available_splits
from workbench.errors import UserError
from workbench.image_stream import ImageStream, open_stream
from workbench.pictures import resize_images

CHOICE = 42  # stream of randomness
HELD_OUT_SPLITS = ("validation", "test")
READ_AT_ONCE = 256


@dataclass
class Pictures:
    """uint8 images to learn from, larger than `size` by the margin, and held-out ones of `size`."""

    images: UInt8[Tensor, "n c height width"]
    held_out: UInt8[Tensor, "m c h w"]
    size: Size
    name: str
    notes: tuple[str, ...] = ()

    def to(self, device: torch.device) -> None:
        """Move all images."""
        self.images, self.held_out = self.images.to(device), self.held_out.to(device)

    def draw(self, batch_size: int, random_flip: bool, generator: torch.Generator) -> dict[str, Tensor]:
        """Where each image of a batch is cropped, and whether it is mirrored."""
        spare = [have - shown for have, shown in zip(self.images.shape[-2:], self.size, strict=True)]
        corners = [torch.randint(s + 1, (batch_size,), generator=generator, device=generator.device) for s in spare]
        flip = torch.rand(batch_size, generator=generator, device=generator.device) < 0.5
        return {"top": corners[0], "left": corners[1], "flip": flip & random_flip}

    def shown(self, indices: Int64[Tensor, " b"], draws: dict[str, Tensor]) -> Float[Tensor, "b c h w"]:
        """The drawn views of these images, in [0, 1]."""
        chosen = self.images[indices.to(self.images.device)]
        return cropped(chosen, draws["top"], draws["left"], draws["flip"], self.size).float() / 255


def cropped(
    images: UInt8[Tensor, "b c height width"],
    top: Int64[Tensor, " b"],
    left: Int64[Tensor, " b"],
    flip: Bool[Tensor, " b"],
    size: Size,
) -> UInt8[Tensor, "b c h w"]:
    """The part of `size` of each image that begins at its own corner, mirrored where `flip`."""
    rows, columns = (torch.arange(side, device=images.device) for side in size)
    columns = torch.where(flip[:, None], columns.flip(0), columns) + left[:, None]
    batch, channels = (torch.arange(count, device=images.device) for count in images.shape[:2])
    rows = rows + top[:, None]
    return images[batch[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None]]


# ---- where they come from --------------------------------------------------------------------------------------------


def read_pictures(config: TTameConfig, size: Size, channels: int) -> Pictures:
    """Images of the data set that the settings name; its own validation or test images are held out, or else some.

    Raises UserError for data that cannot be read, or has too few images.
    """
    large = larger(size, config.crop_margin)
    stream = _open(config, "train", large, channels)
    split = next((name for name in HELD_OUT_SPLITS if name in available_splits(config.data)), None)
    chosen = _choose(len(stream), config.max_images, config.seed)
    if split:
        other = _open(config, split, size, channels)
        held_out = _read(other, _choose(len(other), config.validation_images, config.seed))
    else:
        count = min(config.validation_images, len(chosen) // 10)
        held_out = resize_images(_read(stream, chosen[len(chosen) - count :]), size)
        chosen = chosen[: len(chosen) - count]
    images = _read(stream, chosen)
    notes = stream.split.notes
    if len(images) < len(stream):
        notes = (*notes, f"{len(images):,} of the {len(stream):,} images are learned from (--max-images)")
    return _checked(Pictures(images, held_out, size, str(config.data), notes))


def given_pictures(config: TTameConfig, images: UInt8[Tensor, "n c h w"], size: Size) -> Pictures:
    """Images in memory; a few of them are held out."""
    order = torch.randperm(len(images), generator=seeds.generator(config.seed, CHOICE))
    held = order[: min(config.validation_images, len(images) // 10)]
    kept = order[len(held) :][: config.max_images]
    large = larger(size, config.crop_margin)
    return _checked(Pictures(resize_images(images[kept], large), resize_images(images[held], size), size, config.data))


def larger(size: Size, margin: float) -> Size:
    """Height and width with the margin that random crops are taken from."""
    return math.ceil(size[0] * margin - 1e-9), math.ceil(size[1] * margin - 1e-9)


def _open(config: TTameConfig, split: str, size: Size, channels: int) -> ImageStream:
    return open_stream(
        config.data, split, size, config.classes, channels=channels, max_pixels=config.max_image_pixels
    )  # fmt: skip


def _choose(count: int, wanted: int, seed: int) -> np.ndarray:
    """Positions in rising order, as a stream is read."""
    return torch.randperm(count, generator=seeds.generator(seed, CHOICE))[:wanted].sort().values.numpy()


def _read(stream: ImageStream, positions: np.ndarray) -> UInt8[Tensor, "n c h w"]:
    parts = np.array_split(positions, max(1, -(-len(positions) // READ_AT_ONCE)))
    return torch.cat([batch.images for batch in stream.read(parts)])


def _checked(pictures: Pictures) -> Pictures:
    if len(pictures.images) < 2:
        raise UserError(f"{pictures.name} has {len(pictures.images)} images to learn from; give at least a few hundred")
    return pictures
