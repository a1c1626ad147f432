"""Deletion and insertion: how fast the target's probability falls, or rises, as pixels go, or come, in the map's order.

Petsiuk, Das, Saenko, "RISE", 2018, arXiv 1806.07421. What takes the place of a pixel matters: believe a ranking of
methods that holds for all fills.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from explain.fills import FILLS, Pixels
from explain.folding import folded
from explain.maps import Maps
from explain.probability import target_probabilities
from workbench import seeds
from workbench.pixel_classifier import PixelClassifier

TIES = 22  # stream of randomness


@dataclass(frozen=True)
class Erasure:
    """Probability of the target after each of `steps` equal parts of the pixels has gone, or come; first none has."""

    deletion: Float[Tensor, "n points"]
    insertion: Float[Tensor, "n points"]

    @property
    def deletion_auc(self) -> Float[Tensor, " n"]:
        """Area under each deletion curve over [0, 1]: lower is better."""
        return area(self.deletion)

    @property
    def insertion_auc(self) -> Float[Tensor, " n"]:
        """Area under each insertion curve over [0, 1]: higher is better."""
        return area(self.insertion)


def erase(
    classifier: PixelClassifier,
    images: Pixels,
    maps: Maps,
    fill: str = "black",
    steps: int = 25,
    batch_size: int = 64,
    seed: int = 0,
) -> Erasure:
    """Both curves by 2 * (steps + 1) forward passes for each map, in batches across maps and steps.

    `fill` is one of FILLS. Pixels of equal value go in random order, so that a map that says nothing gains nothing.
    """
    images = maps.repeated(images)
    filled, ranks = FILLS[fill](images), removal_order(maps.values, seed)
    number = torch.arange(len(maps) * (steps + 1), device=images.device)
    deletion: list[Tensor] = []
    insertion: list[Tensor] = []
    with folded(classifier, images[:1]):
        for part in number.split(batch_size):
            row, step = part // (steps + 1), part % (steps + 1)
            gone = (ranks[row] * steps < step[:, None, None] * ranks[0].numel())[:, None]
            for curve, inside, outside in ((deletion, filled, images), (insertion, images, filled)):
                shown = torch.where(gone, inside[row], outside[row])
                curve.append(target_probabilities(classifier, shown, maps.targets[row], batch_size))
    curves = [torch.cat(curve).unflatten(0, (len(maps), steps + 1)) for curve in (deletion, insertion)]
    return Erasure(*curves)


def removal_order(values: Float[Tensor, "n h w"], seed: int = 0) -> Int64[Tensor, "n h w"]:
    """Each pixel's place, from 0, when the highest values go first and ties are broken at random."""
    shuffle = torch.randperm(values[0].numel(), generator=seeds.generator(seed, TIES)).to(values.device)
    order = shuffle[values.flatten(1)[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(order.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(values.shape)


def area(curves: Float[Tensor, "n points"]) -> Float[Tensor, " n"]:
    """Area under curves on equally spaced points over [0, 1], by trapezoids."""
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2
