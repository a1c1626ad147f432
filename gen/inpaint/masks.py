"""Holes to learn from: a mask for each sample, 1 in the hole and 0 where pixels are known.

Rectangles and strokes are those of the paper's code, whose sizes are of 256-pixel images: here all lengths are shares
of the sides, so that a hole looks the same at every size. "half" (one side of the picture is missing) is ours.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gen.inpaint.config import MaskKind

MAX_STROKES, MAX_SEGMENTS, MIN_SEGMENTS = 3, 11, 4
MEAN_ANGLE, ANGLE_RANGE = 2 * math.pi / 5, 2 * math.pi / 15
STROKE_WIDTHS = 12 / 256, 40 / 256  # of the image's mean side
SHRINK = 1 / 16  # of a side, at most: how much a rectangle is smaller than half the side, at each of its ends

LARGEST_HOLE: dict[MaskKind, float] = {"centre": 0.25, "rectangle": 0.25, "strokes": 0.45, "half": 0.5}


def draw_masks(
    kinds: list[MaskKind], batch_size: int, size: tuple[int, int], generator: torch.Generator
) -> Float[Tensor, "b 1 h w"]:
    """One mask per sample for images of `size` (height, width), each of a kind drawn from `kinds`."""
    drawn = torch.stack([DRAW[kind](batch_size, size, generator) for kind in kinds])
    chosen = torch.randint(len(kinds), (batch_size,), generator=generator, device=generator.device)
    return drawn[chosen, torch.arange(batch_size, device=generator.device)][:, None].float()


def _centre(batch_size: int, size: tuple[int, int], generator: torch.Generator) -> Bool[Tensor, "b h w"]:
    """The middle half of each side."""
    quarter = torch.full((2, batch_size), 0.25, device=generator.device)
    return _boxes(quarter, quarter + 0.5, size)


def _rectangles(batch_size: int, size: tuple[int, int], generator: torch.Generator) -> Bool[Tensor, "b h w"]:
    """Half of each side, less what is drawn per axis, anywhere in the image."""
    start, shrink = torch.rand(2, 2, batch_size, generator=generator, device=generator.device)
    start = start / 2
    return _boxes(start + shrink * SHRINK, start + 0.5 - shrink * SHRINK, size)


def _halves(batch_size: int, size: tuple[int, int], generator: torch.Generator) -> Bool[Tensor, "b h w"]:
    """The upper, lower, left or right half."""
    side = torch.randint(4, (batch_size,), generator=generator, device=generator.device)
    start = torch.stack([(side == 1) / 2, (side == 3) / 2])
    stop = torch.stack([1 - (side == 0) / 2, 1 - (side == 2) / 2])
    return _boxes(start, stop, size)


def _boxes(start: Float[Tensor, "2 b"], stop: Float[Tensor, "2 b"], size: tuple[int, int]) -> Bool[Tensor, "b h w"]:
    """Pixels whose centre lies in a box, which is given by shares of the height and of the width."""
    inside = []
    for first, last, side in zip(start, stop, size, strict=True):
        centres = (torch.arange(side, device=start.device) + 0.5) / side
        inside.append((first[:, None] <= centres) & (centres < last[:, None]))
    return inside[0][:, :, None] & inside[1][:, None]


def _strokes(batch_size: int, size: tuple[int, int], generator: torch.Generator) -> Bool[Tensor, "b h w"]:
    """One to three strokes with round joints, each of four to eleven segments that turn back and forth."""
    corners, radii = _draw_strokes(batch_size, size, generator)
    hole = torch.zeros(batch_size, *size, dtype=torch.bool, device=generator.device)
    for segment in range(MAX_SEGMENTS):
        squared = squared_distances_from(corners[:, :, segment], corners[:, :, segment + 1], size)
        hole |= (squared < radii.square()[:, :, None, None]).any(1)
    return hole


def squared_distances_from(
    start: Float[Tensor, "b strokes 2"], stop: Float[Tensor, "b strokes 2"], size: tuple[int, int]
) -> Float[Tensor, "b strokes h w"]:
    """Of each pixel's centre from each segment, whose ends are rows and columns in pixels."""
    rows, columns = (torch.arange(side, device=start.device) + 0.5 for side in size)
    down, right = ((stop - start)[..., axis, None, None] for axis in (0, 1))
    below, beside = rows[:, None] - start[..., 0, None, None], columns - start[..., 1, None, None]
    along = (below * down + beside * right) / (down.square() + right.square()).clamp(min=1e-6)
    along = along.clamp_(0, 1)  # (b, strokes, h, w): where on the segment the nearest point is
    return (below - along * down).square_().add_((beside - along * right).square_())


def _draw_strokes(
    batch_size: int, size: tuple[int, int], generator: torch.Generator
) -> tuple[Float[Tensor, "b strokes corners 2"], Float[Tensor, "b strokes"]]:
    """Corners (row, column) in pixels, the last one repeated where a stroke ends early; and half widths, 0 for none."""
    strokes, device = (batch_size, MAX_STROKES), generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*strokes, *shape, generator=generator, device=device)

    number = torch.arange(MAX_SEGMENTS, device=device)
    count = MIN_SEGMENTS + (uniform(1) * (MAX_SEGMENTS + 1 - MIN_SEGMENTS)).long()
    low, high = MEAN_ANGLE - uniform(1) * ANGLE_RANGE, MEAN_ANGLE + uniform(1) * ANGLE_RANGE
    angle = low + uniform(MAX_SEGMENTS) * (high - low)
    angle = torch.where(number % 2 == 0, -angle, angle)
    mean = math.hypot(*size) / 8
    normal = torch.randn(*strokes, MAX_SEGMENTS, generator=generator, device=device)
    length = (mean + normal * mean / 2).clamp(0, 2 * mean) * (number < count)
    steps = torch.stack([length * angle.sin(), length * angle.cos()], dim=-1)
    sides = torch.tensor(size, device=device)
    corners = [uniform(2) * sides]
    for segment in range(MAX_SEGMENTS):  # a stroke goes on from where the image's edge has stopped it
        corners.append(torch.minimum((corners[-1] + steps[:, :, segment]).clamp(min=0), sides))
    thin, thick = (share * sum(size) / 2 for share in STROKE_WIDTHS)
    width = thin + uniform() * (thick - thin)
    number_of_strokes = 1 + (torch.rand(batch_size, 1, generator=generator, device=device) * MAX_STROKES).long()
    there = torch.arange(MAX_STROKES, device=device) < number_of_strokes
    return torch.stack(corners, dim=2), width / 2 * there


DRAW = {"centre": _centre, "rectangle": _rectangles, "strokes": _strokes, "half": _halves}
