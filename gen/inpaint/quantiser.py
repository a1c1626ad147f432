"""Vector quantisation with a codebook that follows its inputs by moving averages.

Nearest code and straight-through gradient: van den Oord et al. 2017 (arXiv 1711.00937), the averages: its appendix A.1.
Codes that are hardly used move to where the most distortion is, the utility rule of Patane & Russo 2001 ("The enhanced
LBG algorithm"): our addition, without which a codebook can collapse.

Shapes: B batch, D code dim, H W grid, K codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

EPSILON = 1e-5  # of the smoothed counts


class Quantised(NamedTuple):
    """Codes in place of features."""

    vectors: Float[Tensor, "b d h w"]  # the gradient goes straight through to the features
    ids: Int64[Tensor, "b h w"]
    commitment: Float[Tensor, ""]  # mean squared distance of the features from their codes


class Quantiser(nn.Module):
    """A codebook of `num_codes` codes. In training mode each call notes what it saw, and `update` moves the codes.

    Args:
        decay: of the moving averages, per update.
        dead_code_threshold: a code moves away once it is used less than this share of an even use; 0 for never.
    """

    codebook: Float[Tensor, "k d"]
    average: Float[Tensor, "k stats"]  # per code: count, squared error, and sum of its features
    observed: Float[Tensor, "k stats"]  # the same sums since the last update

    def __init__(self, num_codes: int, code_dim: int, decay: float = 0.99, dead_code_threshold: float = 0.01) -> None:
        super().__init__()
        self.decay, self.dead_code_threshold = decay, dead_code_threshold
        self.register_buffer("codebook", torch.empty(num_codes, code_dim))
        self.register_buffer("average", torch.zeros(num_codes, 2 + code_dim))
        self.register_buffer("observed", torch.zeros(num_codes, 2 + code_dim), persistent=False)
        self.start_from(torch.randn(num_codes, code_dim))

    def start_from(self, codes: Float[Tensor, "k d"]) -> None:
        """Take these codes, each as if it had been used once."""
        self.codebook.copy_(codes)
        self.average.copy_(F.pad(codes, (2, 0)))
        self.average[:, 0] = 1.0

    def forward(self, features: Float[Tensor, "b d h w"]) -> Quantised:
        """The nearest code of each feature, in every mode with the gradient straight through: `z + sg(q - z)`."""
        ids = self.nearest(features)
        codes = self.vectors(ids)
        if self.training:
            self._observe(features.detach().float(), codes, ids)
        features = features.float()
        return Quantised(features + (codes - features).detach(), ids, F.mse_loss(features, codes))

    @torch.no_grad()
    def nearest(self, features: Float[Tensor, "b d h w"]) -> Int64[Tensor, "b h w"]:
        """Ids of the codes nearest to the features."""
        return squared_distances(features, self.codebook).argmin(-1)

    def vectors(self, ids: Int64[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """The codes of these ids."""
        return F.embedding(ids, self.codebook).movedim(-1, 1)

    def perplexity(self) -> Float[Tensor, ""]:
        """How many codes, used evenly, would be as varied as the moving average of the use: 1 to K."""
        share = self.average[:, 0] / self.average[:, 0].sum()
        return torch.special.entr(share).sum().exp()

    def live_codes(self) -> Float[Tensor, ""]:
        """Number of codes in use, by the same average."""
        return (~self._dead()).sum().float()

    def _dead(self) -> Tensor:
        count = self.average[:, 0]
        return count < self.dead_code_threshold * count.mean()

    def _observe(self, features: Tensor, codes: Tensor, ids: Tensor) -> None:
        errors = (features - codes).square().sum(1, keepdim=True)
        rows = torch.cat([torch.ones_like(errors), errors, features], dim=1).movedim(1, -1)
        self.observed.index_add_(0, ids.flatten(), rows.flatten(0, -2))

    @torch.no_grad()
    def update(self, generator: torch.Generator) -> None:
        """Move the codes by what was noted since the last update, on all processes: once a step, after its passes."""
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.observed)
        self.average.lerp_(self.observed, 1 - self.decay)
        self.observed.zero_()
        count, total = self.average[:, :1], self.average[:, 2:]
        smoothed = (count + EPSILON) / (count.sum() + len(count) * EPSILON) * count.sum()
        self.codebook.copy_(total / smoothed)
        self._revive(generator)

    def _revive(self, generator: torch.Generator) -> None:
        """Put each dead code one standard deviation beside a code of large distortion, as if it had been used once."""
        dead = self._dead()
        count, distortion = self.average[:, 0], self.average[:, 1]
        order = distortion.argsort(descending=True)
        donors = order[(dead.cumsum(0) - 1).clamp(min=0) % (~dead).sum().clamp(min=1)]
        deviation = (distortion / count.clamp(min=EPSILON) / self.codebook.shape[1]).sqrt()[donors, None]
        noise = torch.randn(self.codebook.shape, generator=generator, device=generator.device)
        codes = self.codebook[donors] + deviation * noise
        born = F.pad(codes, (2, 0))
        born[:, 0] = 1.0
        self.codebook.copy_(torch.where(dead[:, None], codes, self.codebook))
        self.average.copy_(torch.where(dead[:, None], born, self.average))


def squared_distances(features: Float[Tensor, "b d h w"], codebook: Float[Tensor, "k d"]) -> Float[Tensor, "b h w k"]:
    """Squared distance of every feature from every code, in full fp32 whatever the precision around."""
    with _full_precision(features.device):
        z, codebook = features.float().movedim(1, -1), codebook.float()
        return z.square().sum(-1, keepdim=True) - 2 * (z @ codebook.T) + codebook.square().sum(-1)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32: a rounded distance would choose another code."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
