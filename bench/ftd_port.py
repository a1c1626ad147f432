"""The published procedure of trajectory matching, written plainly: what ours is timed against.

One network at a time, as modules; data through torch's DataLoader, image by image; optimizers as classes; the gradient
of a match by automatic differentiation of all steps. As the papers' released code does, whose text was not used.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from distill import augment

STRATEGY = "color_crop_cutout_flip_scale_rotate"


def loader(images: Tensor, labels: Tensor, batch_size: int) -> "DataLoader[tuple[Tensor, Tensor]]":
    """Shuffled batches on the CPU, collated image by image."""
    return DataLoader(TensorDataset(images.cpu(), labels.cpu()), batch_size, shuffle=True)


def endless(data: "DataLoader[tuple[Tensor, Tensor]]") -> Iterator[tuple[Tensor, Tensor]]:
    """One pass after another."""
    while True:
        yield from data


def augmented(images: Tensor) -> Tensor:
    """A fresh draw from the global stream."""
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    return augment.apply(images, augment.draw(STRATEGY, len(images), tuple(images.shape[-2:]), generator))


def train_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, device: str
) -> None:
    """A step of an expert, or of a network that is evaluated, with the accuracy that the released loops keep."""
    images, labels = augmented(images.to(device)), labels.to(device)
    logits = network(images)
    loss = F.cross_entropy(logits, labels)
    float(loss.item() + (logits.argmax(1) == labels).sum().item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def flat_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, device: str,
    rho: float = 0.05, alpha: float = 0.3,
) -> None:  # fmt: skip
    """A step of GSAM: up the gradient, the gradient there, back, and along both."""
    images, labels = augmented(images.to(device)), labels.to(device)
    parameters = list(network.parameters())
    here = torch.autograd.grad(F.cross_entropy(network(images), labels), parameters)
    norm = torch.stack([g.norm() for g in here]).norm()
    moves = [rho * g / (norm + 1e-12) for g in here]
    with torch.no_grad():
        for p, move in zip(parameters, moves, strict=True):
            p.add_(move)
    nearby = torch.autograd.grad(F.cross_entropy(network(images), labels), parameters)
    inner = sum((a * b).sum() for a, b in zip(here, nearby, strict=True))
    square = sum(b.square().sum() for b in nearby)
    for p, move, a, b in zip(parameters, moves, here, nearby, strict=True):
        p.data.sub_(move)
        p.grad = b - alpha * (a - inner / square * b)
    optimizer.step()
    optimizer.zero_grad()


def match_step(
    network: nn.Module, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, step_size: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The gradient of a match for images and step size, by keeping the graph of all steps."""
    shapes = {name: p.shape for name, p in network.named_parameters()}
    images, step_size = images.clone().requires_grad_(), step_size.clone().requires_grad_()
    theta = start.clone().requires_grad_()
    for _ in range(steps):
        rows = torch.randperm(len(images), device=images.device)
        parts = theta.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
        loss = F.cross_entropy(functional_call(network, named, (augmented(images[rows]),)), labels[rows])
        theta = theta - step_size * torch.autograd.grad(loss, theta, create_graph=True)[0]
    loss = (theta - target).square().sum() / (start - target).square().sum()
    d_images, d_step_size = torch.autograd.grad(loss, [images, step_size])
    return d_images, d_step_size
