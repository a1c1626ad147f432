"""Which images a step sees: all alike, groups alike, or as many of each group as the smallest has.

SUBG, SUBY, RWG and RWY are from Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy",
2022, arXiv 2110.14503. A weight is the chance of an image to be drawn, up to a common factor.
"""

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor


def reweighted(members: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Every member of a group (or class) weighs 1 / its size, so that all groups are drawn alike."""
    return members.bincount()[members].double().reciprocal()


def subsampled(members: Int64[Tensor, " n"], generator: torch.Generator) -> Float64[Tensor, " n"]:
    """1 for as many random members of each group as the smallest one has, 0 for the others."""
    smallest = int(members.unique(return_counts=True)[1].min())
    weights = torch.zeros(len(members), dtype=torch.float64)
    for group in members.unique():
        mine = (members == group).nonzero()[:, 0]
        weights[mine[torch.randperm(len(mine), generator=generator)[:smallest]]] = 1
    return weights


def shared_out(weights: Float64[Tensor, " n"], synthetic: Bool[Tensor, " n"], share: float) -> Float64[Tensor, " n"]:
    """Weights whose sum over synthetic images is `share` and over real ones the rest; 1 where there is one kind."""
    if bool(synthetic.all()) or not bool(synthetic.any()):
        return weights / weights.sum()
    real = torch.where(synthetic, 0, weights)
    made = torch.where(synthetic, weights, 0)
    return (1 - share) * real / real.sum() + share * made / made.sum()
