"""Several networks at once, each on a batch of its own: their gradients in one pass on a GPU, in threads on a CPU.

On a CPU the grouped convolutions of `vmap` take two to three times as long as one network after the other, because the
first-order backward passes of torch's own kernels are the faster ones. And small batches keep few cores busy: a network
a core is faster than all cores for one network after another.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

Thetas = Float[Tensor, "k p"]
Outputs = tuple[Tensor, ...]
Loss = Callable[..., tuple[Float[Tensor, ""], Outputs]]  # of theta and its batch; beside the loss, what else is wanted


def gradients(loss: Loss, thetas: Thetas, *batches: Tensor) -> tuple[Thetas, Outputs]:
    """The gradient of each network's loss, and the other outputs stacked; the batches' first axis counts networks."""
    return (one_by_one if thetas.device.type == "cpu" else side_by_side)(loss, thetas, *batches)


def one_by_one(loss: Loss, thetas: Thetas, *batches: Tensor) -> tuple[Thetas, Outputs]:
    """`gradients`, each by itself: in as many threads as torch may use, but no more than there are networks."""

    def one(theta: Tensor, *batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        leaf = theta.requires_grad_()
        value, others = loss(leaf, *batch)
        return torch.autograd.grad(value, leaf)[0], [other.detach() for other in others]

    workers = min(len(thetas), torch.get_num_threads())
    spread = map if workers == 1 else _pool(workers, torch.get_num_threads() // workers, os.getpid()).map
    found, outputs = zip(*spread(one, thetas.detach(), *batches), strict=True)
    return torch.stack(found), tuple(map(torch.stack, zip(*outputs, strict=True)))


@lru_cache(maxsize=4)
def _pool(workers: int, threads: int, process: int) -> ThreadPoolExecutor:
    """Threads in which torch uses `threads` more each; a forked process needs its own."""
    return ThreadPoolExecutor(workers, "network", lambda: torch.set_num_threads(threads))


def side_by_side(loss: Loss, thetas: Thetas, *batches: Tensor) -> tuple[Thetas, Outputs]:
    """`gradients` in one pass."""
    leaf = thetas.detach().requires_grad_()
    values, others = vmap(loss)(leaf, *batches)
    return torch.autograd.grad(values.sum(), leaf)[0], tuple(other.detach() for other in others)
