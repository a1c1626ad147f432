"""What takes the place of pixels that are taken away from an image in [0, 1]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pixels = Float[Tensor, "n c h w"]

KERNEL, SIGMA = 11, 5.0  # pixels, of the blur


def _black(images: Pixels) -> Pixels:
    return torch.zeros_like(images)


def _mean(images: Pixels) -> Pixels:
    """Of each image, in each channel."""
    return images.mean((2, 3), keepdim=True).expand_as(images)


def _blur(images: Pixels) -> Pixels:
    """Gaussian; the image goes on as its mirror image."""
    for axis in (2, 3):
        reach = min(KERNEL // 2, images.shape[axis] - 1)
        offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        weights = torch.softmax(-((offsets / SIGMA) ** 2) / 2, 0)
        padding = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        kernel = weights.view(1, 1, *((-1, 1) if axis == 2 else (1, -1))).expand(images.shape[1], -1, -1, -1)
        images = F.conv2d(F.pad(images, padding, mode="reflect"), kernel, groups=images.shape[1])
    return images


FILLS: dict[str, Callable[[Pixels], Pixels]] = {"black": _black, "blur": _blur, "mean": _mean}
