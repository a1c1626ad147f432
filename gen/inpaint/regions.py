"""Holes in a picture of any size: a box around each, cut out at a network's size, and what was painted put back.

A box has the shape of the network's pictures and twice the sides of the hole, so that half of each side is known; a box
for a small hole is as large as the network's pictures, pixel for pixel. Where the picture is too small the box reaches
beyond it, and the picture is mirrored there. Only pixels of the hole are ever written.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt
from scipy import ndimage
from torch import Tensor

CONTEXT = 2.0  # sides of a box, by those of the hole

Size = tuple[int, int]
Box = tuple[int, int, int, int]  # top, left, height and width


@dataclass(frozen=True)
class Region:
    """A box of a picture, which may reach beyond it, and what of it is to be painted."""

    top: int
    left: int
    hole: Bool[np.ndarray, "bh bw"]  # inside the box

    @property
    def size(self) -> Size:
        """Height and width of the box in pixels."""
        return self.hole.shape[0], self.hole.shape[1]

    @property
    def box(self) -> Box:
        """Of the picture."""
        return (self.top, self.left, *self.size)


def find_regions(mask: Bool[np.ndarray, "h w"], native_size: Size) -> list[Region]:
    """Boxes of the aspect of `native_size` (height, width) around all holes, those of the largest holes first.

    A box does all the holes that lie in it as a whole.
    """
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    found = ndimage.find_objects(labels)
    bounds = np.array([[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in found])
    waiting = np.argsort(-(bounds[:, 2:] - bounds[:, :2]).max(axis=1), kind="stable")
    regions = []
    while len(waiting):
        box = _box(bounds[waiting[0]].tolist(), _of(mask), native_size)
        inside = _lie_in(box, bounds[waiting])
        regions.append(_region(labels, box, waiting[inside] + 1))
        waiting = waiting[~inside]
    return regions


def _box(bound: list[int], picture: Size, native_size: Size) -> Box:
    """The box around a hole (top, left, bottom, right)."""
    top, left, bottom, right = bound
    shares = [length / side for length, side in zip((bottom - top, right - left), native_size, strict=True)]
    largest = min(length / side for length, side in zip(picture, native_size, strict=True))  # that fits
    scale = max(min(max(1.0, CONTEXT * max(shares)), largest), max(shares))
    height, width = (max(1, math.ceil(scale * side - 1e-9)) for side in native_size)
    return _start(top, bottom, height, picture[0]), _start(left, right, width, picture[1]), height, width


def _start(first: int, last: int, length: int, limit: int) -> int:
    """Where a box of this length begins: around the middle of the hole, within the picture where it fits."""
    if length >= limit:
        return (limit - length) // 2
    return min(max((first + last - length) // 2, 0), limit - length)


def _lie_in(box: Box, bounds: Int[np.ndarray, "m 4"]) -> Bool[np.ndarray, " m"]:
    """Which holes (top, left, bottom, right) lie in the box as a whole."""
    top, left, height, width = box
    after = (bounds[:, :2] >= [top, left]).all(1)
    return np.asarray(after & (bounds[:, 2:] <= [top + height, left + width]).all(1))


def _region(labels: Int[np.ndarray, "h w"], box: Box, holes: Int[np.ndarray, " some"]) -> Region:
    top, left, height, width = box
    hole = np.zeros((height, width), bool)
    (rows, columns), (inner_rows, inner_columns) = _overlap(box, _of(labels))
    hole[inner_rows, inner_columns] = np.isin(labels[rows, columns], holes)
    return Region(top, left, hole)


def _overlap(box: Box, picture: Size) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a box that is in the picture: its rows and columns there, and in the box."""
    outer, inner = [], []
    for start, length, limit in zip(box[:2], box[2:], picture, strict=True):
        first, last = max(start, 0), min(start + length, limit)
        outer.append(slice(first, last))
        inner.append(slice(first - start, last - start))
    return (outer[0], outer[1]), (inner[0], inner[1])


def cut(
    pixels: UInt[np.ndarray, "c h w"], mask: Bool[np.ndarray, "h w"], region: Region, native_size: Size
) -> tuple[Float[Tensor, "c nh nw"], Float[Tensor, "1 nh nw"]]:
    """A region at the network's size: pixels in [-1, 1], and the mask: 1 where any of the pixels was in a hole.

    All holes in the box count, also those that other regions do.
    """
    rows = _mirrored(region.top, region.size[0], mask.shape[0])
    columns = _mirrored(region.left, region.size[1], mask.shape[1])
    box = torch.from_numpy(pixels[:, rows[:, None], columns].astype(np.float32))
    hole = torch.from_numpy(mask[rows[:, None], columns][None].astype(np.float32))
    image = resized(box, native_size) / (np.iinfo(pixels.dtype).max / 2) - 1
    return image, (resized(hole, native_size) > 1e-6).float()


def paste(pixels: UInt[np.ndarray, "c h w"], painted: Float[Tensor, "c nh nw"], region: Region) -> None:
    """Write a completed region (values in [-1, 1]) into the hole, in place; no other pixel is touched."""
    most = np.iinfo(pixels.dtype).max
    values = ((resized(painted, region.size) + 1) * (most / 2)).round().clamp(0, most)
    outer, inner = _overlap(region.box, (pixels.shape[1], pixels.shape[2]))
    hole, target = region.hole[inner], pixels[:, *outer]
    target[:, hole] = values.numpy().astype(pixels.dtype)[:, *inner][:, hole]


def resized(images: Float[Tensor, "c _h _w"], size: Size) -> Float[Tensor, "c h w"]:
    """Bilinear with antialiasing, as training images are made; pixel for pixel where the size is the same."""
    if images.shape[1:] == size:
        return images
    return F.interpolate(images[None], size, mode="bilinear", antialias=True)[0]


def _mirrored(start: int, length: int, limit: int) -> Int[np.ndarray, " length"]:
    """Positions from `start` on, turned back at the edges of 0 ... limit - 1."""
    places = np.arange(start, start + length) % (2 * limit)
    return np.where(places < limit, places, 2 * limit - 1 - places)


def _of(array: np.ndarray) -> Size:
    return array.shape[0], array.shape[1]
