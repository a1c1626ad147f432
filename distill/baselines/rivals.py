"""The rivals as distilled sets: same images, transform and number of images as what they are compared with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.baselines.distribution import distribution_step
from distill.baselines.gradient import GradientSettings, gradient_step, published_loops
from distill.baselines.pixels import PixelSettings, Pools, Step, optimise
from distill.baselines.selection import select
from distill.data import as_float
from distill.distilled import Distilled
from distill.evaluate import BATCH
from distill.flat import FlatNetwork
from distill.nets import NetworkSpec, build_network
from distill.preprocess import Transform
from workbench import seeds
from workbench.datasets import LabelledImages

CHOICE = 141  # stream of randomness
STEP_SIZE = 0.01  # of sets that bring none; a better one may be looked for on held-out images

Rows = Float[Tensor, "n d"]


@dataclass(frozen=True)
class Problem:
    """What is distilled, and for which network."""

    train: LabelledImages
    transform: Transform
    spec: NetworkSpec
    augmentation: str
    device: torch.device | str = "cpu"

    def images(self) -> Float[Tensor, "n c h w"]:
        """All training images in training space, on the device."""
        return self.transform.apply(as_float(self.train)).to(self.device)

    def distilled(self, images: Tensor, labels: Int64[Tensor, " n"], method: str, **settings: Any) -> Distilled:
        """Images in training space as a set."""
        about = {"method": method, "network": self.spec.to_mapping(), "augmentation": self.augmentation, **settings}
        return Distilled(
            images.to(self.device), labels.to(self.device), STEP_SIZE, self.transform, self.train.label_names, about
        )


def chosen(
    problem: Problem, method: str, images_per_class: int, seed: int = 0, theta: Float[Tensor, " p"] | None = None
) -> Distilled:
    """Real images: random ones, or chosen by the features of the network with weights `theta`, else by their pixels.

    Raises UserError for an unknown method, and for a class that has too few images.
    """
    rows = problem.images().flatten(1).cpu() if theta is None else features(problem, theta)
    return _subset(problem, problem.train, rows, method, images_per_class, seed, method)


def from_images(
    problem: Problem, other: LabelledImages, method: str, images_per_class: int, seed: int = 0
) -> Distilled:
    """As many random images of another data set, such as generated ones of the same classes and size."""
    return _subset(problem, other, torch.zeros(len(other), 1), "random", images_per_class, seed, method)


def dm(
    problem: Problem, images_per_class: int, folder: Path, iterations: int = 20_000, seed: int = 0, **options: Any
) -> Distilled:
    """Distribution matching from random real images, by its published settings; goes on with what `folder` holds."""

    def make_step(pools: Pools, labels: Tensor, network: FlatNetwork) -> Step:
        return distribution_step(pools, labels, network, problem.augmentation, **options)

    rate = 10.0 if images_per_class >= 100 else 1.0
    began = chosen(problem, "random", images_per_class, seed)
    return _optimised(problem, "dm", began, make_step, PixelSettings(iterations, rate, seed=seed), folder)


def dc(
    problem: Problem, images_per_class: int, folder: Path, iterations: int = 1000, seed: int = 0, **options: Any
) -> Distilled:
    """Gradient matching from noise, without augmentation, by its published settings; goes on likewise."""
    began = chosen(problem, "random", images_per_class, seed)
    noise = torch.randn(began.images.shape, generator=seeds.generator(seed, CHOICE))
    began = replace(began, images=noise.to(began.images))
    return _matching_gradients(problem, "dc", began, "none", iterations, seed, folder, options)


def dsa(
    problem: Problem, images_per_class: int, folder: Path, iterations: int = 1000, seed: int = 0, **options: Any
) -> Distilled:
    """Gradient matching from random real images, with one augmentation on both sides; goes on likewise."""
    began = chosen(problem, "random", images_per_class, seed)
    return _matching_gradients(problem, "dsa", began, problem.augmentation, iterations, seed, folder, options)


@torch.no_grad()
def features(problem: Problem, theta: Float[Tensor, " p"]) -> Rows:
    """What the network's head sees of every training image, on the CPU."""
    network, theta = FlatNetwork(build_network(problem.spec)), theta.to(problem.device)
    return torch.cat([network.features(theta, images).cpu() for images in problem.images().split(BATCH)])


# ---- pieces --------------------------------------------------------------------------------------------------------


def _subset(
    problem: Problem, data: LabelledImages, rows: Rows, method: str, images_per_class: int, seed: int, name: str
) -> Distilled:
    generator = seeds.generator(seed, CHOICE)
    own = data.select(select(method, rows, data.labels, data.label_names, images_per_class, generator))
    return problem.distilled(problem.transform.apply(as_float(own)), own.labels, name, seed=seed)


def _matching_gradients(
    problem: Problem, method: str, began: Distilled, augmentation: str, iterations: int, seed: int, folder: Path,
    options: dict[str, Any],
) -> Distilled:  # fmt: skip
    updates, epochs = published_loops(began.images_per_class)
    settings = GradientSettings(**{"updates": updates, "network_epochs": epochs, **options}, augmentation=augmentation)

    def make_step(pools: Pools, labels: Tensor, network: FlatNetwork) -> Step:
        return gradient_step(pools, labels, network, settings)

    return _optimised(problem, method, began, make_step, PixelSettings(iterations, 0.1, seed=seed), folder)


def _optimised(
    problem: Problem,
    method: str,
    began: Distilled,
    make_step: Callable[[Pools, Tensor, FlatNetwork], Step],
    settings: PixelSettings,
    folder: Path,
) -> Distilled:
    pools = Pools(problem.images(), problem.train.labels.to(problem.device), len(problem.train.label_names))
    step = make_step(pools, began.classes, FlatNetwork(build_network(problem.spec)))
    images = optimise(began.images, step, settings, folder / "images.safetensors", method)
    return problem.distilled(images, began.classes, method, seed=settings.seed, iterations=settings.iterations)
