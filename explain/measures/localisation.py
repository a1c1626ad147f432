"""Is the map on the object: pointing game, energy inside, and whose object a class's map is on.

For images whose true object masks are known. All values are per map.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import UserError

Values = Float[Tensor, "n h w"]
Masks = Bool[Tensor, "n h w"]


def pointing_game(values: Values, masks: Masks, tolerance: int = 0) -> Float[Tensor, " n"]:
    """1 where the highest value is on the object, else 0; of several highest, the share that is.

    `tolerance` is how many pixels beside the object still count (a square around each of its pixels). Zhang et al.,
    "Top-down Neural Attention by Excitation Backprop", 2016, arXiv 1608.00507.
    """
    side = 2 * tolerance + 1
    grown = F.max_pool2d(masks[:, None].float(), side, 1, tolerance)[:, 0]
    highest = (values == values.amax((1, 2), keepdim=True)).float()
    return (highest * grown).sum((1, 2)) / highest.sum((1, 2))


def energy_inside(values: Values, masks: Masks) -> Float[Tensor, " n"]:
    """Share of the map's sum that is on the object; of a map that is 0 everywhere, the object's share of the image.

    Wang et al., "Score-CAM", 2019, arXiv 1910.01279. Raises `UserError` for negative values.
    """
    if values.amin() < 0:
        raise UserError("energy is a share of a map without negative values: stretch it to [0, 1] first")
    total, inside = values.sum((1, 2)), (values * masks).sum((1, 2))
    return torch.where(total > 0, inside / total.clamp(min=1e-30), masks.float().mean((1, 2)))


def class_discrimination(values: Values, own: Masks, other: Masks) -> Float[Tensor, " n"]:
    """1 where the map is higher on the object of its own class than anywhere on the other object, 0.5 where as high."""
    on_own, on_other = (values.masked_fill(~mask, -torch.inf).amax((1, 2)) for mask in (own, other))
    return (on_own > on_other).float() + 0.5 * (on_own == on_other).float()
