"""The arms of the distillation benchmark: how each makes its set, and what is measured of it.

Experts, sets and half-made runs are kept in the benchmark's folder, so that it can be stopped and gone on with.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from ftd_tasks import Task
from kept import Kept

from distill.baselines import rivals
from distill.baselines.generated import other_images
from distill.baselines.rivals import Problem
from distill.buffer import ExpertBuffer
from distill.config import ExpertsConfig, MatchConfig
from distill.data import checksum
from distill.distilled import Distilled
from distill.evaluate import best_step_size, measure
from distill.evaluation_config import TrainingRecipe
from distill.experts import train_experts
from distill.matching import Matching
from distill.product import METADATA, Origin, read_distilled, save_distilled
from distill.train import score
from distill.trajectory_error import Steps, trajectory_error
from workbench.devices import choose_device

KINDS: dict[str, dict[str, Any]] = {
    "sgd": {"flatness": "none"},
    "flat": {"flatness": "gsam", "rho": 0.05, "alpha": 0.3, "adaptive": False},
    "released": {"flatness": "gsam", "rho": 0.01, "alpha": 0.3, "adaptive": True},
}
SEGMENTS = 10  # of the experts' way, at most, that students are followed along
OVERSAMPLED = 20  # generated images of a class for each that k-means chooses


@dataclass(frozen=True)
class Arm:
    """A row of the table."""

    name: str
    make: Callable[["Bench"], Distilled]
    kind: str = "sgd"  # of experts: those that it matches, or whose features choose images
    matched: bool = False
    needs_generator: bool = False

    def fits(self, task: Task, images_per_class: int) -> bool:
        """Whether the task has this arm."""
        return images_per_class in task.matching and not (self.needs_generator and task.generator is None)


@dataclass(frozen=True)
class Bench:
    """One arm's set for a task, a number of images and a seed."""

    task: Task
    arm: "Arm"
    images_per_class: int
    seed: int
    folder: Path

    @property
    def work(self) -> Path:
        """Where this set is made and kept."""
        name = f"{self.arm.name.replace(' ', '-')}-{self.images_per_class}-{self.seed}"
        return self.folder / self.task.name / name

    @property
    def recipe(self) -> TrainingRecipe:
        """How networks are trained on every arm's set."""
        return TrainingRecipe(epochs=self.task.evaluation_epochs, augmentation=self.task.augmentation)

    @property
    def buffer(self) -> ExpertBuffer:
        """This seed's experts."""
        return ExpertBuffer(experts_folder(self))

    @property
    def problem(self) -> Problem:
        """The real images in the experts' space."""
        buffer = self.buffer
        sources = sources_of(buffer.folder)
        device = choose_device(self.task.device)  # type: ignore[arg-type]
        return Problem(sources.train, buffer.transform, buffer.spec, self.task.augmentation, device)


@cache
def sources_of(experts: Path) -> Any:
    """The real images, read once."""
    return ExpertBuffer(experts).sources()


# ---- making --------------------------------------------------------------------------------------------------------


def experts_folder(bench: Bench) -> Path:
    """Train the seed's experts of the arm's kind, or find them."""
    task, folder = bench.task, bench.folder / bench.task.name / f"experts-{bench.arm.kind}-{bench.seed}"
    config = ExpertsConfig(
        data=task.data, output_dir=folder, width=task.width, depth=task.depth, augmentation=task.augmentation,
        validation_share=task.validation_share, preprocessing=task.preprocessing, seed=bench.seed, device=task.device,
        **{**task.experts, **KINDS[bench.arm.kind]},
    )  # type: ignore[arg-type]  # fmt: skip
    if len(list(folder.glob("expert_*.safetensors"))) < config.num_experts:
        with timed(bench, f"experts {bench.arm.kind}"):
            train_experts(config)
    return folder


def selected(method: str) -> Callable[[Bench], Distilled]:
    """Real images, by the features of an expert."""

    def make(bench: Bench) -> Distilled:
        buffer = bench.buffer
        theta = None if method == "random" else buffer.theta(buffer.numbers[0], buffer.epochs)
        return rivals.chosen(bench.problem, method, bench.images_per_class, bench.seed, theta)

    return make


def optimised(method: str) -> Callable[[Bench], Distilled]:
    """A rival that moves pixels."""

    def make(bench: Bench) -> Distilled:
        options = bench.task.rivals[method][bench.images_per_class]
        rule = getattr(rivals, method)
        return rule(bench.problem, bench.images_per_class, bench.work / "run", seed=bench.seed, **options)

    return make


def generated(bench: Bench) -> Distilled:
    """Images of a generator as they come."""
    count, problem = bench.images_per_class, bench.problem
    images = _sampled(bench, count)
    return rivals.from_images(problem, images, "generated", count, bench.seed)


def prototypes(bench: Bench) -> Distilled:
    """Of many generated images those nearest to the centres of k-means, by the features of an expert."""
    buffer, problem = bench.buffer, bench.problem
    others = replace(problem, train=_sampled(bench, OVERSAMPLED * bench.images_per_class))
    theta = buffer.theta(buffer.numbers[0], buffer.epochs)
    return rivals.chosen(others, "k-means", bench.images_per_class, bench.seed, theta)


def _sampled(bench: Bench, count: int) -> Any:
    assert bench.task.generator
    return other_images(
        bench.task.generator, bench.problem.train, count, bench.work, 10_000_000 * (bench.seed + 1), bench.task.device
    )  # type: ignore[arg-type]


