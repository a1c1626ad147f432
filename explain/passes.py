"""What an explanation costs: images shown to the classifier, logits differentiated, seconds."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from explain.maps import Maps


@dataclass
class Cost:
    """Passes so far, counted by hooks: one forward pass is one image, one backward pass the gradient of one image."""

    forward_passes: int = 0
    backward_passes: int = 0
    seconds: float = 0.0

    def maps(
        self, values: Float[Tensor, "n h w"], targets: Int64[Tensor, "..."], raw: Float[Tensor, "n _ _"] | None = None
    ) -> Maps:
        """Maps at this cost, in single precision whatever the classifier computes in."""
        return Maps(values.float(), targets.flatten(), self.forward_passes, self.backward_passes, self.seconds, raw)


@contextmanager
def counted(module: nn.Module) -> Iterator[Cost]:
    """Counts what is done inside the block with a classifier whose output is a tensor; at its end, the seconds."""
    cost = Cost()

    def backward(gradient: Tensor) -> None:
        cost.backward_passes += len(gradient)

    def forward(module: Any, inputs: Any, logits: Tensor) -> None:
        cost.forward_passes += len(logits)
        if logits.requires_grad:
            logits.register_hook(backward)

    hook = module.register_forward_hook(forward)
    began = time.perf_counter()
    try:
        yield cost
        _finish_work(module)
    finally:
        hook.remove()
        cost.seconds = time.perf_counter() - began


def _finish_work(module: nn.Module) -> None:
    """A GPU works on after the call returns."""
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
