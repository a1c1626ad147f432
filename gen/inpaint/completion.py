"""One picture and one mask in, several completions out: the frame of every way to inpaint, whatever paints.

A painter is asked once for all regions of a picture, at its own size, so that a variant is one thing however many holes
the picture has. Colour pictures for a gray painter are filled channel by channel, gray ones for a colour painter as
colours of which the mean is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from diffusers.utils import BaseOutput
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor

from gen.inpaint.pictures import Picture, as_image
from gen.inpaint.regions import Region, Size, cut, find_regions, paste


class Cut(NamedTuple):
    """A region at the painter's size: planes in [-1, 1] that belong together, and their mask, 1 in the hole."""

    images: Float[Tensor, "p c h w"]
    mask: Float[Tensor, "1 1 h w"]


@dataclass(frozen=True)
class Painted:
    """What a painter made of some regions: n variants of each, which differ by their seeds."""

    seeds: Sequence[int]
    images: Sequence[Float[Tensor, "n p c h w"]]  # per region: whole and in [-1, 1]
    structures: Sequence[Float[Tensor, "n p c h w"]] = ()  # per region, where the method has them
    tokens: Sequence[Int64[Tensor, "n p ht wt"]] = ()
    log_likelihoods: Sequence[float] = ()


Painter = Callable[[list[Cut]], Painted]


@dataclass
class Completions(BaseOutput):
    """Pictures whose holes are filled; entry k of each list belongs to variant k, which depends on its seed alone."""

    images: list[Image.Image]
    seeds: list[int]
    structures: list[Image.Image] = field(default_factory=list)  # around the largest hole, at the network's size
    log_likelihoods: list[float] = field(default_factory=list)  # mean over the tokens in the holes, in nats
    tokens: list[list[Int64[Tensor, "p ht wt"]]] = field(default_factory=list)  # of each region
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)  # top, left, height, width of each region
    notes: list[str] = field(default_factory=list)  # what a person should know of the picture


def complete(
    picture: Picture, hole: Bool[np.ndarray, "h w"], native_size: Size, channels: int | None, paint: Painter
) -> Completions:
    """Let `paint` fill the hole, at `native_size` (height, width) and with 1 or 3 `channels` (None: the picture's)."""
    regions = find_regions(hole, native_size)
    cuts = [_cut(picture, hole, region, native_size, channels) for region in regions]
    painted = paint(cuts)
    canvases = [picture.pixels.copy() for _ in painted.seeds]
    for region, images in zip(regions, painted.images, strict=True):
        for canvas, planes in zip(canvases, images, strict=True):
            paste(canvas, merged(planes, len(canvas)), region)
    structures = painted.structures[0] if painted.structures else ()
    return Completions(
        images=[as_image(canvas) for canvas in canvases],
        seeds=list(painted.seeds),
        structures=[as_image(_bytes(merged(planes, len(picture.pixels)))) for planes in structures],
        log_likelihoods=list(painted.log_likelihoods),
        tokens=[list(variant) for variant in zip(*painted.tokens, strict=True)],
        boxes=[region.box for region in regions],
        notes=[*picture.notes, *_notes(picture, channels, regions, native_size)],
    )


def _cut(
    picture: Picture, hole: Bool[np.ndarray, "h w"], region: Region, native_size: Size, channels: int | None
) -> Cut:
    image, mask = cut(picture.pixels, hole, region, native_size)
    return Cut(planes_of(image, channels), mask[None])


def planes_of(image: Float[Tensor, "c h w"], channels: int | None) -> Float[Tensor, "p k h w"]:
    """An image as one or three images of that many channels."""
    if channels in (None, len(image)):
        return image[None]
    return image[:, None] if channels == 1 else image[None].expand(-1, channels, -1, -1)


def merged(planes: Float[Tensor, "p k h w"], channels: int) -> Float[Tensor, "c h w"]:
    """The image of that many channels that `planes_of` was given."""
    image = planes.flatten(0, 1).cpu()
    return image if len(image) == channels else image.mean(0, keepdim=True)


def _bytes(image: Float[Tensor, "c h w"]) -> np.ndarray:
    return ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def _notes(picture: Picture, channels: int | None, regions: list[Region], native_size: Size) -> list[str]:
    """Where a hole is painted at less than the picture's resolution, or without knowledge of colours."""
    shrink = max(region.size[0] / native_size[0] for region in regions)
    notes = {
        f"the hole is painted at 1/{shrink:.3g} of the picture's resolution: the network's is {native_size[0]}x"
        f"{native_size[1]} pixels, and half of each side must be known": shrink > 1,
        "the network has seen gray pictures alone, so each colour channel is filled by itself, and colours in the hole "
        "may not be the picture's": channels == 1 and len(picture.pixels) == 3,
    }  # fmt: skip
    return [note for note, holds in notes.items() if holds]
