"""How good a small set is: fresh networks trained on it, side by side, and their accuracy on real images.

    accuracies = measure(distilled, network, TrainingRecipe(), real_images, num_networks=5)

The protocol is that of Cazenavette et al. (arXiv 2203.11932), but for one thing: whatever is chosen (an iteration, an
average, a step size) is chosen on held-out training images, and test images are measured once.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object
from jaxtyping import Float, Int64
from torch import Tensor

from distill import augment
from distill.augment import Draw
from distill.config import Precision
from distill.data import as_float
from distill.distilled import Distilled
from distill.ensemble import Loss, Outputs, Thetas, gradients
from distill.evaluation_config import STEP_SIZES, TrainingRecipe
from distill.flat import FlatNetwork
from workbench import seeds
from workbench.datasets import LabelledImages
from workbench.devices import autocast
from workbench.progress import progress

INITIAL, EPOCH = 121, 122  # streams of randomness
DECAY = 0.1  # of the step size in the second half of the epochs
BATCH = 500  # images classified at a time


def measure(
    distilled: Distilled,
    network: FlatNetwork,
    recipe: TrainingRecipe,
    real: LabelledImages,
    num_networks: int,
    seed: int = 0,
    description: str = "evaluating",
) -> list[float]:
    """Accuracies in [0, 1] on real images of fresh networks that were trained on the set.

    Where several processes run, each trains its share of the networks, and all get all accuracies.
    """
    images = distilled.transform.apply(as_float(real)).to(distilled.images.device)
    state = PartialState(cpu=images.device.type == "cpu")
    mine = range(num_networks)[state.process_index :: state.num_processes]
    thetas = train_networks(distilled, network, recipe, num_networks, mine, seed, description)
    found = {k: accuracy(network, theta, images, real.labels) for k, theta in zip(mine, thetas, strict=True)}
    everything = {k: value for part in gather_object([found]) for k, value in part.items()}
    return [everything[k] for k in range(num_networks)]


def best_step_size(
    distilled: Distilled,
    network: FlatNetwork,
    recipe: TrainingRecipe,
    held_out: LabelledImages,
    candidates: Sequence[float] = STEP_SIZES,
    num_networks: int = 2,
    seed: int = 0,
) -> Distilled:
    """The set with the step size that did best on held-out images: for sets whose making does not give one."""

    def score(step_size: float) -> float:
        asked = replace(distilled, step_size=step_size)
        return statistics.mean(measure(asked, network, recipe, held_out, num_networks, seed, f"rate {step_size:g}"))

    return replace(distilled, step_size=max(candidates, key=score))


def train_networks(
    distilled: Distilled,
    network: FlatNetwork,
    recipe: TrainingRecipe,
    num_networks: int,
    numbers: Sequence[int] | None = None,
    seed: int = 0,
    description: str = "training",
) -> Thetas:
    """The weights of fresh networks trained on the set: of all, or of those with the given numbers alone.

    Network k of `num_networks` is the same whichever others are trained with it.
    """
    numbers = range(num_networks) if numbers is None else numbers
    first = torch.zeros(len(numbers), network.size)
    for theta, k in zip(first, numbers, strict=True):
        theta.copy_(network.initial(seeds.generator(seed, INITIAL, k)))
    thetas = first.to(distilled.images.device)
    velocity = torch.zeros_like(thetas)
    loss = cross_entropy(network, recipe.mixed_precision)
    step_size = distilled.step_size if recipe.step_size is None else recipe.step_size
    with progress(recipe.epochs, description, unit="epoch", disable=0 not in numbers) as bar:
        for epoch in range(recipe.epochs if len(numbers) else 0):
            if epoch == recipe.epochs // 2 + 1:
                step_size *= DECAY
                velocity.zero_()
            generator = seeds.generator(seed, EPOCH, epoch)
            for images, labels in batches(distilled, recipe, num_networks, generator, numbers):
                gradient, _ = gradients(loss, thetas, images, labels)
                velocity.mul_(recipe.momentum).add_(gradient).add_(thetas, alpha=recipe.weight_decay)
                thetas.sub_(velocity, alpha=step_size)
            bar.update()
    return thetas


def batches(
    distilled: Distilled,
    recipe: TrainingRecipe,
    num_networks: int,
    generator: torch.Generator,
    numbers: Sequence[int],
) -> Iterator[tuple[Float[Tensor, "k b c h w"], Tensor]]:
    """An epoch of the set for the networks of these numbers: each has its own order, and its own augmentation.

    What is drawn for the others is drawn too, so that a network's batches do not depend on them.
    """
    images, labels = distilled.images, distilled.labels
    targets = labels.softmax(1) if labels.is_floating_point() else labels
    order = torch.rand(num_networks, len(images), generator=generator).argsort(1)
    for rows in order.split(recipe.batch_size, dim=1):
        drawn = augment.draw(recipe.augmentation, rows.numel(), (images.shape[2], images.shape[3]), generator)
        own = Draw(drawn.family, drawn.values.unflatten(0, rows.shape)[list(numbers)].flatten(0, 1))
        chosen = rows[list(numbers)].flatten().to(images.device)
        shape = (len(numbers), rows.shape[1])
        yield augment.apply(images[chosen], own).unflatten(0, shape), targets[chosen].unflatten(0, shape)


def cross_entropy(network: FlatNetwork, precision: Precision = "no") -> Loss:
    """The loss that a network is trained by, with class numbers or probabilities."""

    def loss(theta: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, Outputs]:
        with autocast(precision, theta.device):
            logits = network(theta, images)
        return F.cross_entropy(logits.to(theta.dtype), labels), ()

    return loss


@torch.no_grad()
def accuracy(
    network: FlatNetwork, theta: Float[Tensor, " p"], images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]
) -> float:
    """Share of images, transformed as the training images were, that are classified correctly."""
    found = torch.cat([network(theta, batch).argmax(1).cpu() for batch in images.split(BATCH)])
    return float((found == labels).double().mean())
