"""Batch norm over the whole global batch: a batch split over processes is normalised as it would be in one.

`torch.nn.SyncBatchNorm` does this on GPUs only.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn


class SumOverProcesses(torch.autograd.Function):
    """The sum of every process's tensor, on each of them; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(x: Tensor) -> Tensor:
    x = x.contiguous().clone()
    distributed.all_reduce(x)
    return x


class SynchronisedBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` of all processes' rows together; every process has as many."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        if not (self.training and distributed.is_initialized() and distributed.get_world_size() > 1):
            return super().forward(x)
        count = len(x) * distributed.get_world_size()
        rows = x.float()
        mean = SumOverProcesses.apply(rows.sum(0)) / count
        centred = rows - mean
        variance = SumOverProcesses.apply(centred.square().sum(0)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Float[Tensor, " d"], unbiased_variance: Float[Tensor, " d"]) -> None:
        """Update the running statistics, which an evaluation normalises with."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
