"""What the images begin as: real ones, noise, or another data set's; and the soft labels that they begin with."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from distill.baselines.generated import other_images
from distill.baselines.rivals import Problem, chosen, from_images
from distill.baselines.selection import METHODS, select
from distill.buffer import ExpertBuffer
from distill.config import MatchConfig
from distill.data import Sources, as_float
from distill.distilled import Distilled
from distill.presets import Labels
from workbench import seeds

NOISE, CANDIDATES = 151, 152  # streams of randomness
JUDGES = 10  # experts whose outputs make the soft labels
POOL = 10  # images are chosen among so many times as many, or 100, for each class
CERTAIN = 10.0  # logit of the right class where no judge is right


def initial_set(
    config: MatchConfig, labels: Labels, buffer: ExpertBuffer, judges: list[int], sources: Sources, device: torch.device
) -> Distilled:
    """The images before the first update, class by class, with class numbers, or with logits where labels are learned.

    Raises UserError for a class with too few images, and for a source that is not there.
    """
    problem = Problem(sources.train, buffer.transform, buffer.spec, buffer.settings["augmentation"], device)
    kind, count, judges = _kind(config, labels), config.images_per_class, judges[:JUDGES]
    if kind == "correct":
        began = _correct(problem, buffer, judges, count, config.seed)
    elif kind == "noise":
        began = chosen(problem, "random", count, config.seed)
        noise = torch.randn(began.images.shape, generator=seeds.generator(config.seed, NOISE))
        began = replace(began, images=noise.to(device))
    elif kind in METHODS:
        theta = None if kind == "random" else buffer.theta(judges[0], buffer.epochs)
        began = chosen(problem, kind, count, config.seed, theta)
    else:
        other = other_images(kind, sources.train, count, Path(config.output_dir), config.seed, config.device)
        began = from_images(problem, other, kind, count, config.seed)
    if labels != "learned":
        return began
    return replace(began, labels=mean_logits(buffer, judges, began.images, began.classes)[0])


def _kind(config: MatchConfig, labels: Labels) -> str:
    if config.initial != "auto":
        return config.initial
    return "correct" if labels == "learned" else "random"


def _correct(problem: Problem, buffer: ExpertBuffer, judges: list[int], count: int, seed: int) -> Distilled:
    """Random images that a judge classifies correctly; where a class has too few of them, others too."""
    generator = seeds.generator(seed, CANDIDATES)
    train = problem.train
    sizes = torch.bincount(train.labels, minlength=len(train.label_names))
    most = min(max(POOL * count, 100), int(sizes.min()))
    rows = torch.zeros(len(train), 1)
    pool = train.select(select("random", rows, train.labels, train.label_names, max(most, count), generator))
    images = problem.transform.apply(as_float(pool)).to(problem.device)
    right = mean_logits(buffer, judges, images, pool.labels.to(problem.device))[1].cpu()
    best_first = torch.cat(
        [own[(~right[own]).sort(stable=True).indices][:count] for own in _members(pool.labels, len(train.label_names))]
    )
    return problem.distilled(images[best_first.to(problem.device)], pool.labels[best_first], "correct", seed=seed)


def _members(labels: Int64[Tensor, " n"], num_classes: int) -> list[Int64[Tensor, " _"]]:
    return [(labels == label).nonzero()[:, 0] for label in range(num_classes)]


@torch.no_grad()
def mean_logits(
    buffer: ExpertBuffer, judges: list[int], images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, "n k"], Tensor]:
    """Each image's mean logits over the finished experts that classify it correctly, and whether any does.

    Where none does, logits that are certain of its label (DATM, arXiv 2310.05773, would divide by 0).
    """
    classes = buffer.spec.num_classes
    total = torch.zeros(len(images), classes, device=images.device)
    count = torch.zeros(len(images), 1, device=images.device)
    for number in judges:
        logits = buffer.network(buffer.theta(number, buffer.epochs).to(images.device), images)
        right = (logits.argmax(1) == labels)[:, None]
        total, count = total + logits * right, count + right
    certain = CERTAIN * F.one_hot(labels, classes)
    return torch.where(count > 0, total / count.clamp(min=1), certain), count[:, 0] > 0
