"""Random resize-and-crop with its box, a whole batch at once on its device; the box tells a network what it sees.

The box (top, left, height, width) is in fractions of the whole image, so that (0, 0, 1, 1) means "the whole image" at
every resolution [idea: Hou et al. 2025; the distribution is this project's choice, its parameters are settings].
"""

import math

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor


def draw_boxes(
    batch_size: int, probability: float, max_scale: float, generator: torch.Generator
) -> Float[Tensor, "b 4"]:
    """Boxes of crops at scale s, log-uniform in [1, max_scale] with `probability`, else whole images.

    A crop at scale s shows 1 / s of the height and of the width, anywhere in the image.
    """
    chosen, scale, top, left = torch.rand(4, batch_size, generator=generator, device=generator.device)
    scale = torch.where(chosen < probability, torch.exp(scale * math.log(max_scale)), 1.0)
    side = 1 / scale
    return torch.stack([top * (1 - side), left * (1 - side), side, side], dim=-1)


def closest_crop(stored: tuple[int, int], size: tuple[int, int], max_scale: float, max_upsampling: float) -> float:
    """The largest scale of a crop of `size` (height, width) that magnifies the `stored` pixels no more than allowed.

    A set is stored at one size, that of its largest image at most: a smaller image is magnified by so much more.
    """
    spare = min(have / wanted for have, wanted in zip(stored, size, strict=True))
    return max(1.0, min(max_scale, max_upsampling * spare))


def flip_boxes(boxes: Float[Tensor, "b 4"], flip: Bool[Tensor, " b"]) -> Float[Tensor, "b 4"]:
    """The boxes of the same crops in horizontally mirrored images."""
    top, left, height, width = boxes.unbind(-1)
    return torch.stack([top, torch.where(flip, 1 - left - width, left), height, width], dim=-1)


def resize_and_crop(
    images: UInt8[Tensor, "b c sh sw"], boxes: Float[Tensor, "b 4"], flip: Bool[Tensor, " b"], size: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """Cut each image's own box, mirror it where `flip`, and resize it with antialiasing to `size`; values in [-1, 1].

    One pair of small matrix products for the whole batch: bilinear resampling is linear and separable.
    """
    top, left, height, width = boxes.unbind(-1)
    rows = _resampling(top, height, images.shape[-2], size[0])
    columns = _resampling(left, width, images.shape[-1], size[1])
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    pixels = images.to(rows.dtype) / 127.5 - 1
    return rows[:, None] @ pixels @ columns[:, None].mT


def _resampling(
    start: Float[Tensor, " b"], extent: Float[Tensor, " b"], source: int, target: int
) -> Float[Tensor, "b target source"]:
    """Weights of source pixels in each target pixel: a triangle as wide as the larger of the two pixels (as PIL)."""
    step = (extent * source / target)[:, None, None]  # source pixels per target pixel
    centers = start[:, None, None] * source + (torch.arange(target, device=start.device)[:, None] + 0.5) * step
    distance = (torch.arange(source, device=start.device) + 0.5 - centers).abs()
    weights = (1 - distance / step.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)
