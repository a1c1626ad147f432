"""Another background behind the same things: that of a training image whose caption names it.

Where the donor has objects, they and a margin around them are filled with its largest rectangle free of objects,
mirrored in turn, so that nothing of them comes along; donors whose objects lie behind what is kept go first. It suits
textures; scenes with a layout want an editing model (`instruction.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import Tensor

from augment_synth.components import Component
from augment_synth.removal import grown
from workbench import seeds

TEXTURE = "texture"
CANDIDATES, DONORS = 96, 48  # images looked at for a background, and kept
LEAST_SIDE = 1 / 6  # of the picture's shorter side: narrower strips are no texture
MARGIN = 0.05  # of the shorter side, around a donor's objects
CHOICE = 8  # donors among which the seed chooses: those with the least to fill
DONOR_STREAM, CUT_STREAM = 11, 12


@dataclass(frozen=True)
class Swaps:
    """Images whose backgrounds are replaced: what of each is kept, its background's name and the other one's, its seed,
    and its position in the data."""

    images: UInt8[Tensor, "n 3 h w"]
    kept: Bool[Tensor, "n h w"]
    old: Sequence[str]
    new: Sequence[str]
    seeds: Sequence[int]
    positions: Sequence[int]


@runtime_checkable
class Swapper(Protocol):
    """Puts other backgrounds behind what is kept. The placebo's other background is the same one."""

    component: Component

    def can_make(self, background: str) -> bool: ...

    def swap(self, wanted: Swaps) -> UInt8[Tensor, "n 3 h w"]: ...


class Rectangle(NamedTuple):
    """Of an image: first row and column, height, width."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Donor:
    """An image's background: its position, its pixels, where its objects are with a margin, and a cut free of them."""

    position: int
    image: UInt8[Tensor, "3 h w"]
    occupied: Bool[Tensor, "h w"]
    cut: UInt8[Tensor, "3 _ _"]


class TextureSwapper:
    """Backgrounds of training images. The placebo is another one of the same kind, never the image's own."""

    def __init__(self, donors: Mapping[str, Sequence[Donor]]) -> None:
        self.donors = donors
        self.occupied = {name: torch.stack([d.occupied for d in found]) for name, found in donors.items() if found}
        counts = ", ".join(f"{name}: {len(found)}" for name, found in donors.items())
        self.component = Component(
            "swap background", "backgrounds of others", "offline_standin", f"of training images ({counts})"
        )

    @classmethod
    def of(
        cls,
        images: UInt8[Tensor, "n 3 h w"],
        occupied: Bool[Tensor, "n h w"],
        backgrounds: Sequence[str | None],
        seed: int,
    ) -> "TextureSwapper":
        """Donors of every background that an image's caption names; `occupied` is where objects are."""
        found = {}
        for number, name in enumerate(sorted({name for name in backgrounds if name})):
            positions = [position for position, other in enumerate(backgrounds) if other == name]
            order = torch.randperm(len(positions), generator=seeds.generator(seed, DONOR_STREAM, number))
            donors = [_donor(images[p], occupied[p], p) for p in (positions[k] for k in order[:CANDIDATES].tolist())]
            wide = [donor for donor in donors if min(donor.cut.shape[1:]) >= LEAST_SIDE * min(images.shape[-2:])]
            found[name] = sorted(wide, key=lambda donor: -donor.cut[0].numel())[:DONORS]
        return cls(found)

    def can_make(self, background: str) -> bool:
        """Whether there are donors enough: two, since an image never gets its own background."""
        return len(self.donors.get(background, ())) >= 2

    def swap(self, wanted: Swaps) -> UInt8[Tensor, "n 3 h w"]:
        """What is kept on a background of the new kind, one that is not from the image itself."""
        each = zip(wanted.kept, wanted.new, wanted.seeds, wanted.positions, strict=True)
        return composed(wanted.images, wanted.kept, torch.stack([self._background(*one) for one in each]))

    def _background(self, kept: Bool[Tensor, "h w"], name: str, seed: int, position: int) -> UInt8[Tensor, "3 h w"]:
        generator = seeds.generator(seed, CUT_STREAM)
        to_fill = (self.occupied[name] & ~kept).sum((1, 2)).tolist()
        others = [k for k, donor in enumerate(self.donors[name]) if donor.position != position]
        best = sorted(others, key=lambda k: to_fill[k])[:CHOICE]
        donor = self.donors[name][best[int(torch.randint(len(best), (), generator=generator))]]
        offsets = torch.rand(2, generator=generator).tolist()
        filled = mirrored(donor.cut, (kept.shape[0], kept.shape[1]), (offsets[0], offsets[1]))
        return torch.where(donor.occupied, filled, donor.image)


def open_swapper(
    spec: str,
    images: UInt8[Tensor, "n 3 h w"],
    occupied: Bool[Tensor, "n h w"],
    backgrounds: Sequence[str | None],
    seed: int,
    device: str,
) -> Swapper:
    """texture: from these images; else the folder or hub name of an InstructPix2Pix model, or a UserError."""
    if spec == TEXTURE:
        return TextureSwapper.of(images, occupied, backgrounds, seed)
    from augment_synth.instruction import InstructionSwapper

    return InstructionSwapper.load(spec, device)


def composed(
    images: UInt8[Tensor, "n 3 h w"], kept: Bool[Tensor, "n h w"], backgrounds: UInt8[Tensor, "n 3 h w"]
) -> UInt8[Tensor, "n 3 h w"]:
    """What is kept, on other backgrounds.

    A mask's outermost pixels show some of the old background too, which would stay behind as a fringe: they have a
    third of what they had on a straight edge, and less on a corner.
    """
    inside = F.pad(kept[:, None].float(), (1, 1, 1, 1), mode="replicate")
    alpha = (2 * F.avg_pool2d(inside, 3, 1) - 1).clamp(min=0) * kept[:, None]
    return (alpha * images + (1 - alpha) * backgrounds).round().byte()


def _donor(image: UInt8[Tensor, "3 h w"], occupied: Bool[Tensor, "h w"], position: int) -> Donor:
    [wide] = grown(occupied[None], MARGIN)
    top, left, height, width = largest_free(wide)
    return Donor(position, image, wide, image[:, top : top + height, left : left + width])


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
