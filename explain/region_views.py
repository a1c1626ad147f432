"""A region of a picture as people and models are shown it: cut out, outlined, alone, removed; and signed maps.

Letters: (h, w) the image, (a, b) the part of it around the region. Masks are True in the region.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from explain.overlays import as_picture, picture_size
from workbench.pictures import as_colour

MARGIN = 0.12  # around the region's box, as a share of its sides
DIMMED = 0.25  # brightness outside the region
OUTLINE = (255, 220, 0)
AGAINST, NEUTRAL, FOR = (33, 102, 172), (247, 247, 247), (178, 24, 43)  # blue, nearly white, red
OPACITY = 0.65
POINT_COLOURS = {1: (0, 150, 60), -1: (90, 0, 140)}


@dataclass(frozen=True)
class RegionViews:
    """What a describer sees: the region with its surroundings dimmed, the picture with an outline, the picture."""

    region: UInt8[Tensor, "3 a b"]
    outlined: UInt8[Tensor, "3 h w"]
    whole: UInt8[Tensor, "3 h w"]


def region_views(image: UInt8[Tensor, "c h w"], mask: Bool[Tensor, "h w"]) -> RegionViews:
    """All views of a region that is not empty."""
    return RegionViews(highlighted(image, mask), outlined(image, mask), as_colour(image))


def highlighted(image: UInt8[Tensor, "c h w"], mask: Bool[Tensor, "h w"]) -> UInt8[Tensor, "3 a b"]:
    """The region's box and a margin; outside the region gray and dark, not black, which describers would mention."""
    colour = as_colour(image).float()
    dim = (colour.mean(0, keepdim=True) * DIMMED).expand_as(colour)
    shown = torch.where(mask, colour, dim).round().to(torch.uint8)
    top, bottom, left, right = box_with_margin(mask)
    return shown[:, top:bottom, left:right]


def box_with_margin(mask: Bool[Tensor, "h w"]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of the region and its margin, inside the image."""
    sides: list[int] = []
    for axis in (1, 0):
        inside = mask.any(axis).nonzero()[:, 0].tolist()
        first, last, length = inside[0], inside[-1] + 1, mask.shape[1 - axis]
        margin = round(MARGIN * (last - first))
        sides += [max(0, first - margin), min(length, last + margin)]
    return sides[0], sides[1], sides[2], sides[3]


def outlined(image: UInt8[Tensor, "c h w"], mask: Bool[Tensor, "h w"]) -> UInt8[Tensor, "3 h w"]:
    """The picture with a line around the region, just outside it."""
    width = 1 + max(mask.shape) // 320
    grown = F.max_pool2d(mask[None, None].float(), 2 * width + 1, stride=1, padding=width)[0, 0] > 0
    line = torch.tensor(OUTLINE, dtype=torch.uint8)[:, None, None]
    return torch.where(grown & ~mask, line, as_colour(image))


# ---- signed maps -----------------------------------------------------------------------------------------------------


def signed_overlay(
    image: UInt8[Tensor, "c h w"],
    values: Float[Tensor, "h w"],
    points: tuple[tuple[float, float], ...] = (),
    signs: tuple[int, ...] = (),
) -> UInt8[Tensor, "3 height width"]:
    """Red for, blue against, on one scale for both, over the image in gray; points (x, y) as discs with a rim."""
    size = picture_size(image.shape[1], image.shape[2])
    gray = as_picture(image).float().mean(0, keepdim=True)
    large = F.interpolate(values[None, None].float().cpu(), size, mode="nearest-exact")[0, 0]
    shown = torch.lerp(gray.expand(3, -1, -1), signed_colours(large), OPACITY).round().to(torch.uint8)
    scale = size[0] / image.shape[1]
    return _with_points(shown, [(x * scale, y * scale) for x, y in points], signs)


def signed_colours(values: Float[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """Colours in [0, 255]: nearly white at 0, full at the largest absolute value."""
    share = values / values.abs().amax().clamp(min=1e-12)
    neutral, positive, negative = (torch.tensor(c).float()[:, None, None] for c in (NEUTRAL, FOR, AGAINST))
    return torch.where(share >= 0, neutral.lerp(positive, share.abs()), neutral.lerp(negative, share.abs()))


def _with_points(
    picture: UInt8[Tensor, "3 h w"], points: list[tuple[float, float]], signs: tuple[int, ...]
) -> UInt8[Tensor, "3 h w"]:
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    draw, radius = ImageDraw.Draw(canvas), max(4, max(picture.shape) // 60)
    for (x, y), sign in zip(points, signs, strict=True):
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=POINT_COLOURS[1 if sign > 0 else -1], outline="white", width=2)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
