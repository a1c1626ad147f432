"""Flat minima: the steps that seek them, and measures of how sharp a place is.

`theta` may have leading axes, a row a network; all norms are over one network's parameters.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float16, Int64
from torch import Tensor

from distill.config import Flatness

Theta = Float[Tensor, "*k p"]
Gradient = Callable[[Theta], Theta]

TINY = 1e-12  # keeps the norm of a zero gradient from dividing


def perturbation(theta: Theta, gradient: Theta, rho: float, adaptive: bool = False) -> Theta:
    """The step of length `rho` that raises the loss most, to first order (SAM, arXiv 2010.01412, equation 2).

    `adaptive`: within a ball whose radius along each parameter is rho times its size (ASAM, arXiv 2102.11600).
    """
    scale = theta.square() if adaptive else torch.ones_like(theta)
    length = (scale.sqrt() * gradient).norm(dim=-1, keepdim=True)
    return rho * scale * gradient / (length + TINY)


def flat_direction(
    gradient: Gradient, theta: Theta, flatness: Flatness, rho: float, alpha: float, adaptive: bool
) -> Theta:
    """What a step goes against: the gradient; with sam the one nearby, on the same batch; with gsam that and more.

    GSAM (arXiv 2203.08065, algorithm 1) takes `alpha` of the part of the gradient that is orthogonal to the one nearby
    away, which lowers the gap between the two losses.
    """
    here = gradient(theta)
    if flatness in ("none", "saf"):
        return here
    nearby = gradient(theta + perturbation(theta, here, rho, adaptive))
    if flatness == "sam":
        return nearby
    share = (here * nearby).sum(-1, keepdim=True) / (nearby.square().sum(-1, keepdim=True) + TINY)
    return nearby - alpha * (here - share * nearby)


def trajectory_kl(logits: Float[Tensor, "*b c"], past: Float[Tensor, "*b c"], temperature: float) -> Float[Tensor, ""]:
    """SAF's loss: temperature^2 times the mean of KL(past || now) at that temperature (arXiv 2205.14083)."""
    now, before = F.log_softmax(logits / temperature, -1), F.log_softmax(past / temperature, -1)
    return temperature**2 * (before.exp() * (before - now)).sum(-1).mean()


class PastLogits:
    """SAF's memory: each network's logits of each image in the last epochs, as a ring of float16."""

    def __init__(self, networks: int, images: int, classes: int, lag: int, device: torch.device) -> None:
        self.lag = lag
        self.ring: Float16[Tensor, "slots k n c"] = torch.zeros(
            lag + 1, networks, images, classes, dtype=torch.float16, device=device
        )

    def write(self, epoch: int, indices: Int64[Tensor, "k b"], logits: Float[Tensor, "k b c"]) -> None:
        """Keep these images' logits of this epoch."""
        self.ring[epoch % len(self.ring)].scatter_(1, _columns(indices, logits), logits.half())

    def read(self, epoch: int, indices: Int64[Tensor, "k b"]) -> Float[Tensor, "k b c"]:
        """The logits of `lag` epochs ago; that epoch must have written them."""
        past = self.ring[(epoch - self.lag) % len(self.ring)]
        return past.gather(1, _columns(indices, past)).float()


def _columns(indices: Int64[Tensor, "k b"], like: Tensor) -> Int64[Tensor, "k b c"]:
    return indices[..., None].expand(-1, -1, like.shape[-1])


# ---- measures -------------------------------------------------------------------------------------------------------

LossOf = Callable[[Float[Tensor, " p"]], Float[Tensor, ""]]


def sharpness(loss: LossOf, theta: Float[Tensor, " p"], radius: float) -> float:
    """By how much the loss rises within `radius` along its gradient."""
    leaf = theta.detach().requires_grad_()
    here = loss(leaf)
    (gradient,) = torch.autograd.grad(here, leaf)
    with torch.no_grad():
        return float(loss(theta + perturbation(theta, gradient, radius)) - here)


def top_eigenvalue(loss: LossOf, theta: Float[Tensor, " p"], start: Float[Tensor, " p"], iterations: int = 10) -> float:
    """The eigenvalue of largest size of the loss's Hessian, by power iteration from the direction `start`."""
    leaf = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    product, direction = start, start
    for _ in range(iterations + 1):
        direction = product / (product.norm() + TINY)
        (product,) = torch.autograd.grad(gradient @ direction, leaf, retain_graph=True)
    return float(product @ direction)
