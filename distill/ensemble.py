"""Several networks at once, each on a batch of its own: their gradients in one pass on a GPU, in turn on a CPU.

On a CPU the grouped convolutions of `vmap` take two to three times as long as one network after the other, because the
first-order backward passes of torch's own kernels are the faster ones.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

Thetas = Float[Tensor, "k p"]
Outputs = tuple[Tensor, ...]
Loss = Callable[..., tuple[Float[Tensor, ""], Outputs]]  # of theta and its batch; beside the loss, what else is wanted


def gradients(loss: Loss, thetas: Thetas, *batches: Tensor) -> tuple[Thetas, Outputs]:
    """The gradient of each network's loss, and the other outputs stacked; the batches' first axis counts networks."""
    return (in_turn if thetas.device.type == "cpu" else side_by_side)(loss, thetas, *batches)


def in_turn(loss: Loss, thetas: Thetas, *batches: Tensor) -> tuple[Thetas, Outputs]:
    """`gradients` by a loop."""
    found, outputs = [], []
    for theta, *batch in zip(thetas.detach(), *batches, strict=True):
        leaf = theta.requires_grad_()
        value, others = loss(leaf, *batch)
        found.append(torch.autograd.grad(value, leaf)[0])
        outputs.append([other.detach() for other in others])
    return torch.stack(found), tuple(map(torch.stack, zip(*outputs, strict=True)))


def side_by_side(loss: Loss, thetas: Thetas, *batches: Tensor) -> tuple[Thetas, Outputs]:
    """`gradients` in one pass."""
    leaf = thetas.detach().requires_grad_()
    values, others = vmap(loss)(leaf, *batches)
    return torch.autograd.grad(values.sum(), leaf)[0], tuple(other.detach() for other in others)
