"""Which of many completions to show: likely ones that differ from each other."""

from jaxtyping import Bool, Float, Int64
from torch import Tensor

LIKELY_SHARE = 0.75  # of the candidates, of which those shown are taken


def select(
    ids: Int64[Tensor, "n t"], hole: Bool[Tensor, " t"], log_likelihoods: Float[Tensor, " n"], count: int
) -> list[int]:
    """Numbers of `count` of the candidates, the likeliest first.

    Of the likelier `LIKELY_SHARE` (at least `count`) the likeliest is taken, then again and again the one that is
    farthest from all taken so far, by the number of tokens in the hole that differ; the likelier where these are equal.
    """
    order = log_likelihoods.argsort(descending=True, stable=True)
    order = order[: max(count, round(LIKELY_SHARE * len(order)))]
    differences = hamming(ids[order][:, hole])
    taken = [0]
    while len(taken) < min(count, len(order)):
        nearest = differences[:, taken].min(dim=1).values
        nearest[taken] = -1
        taken.append(int(nearest.argmax()))
    return order[taken].tolist()


def hamming(ids: Int64[Tensor, "n t"]) -> Int64[Tensor, "n n"]:
    """How many tokens differ, for every two rows."""
    return (ids[:, None] != ids[None]).sum(-1)


def mean_log_likelihood(log_likelihood: Float[Tensor, "n t"], hole: Bool[Tensor, " t"]) -> Float[Tensor, " n"]:
    """Of the tokens in the hole."""
    return log_likelihood[:, hole].mean(-1)
