"""A hole filled smoothly from its surroundings: what the fast mode looks at instead of the missing pixels.

Structure tokens see far: those beside a hole depend on what is in it. So only tokens at some distance from a hole are
taken from the prefilled image, and that distance is measured with each model.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gen.inpaint.attention import hole_tokens

AGREEMENT = 0.95  # of the tokens that are taken


@torch.no_grad()
def prefilled(images: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
    """Known pixels as they are, others from the averages of known ones at growing scales (push-pull).

    Gortler et al. 1996, "The lumigraph". `mask` is 1 in the hole; without any known pixel the result is 0.
    """
    known = 1 - mask
    return images * known + _push_pull(images * known, known) * mask


def _push_pull(values: Float[Tensor, "b c h w"], weight: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h w"]:
    """Averages of weighted values, and where the weight is below 1, for the rest those of the next coarser scale."""
    own = values / weight.clamp(min=1e-6)
    height, width = weight.shape[-2:]
    if height == 1 and width == 1:
        return own
    window = (min(2, height), min(2, width))
    sums, weights = (F.avg_pool2d(part, window, ceil_mode=True) for part in (values, weight))
    saturated = weights.clamp(min=0.25).reciprocal() * weights  # one known pixel of four is enough
    coarse = _push_pull(sums / weights.clamp(min=1e-6) * saturated, saturated)
    coarse = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return torch.lerp(coarse, own, weight)


def near(hole: Bool[Tensor, "*b ht wt"], distance: int) -> Bool[Tensor, "*b ht wt"]:
    """Tokens of a hole, and those at most `distance` from it in rows and columns."""
    size = 2 * distance + 1
    grown = F.max_pool2d(hole.float().view(-1, 1, *hole.shape[-2:]), size, stride=1, padding=distance)
    return grown.view(hole.shape) > 0


@torch.no_grad()
def trusted_distance(
    tokens_of: Callable[[Tensor], Tensor], images: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"]
) -> int | None:
    """The least distance from a hole beyond which the structure tokens of the prefilled image are the true ones.

    That is, `AGREEMENT` of them over these images. None where there is no such distance within the picture.
    `tokens_of` gives the tokens (b, ht, wt) of images.
    """
    true, seen = tokens_of(images), tokens_of(prefilled(images, mask))
    hole = hole_tokens(mask, (true.shape[1], true.shape[2])).view(true.shape)
    for distance in range(max(true.shape[1:])):
        far = ~near(hole, distance)
        if far.any() and (true == seen)[far].float().mean() >= AGREEMENT:
            return distance
    return None
