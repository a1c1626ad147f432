"""Differentiable siamese augmentation (DSA, Zhao and Bilen, arXiv 2102.08259): a draw, and its pure application.

One family of transformation is drawn for a whole batch, its strength for each image. Apart, so that a gradient which
computes a step again applies what was drawn the first time.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from workbench.errors import UserError

MAX_SHIFT, CUTOUT = 1 / 8, 1 / 2  # of a side
MAX_SCALE = 1.2
MAX_ROTATION = math.radians(15)


class Draw(NamedTuple):
    """A family, and its numbers for each image; one row serves a whole batch."""

    family: str
    values: Float[Tensor, "b _"]

    def to(self, device: torch.device) -> "Draw":
        """The same on a device."""
        return Draw(self.family, self.values.to(device))


def families(strategy: str) -> list[str]:
    """The families of a strategy such as color_crop_flip, or none. Raises UserError for an unknown one."""
    names = [] if strategy == "none" else strategy.split("_")
    for name in names:
        if name not in FAMILIES:
            raise UserError(
                f"there is no augmentation {name!r}; give some of {', '.join(FAMILIES)}, joined by _, or none"
            )
    return names


def draw(strategy: str, batch: int, shape: tuple[int, int], generator: torch.Generator) -> Draw:
    """One of the strategy's families, with what `batch` images of `shape` (height, width) need for it."""
    names = families(strategy)
    if not names:
        return Draw("none", torch.empty(batch, 0))
    family = names[int(torch.randint(len(names), (), generator=generator))]
    return Draw(family, FAMILIES[family][0](torch.rand(batch, 3, generator=generator), shape))


def apply(images: Float[Tensor, "b c h w"], drawn: Draw) -> Float[Tensor, "b c h w"]:
    """The images as drawn; differentiable with respect to them."""
    if drawn.family == "none":
        return images
    values = drawn.values.to(images).expand(len(images), -1)
    return FAMILIES[drawn.family][1](images, values)


# ---- families: from numbers in [0, 1) to what is meant, and from there to images ------------------------------------


def draw_color(u: Tensor, shape: tuple[int, int]) -> Tensor:
    """Brightness added, and factors of saturation and contrast."""
    return torch.stack([u[:, 0] - 0.5, 2 * u[:, 1], u[:, 2] + 0.5], 1)


def color(images: Tensor, values: Tensor) -> Tensor:
    """Brightness, then saturation about the mean over channels, then contrast about the image's mean."""
    brightness, saturation, contrast = (value[:, None, None, None] for value in values.unbind(1))
    images = images + brightness
    gray = images.mean(1, keepdim=True)
    images = (images - gray) * saturation + gray
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * contrast + mean


def draw_crop(u: Tensor, shape: tuple[int, int]) -> Tensor:
    """Whole pixels to move down and right."""
    most = [int(side * MAX_SHIFT + 0.5) for side in shape]
    return torch.stack([(u[:, axis] * (2 * m + 1)).floor() - m for axis, m in enumerate(most)], 1)


def crop(images: Tensor, values: Tensor) -> Tensor:
    """The images moved; what comes in is 0. As products with shift matrices: exact, and quick to differentiate."""
    height, width = images.shape[-2:]
    down, right = _shift_matrices(values[:, 0], height), _shift_matrices(values[:, 1], width)
    return down @ images @ right.mT


def _shift_matrices(shift: Float[Tensor, " b"], side: int) -> Float[Tensor, "b 1 side side"]:
    places = torch.arange(side, device=shift.device)
    return (places[:, None] - shift[:, None, None] == places).to(shift.dtype)[:, None]


def draw_cutout(u: Tensor, shape: tuple[int, int]) -> Tensor:
    """Row and column of the centre of what is cut out."""
    return torch.stack([(u[:, axis] * side).floor() for axis, side in enumerate(shape)], 1)


def cutout(images: Tensor, values: Tensor) -> Tensor:
    """A rectangle of half of each side set to 0; parts of it may lie outside."""
    rows, columns = (_covered(centre, side) for centre, side in zip(values.unbind(1), images.shape[-2:], strict=True))
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _covered(centre: Float[Tensor, " b"], side: int) -> Tensor:
    length = int(side * CUTOUT + 0.5)
    offset = torch.arange(side, device=centre.device) - (centre[:, None] - length // 2)
    return (offset >= 0) & (offset < length)


def draw_flip(u: Tensor, shape: tuple[int, int]) -> Tensor:
    """1 where mirrored."""
    return (u[:, :1] < 0.5).to(u.dtype)


def flip(images: Tensor, values: Tensor) -> Tensor:
    """Mirrored left to right, where drawn."""
    return torch.where(values[:, :, None, None] > 0, images.flip(3), images)


def draw_scale(u: Tensor, shape: tuple[int, int]) -> Tensor:
    """Steps along a row and down a column, in pixels of the source for each pixel."""
    return u[:, :2] * (MAX_SCALE - 1 / MAX_SCALE) + 1 / MAX_SCALE


def scale(images: Tensor, values: Tensor) -> Tensor:
    """Stretched or shrunk about the centre, each side by its own factor."""
    return _affine(images, torch.diag_embed(values))


def draw_rotate(u: Tensor, shape: tuple[int, int]) -> Tensor:
    """Angle in radians."""
    return (2 * u[:, :1] - 1) * MAX_ROTATION


def rotate(images: Tensor, values: Tensor) -> Tensor:
    """Turned about the centre, also where height and width differ."""
    height, width = images.shape[-2:]
    aspect = (height - 1) / max(width - 1, 1)  # the grid's units are half sides
    sin, cos = values[:, 0].sin(), values[:, 0].cos()
    rows = torch.stack([cos, -sin * aspect, sin / aspect if aspect else sin, cos], 1)
    return _affine(images, rows.view(-1, 2, 2))


def _affine(images: Tensor, matrices: Float[Tensor, "b 2 2"]) -> Tensor:
    """Bilinear, about the centre; what comes in is 0."""
    grid = F.affine_grid(F.pad(matrices, (0, 1)), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, align_corners=True)


FAMILIES = {
    "color": (draw_color, color),
    "crop": (draw_crop, crop),
    "cutout": (draw_cutout, cutout),
    "flip": (draw_flip, flip),
    "scale": (draw_scale, scale),
    "rotate": (draw_rotate, rotate),
}
