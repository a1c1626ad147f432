"""How alike two maps of an image are: by rank, and by their strongest pixels."""

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from explain.measures.erasing import removal_order

Values = Float[Tensor, "n h w"]


def rank_correlation(first: Values, second: Values) -> Float[Tensor, " n"]:
    """Spearman's correlation of the values of two maps, in [-1, 1]; 0 where one of them is constant."""
    a, b = (_centred_ranks(values.flatten(1)) for values in (first, second))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)


def _centred_ranks(values: Float[Tensor, "n pixels"]) -> Float[Tensor, "n pixels"]:
    """Ranks, equal for equal values, less their mean."""
    ordered = values.sort(1).values
    below, up_to = (torch.searchsorted(ordered, values.contiguous(), side=side) for side in ("left", "right"))
    ranks = (below + up_to).double()
    return ranks - ranks.mean(1, keepdim=True)


def seed_stability(maps: Sequence[Values], share: float = 0.15, seed: int = 0) -> Float[Tensor, " n"]:
    """Mean IoU of the strongest `share` of pixels over all pairs of maps, such as those of several trainings."""
    masks = [_strongest(values, share, seed) for values in maps]
    pairs = [_iou(first, second) for first, second in combinations(masks, 2)]
    return torch.stack(pairs).mean(0)


def _strongest(values: Values, share: float, seed: int) -> Bool[Tensor, "n h w"]:
    return removal_order(values, seed) < round(share * values[0].numel())


def _iou(first: Bool[Tensor, "n h w"], second: Bool[Tensor, "n h w"]) -> Float[Tensor, " n"]:
    return (first & second).sum((1, 2)) / (first | second).sum((1, 2)).clamp(min=1)
