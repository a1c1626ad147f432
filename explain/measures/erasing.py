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
from explain.probability import at_once, target_probabilities
from explain.workers import side_by_side
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
    """Both curves, by 2 * (steps - 1) forward passes for each map and 2 for each image, in batches of both curves.

    `fill` is one of FILLS. Pixels of equal value go in random order, so that a map that says nothing gains nothing.
    """
    filled, targets = FILLS[fill](images), maps.targets.view(len(images), -1)
    with folded(classifier, images[:1]):
        whole, nothing = (
            target_probabilities(classifier, x, targets, batch_size).view(-1, 1) for x in (images, filled)
        )
        inside = _inside(classifier, images, filled, maps, steps, batch_size, seed)
    return Erasure(torch.cat([whole, inside[0], nothing], 1), torch.cat([nothing, inside[1], whole], 1))


def _inside(
    classifier: PixelClassifier, images: Pixels, filled: Pixels, maps: Maps, steps: int, batch_size: int, seed: int
) -> Float[Tensor, "2 maps points"]:
    """The points of the curves of deletion and insertion between the first and the last."""
    ranks, points = removal_order(maps.values, seed).int(), torch.arange(len(maps) * (steps - 1), device=images.device)

    def found(part: Int64[Tensor, " m"]) -> Float[Tensor, "2 m"]:
        row, step = part // (steps - 1), part % (steps - 1) + 1
        count = -(-step * ranks[0].numel() // steps)  # of pixels, rounded up
        gone = (ranks[row] < count[:, None, None])[:, None]
        image, other = (x[row // (len(maps) // len(images))] for x in (images, filled))
        shown = torch.cat([torch.where(gone, other, image), torch.where(gone, image, other)])
        return target_probabilities(classifier, shown, maps.targets[row].repeat(2), batch_size).view(2, -1)

    parts = points.split(max(1, at_once(images, batch_size) // 2)) if steps > 1 else ()
    curves = [images.new_empty(2, 0), *side_by_side(found, parts, images.device)]
    return torch.cat(curves, 1).unflatten(1, (len(maps), steps - 1))


def removal_order(values: Float[Tensor, "n h w"], seed: int = 0) -> Int64[Tensor, "n h w"]:
    """Each pixel's place, from 0, when the highest values go first and ties are broken at random."""
    shuffle = torch.randperm(values[0].numel(), generator=seeds.generator(seed, TIES)).to(values.device)
    order = shuffle[values.flatten(1)[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(order.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(values.shape)


def area(curves: Float[Tensor, "n points"]) -> Float[Tensor, " n"]:
    """Area under curves on equally spaced points over [0, 1], by trapezoids."""
    return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2
