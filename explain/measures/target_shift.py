"""Is the map of another class another map? One that does not care which class it explains explains the image.

The random logit test of Sixt, Granz, Landgraf, "When Explanations Lie", 2020, arXiv 1912.09818.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from explain.maps import Maps
from explain.measures.similarity import rank_correlation
from workbench import seeds
from workbench.errors import UserError

OTHERS = 25  # stream of randomness


def target_shift(
    explainer: Callable[[Int64[Tensor, "b t"]], Maps], targets: Int64[Tensor, "b t"], num_classes: int, seed: int = 0
) -> Float[Tensor, " n"]:
    """Rank correlation of the map of each target with that of another class of the same image, drawn at random.

    `explainer` gives the maps of fixed images for whatever targets it is given. 1 where the class changes nothing; low
    is better. Raises `UserError` for a classifier of one class.
    """
    if num_classes < 2:
        raise UserError("this classifier has one class, so there is no other class to compare with")
    shift = torch.randint(1, num_classes, targets.shape, generator=seeds.generator(seed, OTHERS)).to(targets.device)
    others = (targets + shift) % num_classes
    return rank_correlation(explainer(targets).values, explainer(others).values)
