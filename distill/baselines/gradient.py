"""Gradient matching (DC, and DSA with augmentation): images whose gradients are those of real ones.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", arXiv 2006.05929, algorithm 1; with the same
augmentation on both sides: Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", arXiv
2102.08259.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from distill import augment
from distill.baselines.pixels import Pools, Step
from distill.flat import FlatNetwork

LOOPS = {1: (1, 1), 10: (10, 50), 50: (50, 10)}  # images per class: updates of the images, network epochs after each

Theta = Float[Tensor, " p"]


@dataclass(frozen=True)
class GradientSettings:
    """What one fresh network is used for; the published values."""

    updates: int
    network_epochs: int
    augmentation: str = "none"
    batch_real: int = 256
    batch_train: int = 256
    network_learning_rate: float = 0.01
    network_momentum: float = 0.5


def published_loops(images_per_class: int) -> tuple[int, int]:
    """The published updates with each network and its epochs after each; between published sizes, the next one's."""
    return LOOPS[next((size for size in LOOPS if size >= images_per_class), max(LOOPS))]


def gradient_step(pools: Pools, labels: Int64[Tensor, " n"], network: FlatNetwork, settings: GradientSettings) -> Step:
    """One iteration: a fresh network; match its gradients class by class, train it on the images, and so on."""

    def step(images: nn.Parameter, optimizer: torch.optim.SGD, generator: torch.Generator) -> float:
        theta, velocity = network.initial(generator).to(images.device), torch.zeros((), device=images.device)
        losses = []
        for update in range(settings.updates):
            loss = _mismatch(images, labels, pools, network, theta, settings, generator)
            (images.grad,) = torch.autograd.grad(loss, [images])
            optimizer.step()
            losses.append(loss.item())
            if update < settings.updates - 1:
                theta, velocity = _train(theta, velocity, images.detach(), labels, network, settings, generator)
        return sum(losses) / len(losses)

    return step


def gradient_distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Sum of 1 - cosine over the output rows of every layer's weights; biases and norms do not count (eq. 10)."""
    pairs = [(first[name].flatten(1), second[name].flatten(1)) for name in first if first[name].ndim > 1]
    return torch.stack([(1 - F.cosine_similarity(one, other, eps=1e-6)).sum() for one, other in pairs]).sum()


def _mismatch(
    images: nn.Parameter,
    labels: Int64[Tensor, " n"],
    pools: Pools,
    network: FlatNetwork,
    theta: Theta,
    settings: GradientSettings,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """The distance between the gradients of real and of made images, summed over the classes."""
    theta = theta.detach().requires_grad_()
    losses = []
    for label in range(pools.num_classes):
        real, own = pools.draw(label, settings.batch_real, generator), images[labels == label]
        drawn = augment.draw(settings.augmentation, 1, pools.size, generator)
        (wanted,) = torch.autograd.grad(_loss(network, theta, augment.apply(real, drawn), label), [theta])
        (made,) = torch.autograd.grad(
            _loss(network, theta, augment.apply(own, drawn), label), [theta], create_graph=True
        )
        losses.append(gradient_distance(network.unflatten(made), network.unflatten(wanted)))
    return torch.stack(losses).sum()


def _loss(network: FlatNetwork, theta: Theta, images: Float[Tensor, "b c h w"], label: int) -> Float[Tensor, ""]:
    return F.cross_entropy(network(theta, images), torch.full((len(images),), label, device=images.device))


def _train(
    theta: Theta,
    velocity: Tensor,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    network: FlatNetwork,
    settings: GradientSettings,
    generator: torch.Generator,
) -> tuple[Theta, Theta]:
    """Epochs of the network on the images as they are now, by SGD with momentum."""
    for _ in range(settings.network_epochs):
        for batch in torch.randperm(len(images), generator=generator).to(images.device).split(settings.batch_train):
            drawn = augment.draw(settings.augmentation, len(batch), (images.shape[2], images.shape[3]), generator)
            theta = theta.detach().requires_grad_()
            loss = F.cross_entropy(network(theta, augment.apply(images[batch], drawn)), labels[batch])
            (gradient,) = torch.autograd.grad(loss, [theta])
            velocity = settings.network_momentum * velocity + gradient
            theta = theta - settings.network_learning_rate * velocity
    return theta.detach(), velocity
