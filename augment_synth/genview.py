"""GenView's two parts that serve any pair of source and synthetic image (Li et al., 2024, arXiv 2403.12003).

How strongly an image may be varied follows from how much of it is foreground; how good a pair is, from what stayed
alike. Tokens are a frozen encoder's, never those of the network that is being trained. Letters: b images, k tokens,
d their width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

Tokens = Float[Tensor, "b k d"]
BOUNDS = (0.2, 0.4, 0.6, 0.8)  # of the foreground's share; the paper's, closed on the right
LEVEL_STEP, HIGHEST_LEVEL = 100, 400
FOREGROUND = 0.4  # share of all tokens that is foreground
Variation = Callable[[Float[Tensor, "m c h w"], float], Float[Tensor, "m c h w"]]  # images and a strength in (0, 1)


class Foreground(NamedTuple):
    """A direction of token space, and the projection above which a token is foreground."""

    direction: Float[Tensor, " d"]
    threshold: float


def fit_foreground(tokens: Tokens, grid: tuple[int, int]) -> Foreground:
    """The first principal direction of all tokens, so that four tokens in ten are foreground.

    `grid` is the tokens' (height, width). The direction is turned away from the border, where objects seldom are.
    """
    flat = tokens.flatten(0, 1)
    direction = torch.linalg.eigh(torch.cov(flat.T))[1][:, -1]
    projected = (tokens @ direction).unflatten(1, grid)
    border = torch.ones(grid, dtype=torch.bool, device=tokens.device)
    border[1:-1, 1:-1] = False
    if bool(projected[:, border].mean() > projected[:, ~border].mean()):
        direction = -direction
    values = (flat @ direction).sort().values
    return Foreground(direction, float(values[int((1 - FOREGROUND) * (len(values) - 1))]))


def foreground_share(tokens: Tokens, foreground: Foreground) -> Float[Tensor, " b"]:
    """Of each image, the share of tokens that are foreground."""
    return (tokens @ foreground.direction > foreground.threshold).float().mean(1)


def noise_level(share: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
    """0, 100 ... 400, of a diffusion model's 1000 steps: the more foreground, the more may change."""
    return LEVEL_STEP * torch.bucketize(share, torch.tensor(BOUNDS, dtype=share.dtype, device=share.device))


def strength(level: int) -> float:
    """The same for image-to-image pipelines, which take a strength: from 0.2 to 0.7 (our choice)."""
    return 0.2 + 0.5 * level / HIGHEST_LEVEL


def adaptive_views(
    images: Float[Tensor, "b c h w"], share: Float[Tensor, " b"], variation: Variation
) -> Float[Tensor, "b c h w"]:
    """Each image varied as strongly as its foreground allows; `variation` is asked once for each level."""
    views, levels = torch.empty_like(images), noise_level(share)
    for level in levels.unique().tolist():
        views[levels == level] = variation(images[levels == level], strength(level))
    return views


class PairQuality(NamedTuple):
    """Cosines of the foregrounds and of the backgrounds of two views; a good pair is alike in the first alone."""

    foreground: Float[Tensor, " b"]
    background: Float[Tensor, " b"]

    @property
    def quality(self) -> Float[Tensor, " b"]:
        """What is kept with each pair: unlike the weights, it does not depend on the batch."""
        return self.foreground - self.background


def pair_quality(first: Tokens, second: Tokens, direction: Float[Tensor, " d"]) -> PairQuality:
    """The quality of pairs of views, from the tokens of both as they are seen, augmentations included."""
    (near_1, far_1), (near_2, far_2) = (_parts(tokens, direction) for tokens in (first, second))
    return PairQuality(F.cosine_similarity(near_1, near_2), F.cosine_similarity(far_1, far_2))


def _parts(tokens: Tokens, direction: Float[Tensor, " d"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
    """Mean token of the foreground and of the background, each token belonging to both by degrees."""
    projected = tokens @ direction
    low, high = projected.amin(1, keepdim=True), projected.amax(1, keepdim=True)
    near = (projected - low) / (high - low + 1e-7)
    return tuple((tokens * (part / part.sum(1, keepdim=True))[..., None]).sum(1) for part in (near, 1 - near))  # type: ignore[return-value]


@torch.no_grad()
def pair_weights(quality: Float[Tensor, " b"], gamma: float = 1.0) -> Float[Tensor, " b"]:
    """Weights of the pairs' losses: a softmax over the batch, with mean 1."""
    return len(quality) * (gamma * quality).softmax(0)