def matching(method: str, **changes: Any) -> Callable[[Bench], Distilled]:
    """Trajectory matching with the arm's experts."""

    def make(bench: Bench) -> Distilled:
        task, count = bench.task, bench.images_per_class
        settings = {**task.matching[count], **(task.datm[count] if method == "datm" else {}), **changes}
        if method != "ftd":
            settings["ema_decay"] = 0.0
        config = MatchConfig(
            experts=bench.buffer.folder, output_dir=bench.work / "run", images_per_class=count, method=method,
            num_experts=task.num_matched, seed=bench.seed, device=task.device, **settings,
        )  # type: ignore[arg-type]  # fmt: skip
        run = Matching(config)
        if run.folder.finished(run.row.max_train_steps):
            return read_distilled(run.folder.result)[0].to(run.device)
        origin = Origin(task.data, checksum(run.sources.train))
        result = run.run(
            lambda distilled: score(distilled, run, bench.recipe),
            lambda distilled, folder: save_distilled(distilled, bench.recipe, origin, folder),
        )
        return read_distilled(result)[0].to(run.device)

    return make


ARMS = {
    arm.name: arm
    for arm in (
        Arm("random", selected("random")),
        Arm("herding", selected("herding")),
        Arm("k-center", selected("k-center")),
        Arm("k-means", selected("k-means")),
        Arm("generated", generated, needs_generator=True),
        Arm("generated k-means", prototypes, needs_generator=True),
        Arm("dm", optimised("dm")),
        Arm("dc", optimised("dc")),
        Arm("dsa", optimised("dsa")),
        Arm("mtt", matching("mtt"), matched=True),
        Arm("mtt frozen", matching("mtt", grad_mode="frozen"), matched=True),
        Arm("ftd", matching("ftd"), "flat", matched=True),
        Arm("ftd released", matching("ftd"), "released", matched=True),
        Arm("datm", matching("datm"), "flat", matched=True),
    )
}

# ---- measuring -----------------------------------------------------------------------------------------------------


def figures_of(task: Task, arm: str, images_per_class: int, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Test accuracy over fresh networks, its spread, the step size, seconds, and how far students stray."""
    bench = Bench(task, ARMS[arm], images_per_class, seed, options.folder)
    buffer = bench.buffer
    distilled = made(bench)
    network, sources = buffer.network, sources_of(buffer.folder)
    values = measure(distilled, network, bench.recipe, sources.test, options.networks, seed, arm)
    found = {
        "accuracy": statistics.mean(values),
        "std_networks": statistics.stdev(values) if values[1:] else 0.0,
        "step_size": distilled.step_size,
        "seconds": seconds_of(bench, "making"),
        "seconds_experts": seconds_of(bench, f"experts {bench.arm.kind}") if bench.arm.matched else 0.0,
    }
    return found | (strays(bench, distilled) if bench.arm.matched and not distilled.labels.is_floating_point() else {})


def made(bench: Bench) -> Distilled:
    """The arm's set, made or found; where making it gives no step size, with the one best on held-out images."""
    kept = bench.work / "set"
    if (kept / METADATA).exists():
        return read_distilled(kept)[0].to(choose_device(bench.task.device))  # type: ignore[arg-type]
    with timed(bench, "making"):
        distilled = bench.arm.make(bench)
        sources = sources_of(bench.buffer.folder)
        if not bench.arm.matched:
            network, step_sizes = bench.buffer.network, bench.task.step_sizes
            distilled = best_step_size(
                distilled, network, bench.recipe, sources.validation, step_sizes, seed=bench.seed
            )
    save_distilled(distilled, bench.recipe, Origin(bench.task.data, checksum(sources.train)), kept)
    return distilled


def strays(bench: Bench, distilled: Distilled) -> dict[str, float]:
    """The trajectory error on the experts that were not matched, after 1, 3 and all segments."""
    buffer, task = bench.buffer, bench.task
    row = distilled.settings["matching"]
    length = row["expert_epochs"]
    epochs = [length * k for k in range(min(SEGMENTS, buffer.epochs // length) + 1)]
    held_out = buffer.numbers[task.num_matched :]
    experts = torch.stack([torch.stack([buffer.theta(n, epoch) for epoch in epochs]) for n in held_out])
    test = sources_of(buffer.folder).test
    images = Problem(test, buffer.transform, buffer.spec, "none", distilled.images.device).images()
    steps = Steps(row["synthetic_steps"], row["inner_batch_size"], task.augmentation)
    rows = trajectory_error(
        distilled, buffer.network, experts.to(images.device), steps, images, test.labels, bench.seed
    )
    return {f"{name}_{k}": rows[k - 1][name] for k in {1, min(3, len(rows)), len(rows)} for name in rows[0]}


# ---- time ----------------------------------------------------------------------------------------------------------


@contextmanager
def timed(bench: Bench, what: str) -> Iterator[None]:
    """Keep the seconds that this process computes for; a part that was stopped and gone on with is summed."""
    began = time.process_time()
    try:
        yield
    finally:
        _times(bench).add(_key(bench, what), {"seconds": time.process_time() - began})


def seconds_of(bench: Bench, what: str) -> float:
    """All that was spent on it."""
    return sum(figures["seconds"] for figures in _times(bench).find_all(_key(bench, what)))


def _times(bench: Bench) -> Kept:
    return Kept(bench.folder / bench.task.name / "seconds.jsonl")


def _key(bench: Bench, what: str) -> dict[str, Any]:
    own = what == "making"
    return {
        "what": what,
        "seed": bench.seed,
        "arm": bench.arm.name if own else None,
        "images_per_class": bench.images_per_class if own else None,
    }
