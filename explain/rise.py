"""RISE: how likely the target is, on average, when a pixel is seen through a random mask.

Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", 2018, arXiv 1806.07421.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from explain.fills import FILLS
from explain.folding import folded
from explain.maps import Maps
from explain.passes import counted
from explain.probability import target_probabilities
from workbench import seeds
from workbench.pixel_classifier import PixelClassifier
from workbench.progress import progress

MASKS = 20  # stream of randomness


@torch.no_grad()
def rise(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    targets: Int64[Tensor, "b t"],
    *,
    num_masks: int = 1000,
    grid: int = 7,
    keep_probability: float = 0.5,
    fill: str = "black",
    seed: int = 0,
    batch_size: int = 64,
) -> Maps:
    """Maps by `num_masks` forward passes for each image, whatever the number of targets (equation 6).

    A mask is a coarse grid of cells, each kept with probability p, enlarged and moved by less than a cell; `grid` is
    the number of cells along the shorter side, and cells are square. All images see the same masks. The value at a
    pixel is the mean of p(target) * mask / p over the masks. What a mask hides shows `fill`: black as published, or
    the image's mean colour or its blur, where a class owns black pictures.
    """
    height, width = images.shape[-2:]
    hidden = FILLS[fill](images)
    total = images.new_zeros(*targets.shape, height, width)
    at_once = max(1, batch_size // len(images))
    bar = progress(num_masks, "RISE", unit="mask")
    with counted(classifier) as cost, folded(classifier, images[:1]), bar:
        for first in range(0, num_masks, at_once):
            numbers = range(first, min(first + at_once, num_masks))
            masks = random_masks(numbers, (height, width), grid, keep_probability, seed).to(images)
            seen = torch.lerp(hidden[:, None], images[:, None], masks[:, None]).flatten(0, 1)
            wanted = targets.repeat_interleave(len(masks), 0)
            scores = target_probabilities(classifier, seen, wanted, batch_size).view(len(images), len(masks), -1)
            total += torch.einsum("bmt,mhw->bthw", scores, masks)
            bar.update(len(masks))
    return cost.maps(total.flatten(0, 1) / (num_masks * keep_probability), targets)


def random_masks(
    numbers: range, size: tuple[int, int], grid: int, keep_probability: float, seed: int
) -> Float[Tensor, "m h w"]:
    """The masks with these numbers, each from a generator of its own, values in [0, 1]."""
    height, width = size
    side = min(size) / grid
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    step = math.ceil(side)
    masks = []
    for number in numbers:
        generator = seeds.generator(seed, MASKS, number)
        cells = (torch.rand(1, 1, rows + 1, columns + 1, generator=generator) < keep_probability).float()
        large = F.interpolate(cells, ((rows + 1) * step, (columns + 1) * step), mode="bilinear", align_corners=False)
        top, left = torch.randint(0, step, (2,), generator=generator).tolist()
        masks.append(large[0, 0, top : top + height, left : left + width])
    return torch.stack(masks)
