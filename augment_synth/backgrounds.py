"""Another background behind the same things: textures cut from training images whose captions name it.

The cut is the largest rectangle free of objects, mirrored until it fills the picture, so that nothing of the donor's
own objects (not even their outline) comes along. It suits textures; scenes with a layout want an editing model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from augment_synth.components import Component
from workbench import seeds

CANDIDATES, DONORS = 96, 48  # images looked at for a background, and kept
LEAST_SIDE = 1 / 6  # of the picture's shorter side: narrower strips are no texture
DONOR_STREAM, CUT_STREAM = 11, 12


@runtime_checkable
class Swapper(Protocol):
    """Puts other backgrounds behind what is kept."""

    component: Component

    def can_make(self, background: str) -> bool: ...

    def swap(
        self,
        images: UInt8[Tensor, "n 3 h w"],
        kept: Bool[Tensor, "n h w"],
        old: Sequence[str],
        new: Sequence[str],
        seeds: Sequence[int],
        positions: Sequence[int],
    ) -> UInt8[Tensor, "n 3 h w"]: ...


class Rectangle(NamedTuple):
    """Of an image: first row and column, height, width."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Cut:
    """A texture: where it is from, and its pixels."""

    position: int
    pixels: UInt8[Tensor, "3 _ _"]


class TextureSwapper:
    """Backgrounds from training images. The placebo is another cut of the same kind, never of the image itself."""

    def __init__(self, cuts: Mapping[str, Sequence[Cut]]) -> None:
        self.cuts = cuts
        counts = ", ".join(f"{name}: {len(found)}" for name, found in cuts.items())
        self.component = Component(
            "swap background", "texture cuts", "offline_standin", f"of training images ({counts})"
        )

    @classmethod
    def of(
        cls,
        images: UInt8[Tensor, "n 3 h w"],
        occupied: Bool[Tensor, "n h w"],
        backgrounds: Sequence[str | None],
        seed: int,
    ) -> "TextureSwapper":
        """Textures of every background that an image's caption names; `occupied` is where objects are."""
        found = {}
        for number, name in enumerate(sorted({name for name in backgrounds if name})):
            positions = [position for position, other in enumerate(backgrounds) if other == name]
            order = torch.randperm(len(positions), generator=seeds.generator(seed, DONOR_STREAM, number))
            cuts = [_cut(images[p], occupied[p], p) for p in (positions[k] for k in order[:CANDIDATES].tolist())]
            wide = [cut for cut in cuts if min(cut.pixels.shape[1:]) >= LEAST_SIDE * min(images.shape[-2:])]
            found[name] = sorted(wide, key=lambda cut: -cut.pixels[0].numel())[:DONORS]
        return cls(found)

    def can_make(self, background: str) -> bool:
        """Whether there are textures enough: two, since an image never gets its own."""
        return len(self.cuts.get(background, ())) >= 2

    def swap(
        self,
        images: UInt8[Tensor, "n 3 h w"],
        kept: Bool[Tensor, "n h w"],
        old: Sequence[str],
        new: Sequence[str],
        seeds: Sequence[int],
        positions: Sequence[int],
    ) -> UInt8[Tensor, "n 3 h w"]:
        """What is kept on a texture of the new kind, one that is not from the image itself."""
        size = (images.shape[-2], images.shape[-1])
        textures = torch.stack([self._texture(*each, size) for each in zip(new, seeds, positions, strict=True)])
        return torch.where(kept[:, None], images, textures)

    def _texture(self, name: str, seed: int, position: int, size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
        generator = seeds.generator(seed, CUT_STREAM)
        others = [cut for cut in self.cuts[name] if cut.position != position]
        cut = others[int(torch.randint(len(others), (), generator=generator))]
        offsets = torch.rand(2, generator=generator).tolist()
        return mirrored(cut.pixels, size, (offsets[0], offsets[1]))


def _cut(image: UInt8[Tensor, "3 h w"], occupied: Bool[Tensor, "h w"], position: int) -> Cut:
    top, left, height, width = largest_free(occupied)
    return Cut(position, image[:, top : top + height, left : left + width])


def mirrored(
    texture: UInt8[Tensor, "3 _ _"], size: tuple[int, int], offsets: tuple[float, float]
) -> UInt8[Tensor, "3 h w"]:
    """The texture and its mirror images in turn, from an offset (in [0, 1) of a period), at a size."""
    rows, columns = (
        _there_and_back(side, wanted, offset)
        for side, wanted, offset in zip(texture.shape[1:], size, offsets, strict=True)
    )
    return texture[:, rows][:, :, columns]


def _there_and_back(side: int, wanted: int, offset: float) -> Tensor:
    place = (torch.arange(wanted) + int(offset * 2 * side)) % (2 * side)
    return torch.where(place < side, place, 2 * side - 1 - place)


def largest_free(occupied: Bool[Tensor, "h w"]) -> Rectangle:
    """The largest rectangle without an occupied pixel; of no height where there is none.

    Row by row: bars of free pixels above each column, and the largest rectangle in them, found with a stack.
    """
    best = Rectangle(0, 0, 0, 0)
    bars = [0] * occupied.shape[1]
    for row, line in enumerate(occupied.tolist()):
        bars = [0 if taken else bar + 1 for taken, bar in zip(line, bars, strict=True)]
        height, left, width = _largest_under(bars)
        if height * width > best.height * best.width:
            best = Rectangle(row + 1 - height, left, height, width)
    return best


def _largest_under(bars: Sequence[int]) -> tuple[int, int, int]:
    """Height, first column and width of the largest rectangle under bars."""
    best, rising = (0, 0, 0), list[tuple[int, int]]()  # first column and height of bars that may still go on
    for column, bar in enumerate([*bars, 0]):
        first = column
        while rising and rising[-1][1] >= bar:
            first, height = rising.pop()
            if height * (column - first) > best[0] * best[2]:
                best = (height, first, column - first)
        rising.append((first, bar))
    return best
