"""Structural attention: each place reads texture features from places whose structure is alike.

The scores are made from the structure map alone, without a gradient. A place is the best match of itself: with all
places as keys the weights can come close to the identity, and then nothing is borrowed. `figures` says so, and keys
"known" makes what is in the hole read from outside of it.

Shapes: B batch, D code dim, ht wt structure tokens, N = ht wt, F filters, H W features.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gen.inpaint.texture_config import AttentionKeys

Weights = Float[Tensor, "b n n"]  # of each key (last axis) for each query


@torch.no_grad()
def structural_attention(
    structure: Float[Tensor, "b d ht wt"],
    mask: Float[Tensor, "b 1 h w"],
    keys: AttentionKeys = "all",
    fuse: bool = True,
    scale: float = 50.0,
) -> Weights:
    """How much each place reads from each other one; `mask` is 1 in the hole, at any multiple of the map's size.

    Keys "known": what is in the hole reads only from places without a hole, if there is any.
    """
    grid = structure.shape[2], structure.shape[3]
    with torch.autocast(structure.device.type, enabled=False):
        scores = similarity(structure.float())
        if fuse:
            scores = fused(scores, grid)
        scores = scale * scores
        if keys == "known":
            scores = scores.masked_fill(~_may_read(hole_tokens(mask, grid)), -torch.inf)
        return scores.softmax(-1)


def similarity(structure: Float[Tensor, "b d ht wt"]) -> Float[Tensor, "b n n"]:
    """-tanh of the squared distances between 3x3 neighbourhoods, standardised over the keys: in [-1, 1]."""
    patches = F.unfold(structure, 3, padding=1).mT  # (B, N, 9 D)
    exact = "donot_use_mm_for_euclid_dist"  # no differences of large numbers, no TF32
    distances = torch.cdist(patches, patches, compute_mode=exact).square()
    return -standardised(distances).tanh()


def standardised(distances: Float[Tensor, "*rows k"]) -> Float[Tensor, "*rows k"]:
    """Each row less its mean, by its (population) deviation; 0 where all are equal."""
    deviation = distances.std(-1, correction=0, keepdim=True)
    return (distances - distances.mean(-1, keepdim=True)) / deviation.clamp(min=1e-6)


def fused(scores: Float[Tensor, "b n n"], grid: tuple[int, int]) -> Float[Tensor, "b n n"]:
    """Add the scores of the pairs of left and right neighbours, and then those of upper and lower ones.

    As in the paper's code: the neighbours of a row's end are in the next row.
    """
    return _transposed(_with_neighbours(_transposed(_with_neighbours(scores), grid)), grid[::-1])


def _with_neighbours(scores: Float[Tensor, "b n n"]) -> Float[Tensor, "b n n"]:
    """S[i, j] + S[i - 1, j - 1] + S[i + 1, j + 1], zero outside."""
    total = scores.clone()
    total[:, 1:, 1:] += scores[:, :-1, :-1]
    total[:, :-1, :-1] += scores[:, 1:, 1:]
    return total


def _transposed(scores: Float[Tensor, "b n n"], grid: tuple[int, int]) -> Float[Tensor, "b n n"]:
    """The same scores with both axes in the other order: row by row becomes column by column."""
    both = scores.unflatten(2, grid).unflatten(1, grid)  # (B, ht, wt, ht, wt)
    return both.permute(0, 2, 1, 4, 3).flatten(3).flatten(1, 2)


def hole_tokens(mask: Float[Tensor, "b 1 h w"], grid: tuple[int, int]) -> Bool[Tensor, "b n"]:
    """The places of which any pixel is in the hole."""
    return F.adaptive_max_pool2d(mask, grid).flatten(1) > 0


def _may_read(hole: Bool[Tensor, "b n"]) -> Bool[Tensor, "b n n"]:
    """Which key each query may read: in the hole known ones alone, unless all is hole."""
    return ~hole[:, :, None] | ~hole[:, None, :] | hole.all(-1)[:, None, None]


def borrowed(weights: Weights | None, features: Float[Tensor, "b f h w"], patch_size: int) -> Float[Tensor, "b f h w"]:
    """Features made of those of other places; as they are without weights.

    A place of the structure map is a patch of `patch_size` features along each side.
    """
    if weights is None:
        return features
    size = (-1, patch_size)
    values = features.unflatten(3, size).unflatten(2, size).permute(0, 2, 4, 1, 3, 5)  # (B, ht, wt, F, rows, columns)
    read = weights.to(values.dtype) @ values.flatten(3).flatten(1, 2)
    return read.view(values.shape).permute(0, 3, 1, 4, 2, 5).reshape(features.shape)


def attention_figures(weights: Weights, hole: Bool[Tensor, "b n"]) -> dict[str, Float[Tensor, ""]]:
    """Of the places in the hole: their mean weight on themselves, and the mean entropy of their weights in nats."""
    count = hole.sum().clamp(min=1)
    own = weights.diagonal(dim1=1, dim2=2)
    entropy = torch.special.entr(weights).sum(-1)
    return {
        "attention_self_weight": (own * hole).sum() / count,
        "attention_entropy": (entropy * hole).sum() / count,
    }
