"""How far training on a distilled set strays from an expert: the error that accumulates over segments (FTD, section 3).

A student trains on the set from the expert's initial weights, N steps for every M epochs of the expert. Beside it, in
every segment, another one starts anew from the expert. With eps the first one's error, I what its wrong start costs it,
and delta what the set gets wrong from the right start, eps(t + 1) = eps(t) + I(t) + delta(t + 1) exactly.
"""

from collections.abc import Iterator
from itertools import chain, islice, repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from distill.distilled import Distilled
from distill.ensemble import gradients
from distill.evaluate import BATCH, batches, cross_entropy
from distill.evaluation_config import TrainingRecipe
from distill.flat import FlatNetwork
from workbench import seeds
from workbench.progress import progress

SEGMENT = 171  # stream of randomness

Thetas = Float[Tensor, "experts p"]
Snapshots = Float[Tensor, "experts times p"]  # M epochs apart, the first ones initial


class Steps(NamedTuple):
    """How a student is trained through a segment: as in matching."""

    number: int  # N
    batch_size: int = 0  # 0: all images
    augmentation: str = "none"


class Segment(NamedTuple):
    """The end of one segment; an error is a difference from the expert's weights."""

    student: Thetas
    restarted: Thetas
    expert: Thetas
    error: Thetas  # eps, of the student
    initialisation: Thetas  # I
    matching: Thetas  # delta, the error of the restarted one
    travelled: Float[Tensor, " experts"]  # the expert's distance from its initial weights


def segments(
    distilled: Distilled, network: FlatNetwork, experts: Snapshots, steps: Steps, seed: int = 0
) -> Iterator[Segment]:
    """Students of all experts, segment after segment; the restarted ones see the same batches and augmentation."""
    student = experts[:, 0]
    for number in range(1, experts.shape[1]):
        start, expert = experts[:, number - 1], experts[:, number]
        generator = seeds.generator(seed, SEGMENT, number)
        moved, anew = displacement(torch.cat([student, start]), distilled, network, steps, generator).chunk(2)
        student, restarted = student + moved, start + anew
        yield Segment(
            student, restarted, expert,
            error=student - expert, initialisation=moved - anew, matching=restarted - expert,
            travelled=(expert - experts[:, 0]).norm(dim=1),
        )  # fmt: skip


def displacement(
    thetas: Thetas, distilled: Distilled, network: FlatNetwork, steps: Steps, generator: torch.Generator
) -> Thetas:
    """A(S, n): where plain SGD on the set leads from `thetas`, all of them on the same batches."""
    recipe = TrainingRecipe(batch_size=steps.batch_size or len(distilled.images), augmentation=steps.augmentation)
    epochs = (batches(distilled, recipe, 1, generator, [0]) for _ in repeat(None))
    now, loss = thetas, cross_entropy(network)
    for images, labels in islice(chain.from_iterable(epochs), steps.number):
        shown = (one.expand(len(thetas), *one.shape[1:]) for one in (images, labels))
        gradient, _ = gradients(loss, now, *shown)
        now = now - distilled.step_size * gradient
    return now - thetas


def trajectory_error(
    distilled: Distilled,
    network: FlatNetwork,
    experts: Snapshots,
    steps: Steps,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    seed: int = 0,
) -> list[dict[str, float]]:
    """Means over experts at the end of each segment: norms of the errors, and losses on real (transformed) images.

    Distances are given as shares of the expert's own way as well, because flat and sharp experts go different lengths.
    `loss_gap` is the student's loss less its expert's, `loss_gap_restarted` the restarted one's.
    """
    rows = []
    with progress(experts.shape[1] - 1, "trajectory error", unit="segment") as bar:
        for segment in segments(distilled, network, experts, steps, seed):
            losses = {
                name: torch.stack([_loss(network, theta, images, labels) for theta in getattr(segment, name)])
                for name in ("student", "restarted", "expert")
            }
            rows.append(_row(segment, losses))
            bar.update()
    return rows


def _row(segment: Segment, losses: dict[str, Float[Tensor, " experts"]]) -> dict[str, float]:
    figures = {
        "accumulated": segment.error.norm(dim=1),
        "restarted": segment.matching.norm(dim=1),
        "initialisation": segment.initialisation.norm(dim=1),
        "accumulated_share": segment.error.norm(dim=1) / segment.travelled,
        "restarted_share": segment.matching.norm(dim=1) / segment.travelled,
        "loss_gap": losses["student"] - losses["expert"],
        "loss_gap_restarted": losses["restarted"] - losses["expert"],
        "loss": losses["student"],
        "loss_expert": losses["expert"],
    }
    return {name: value.mean().item() for name, value in figures.items()}


@torch.no_grad()
def _loss(network: FlatNetwork, theta: Float[Tensor, " p"], images: Tensor, labels: Tensor) -> Float[Tensor, ""]:
    """Mean cross-entropy."""
    parts = zip(images.split(BATCH), labels.to(images.device).split(BATCH), strict=True)
    return torch.stack([F.cross_entropy(network(theta, x), y, reduction="sum") for x, y in parts]).sum() / len(images)
