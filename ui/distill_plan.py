"""What `workbench distill` will do: the settings of its stages, for its data, effort and device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.baselines.selection import select
from distill.config import ExpertsConfig, Flatness, MatchConfig
from distill.data import Sources, checksum, load_sources
from distill.evaluation_config import EvaluateConfig, TrainingRecipe
from distill.presets import Method
from distill.processes import start_processes
from distill.product import RESULT, Origin
from ui.distill_config import DistillConfig, Effort
from workbench import seeds
from workbench.config import parse_size
from workbench.errors import UserError

FLATNESS: dict[Method, Flatness] = {"mtt": "none", "ftd": "gsam", "datm": "gsam"}
EPOCH_STEPS, SMALLEST_BATCH = 200, 32  # with few images an expert's batches are smaller than the published 256
LONGEST_DATM = 50  # epochs of its experts at least: their last outputs are its first labels


@dataclass(frozen=True)
class Plan:
    """The stages' settings."""

    experts: ExpertsConfig
    matching: MatchConfig
    evaluation: EvaluateConfig
    recipe: TrainingRecipe
    origin: Origin

    @property
    def product(self) -> Path:
        """The folder that matching publishes."""
        return self.matching.output_dir / RESULT


def make_plan(config: DistillConfig) -> Plan:
    """Read the data, and settle everything for it.

    Raises UserError where a class has fewer images than asked for, and among several processes, with which this command
    does not share its work.
    """
    state = start_processes(config.device)
    if state.num_processes > 1:
        raise UserError("workbench distill is one process; for several, launch the stages of distill/train.py")
    size = None if config.resolution is None else parse_size(config.resolution)
    sources = load_sources(config.data, size, config.classes)
    _check_enough(config, sources)
    effort = config.resolved_effort(on_cpu=state.device.type == "cpu")
    matching = _matching(config, effort)
    return Plan(
        experts=_experts(config, effort, matching, sources),
        matching=matching,
        evaluation=_evaluation(config, effort),
        recipe=TrainingRecipe(epochs=effort.evaluation_epochs, augmentation=config.augmentation),
        origin=Origin(config.data, checksum(sources.train)),
    )


def _experts(config: DistillConfig, effort: Effort, matching: MatchConfig, sources: Sources) -> ExpertsConfig:
    """Experts that go as far as matching follows them."""
    images, count = sources.train.images, len(sources.train)
    row = matching.resolved(config.data, (images[0].shape[1], images[0].shape[2]), len(sources.train.label_names))
    epochs = row.max_start_epoch - 1 + row.expert_epochs
    if config.method == "datm" and not effort.matching:
        epochs = max(epochs, LONGEST_DATM)
    return ExpertsConfig(
        data=config.data, classes=config.classes, output_dir=config.output / "experts", resolution=config.resolution,
        preprocessing=config.preprocessing, augmentation=config.augmentation, network=config.networks[0],
        width=effort.width, num_experts=effort.num_experts, epochs=epochs, flatness=FLATNESS[config.method],
        train_batch_size=min(256, max(SMALLEST_BATCH, count // EPOCH_STEPS)), seed=config.seed, device=config.device,
    )  # fmt: skip


def _matching(config: DistillConfig, effort: Effort) -> MatchConfig:
    settings: dict[str, Any] = dict(effort.matching)
    if config.max_train_steps:
        settings["max_train_steps"] = config.max_train_steps
    return MatchConfig(
        experts=config.output / "experts", output_dir=config.output / "matching", method=config.method,
        images_per_class=config.images_per_class, preset=config.preset, initial=config.initial, seed=config.seed,
        device=config.device, **settings,
    )  # fmt: skip


def _evaluation(config: DistillConfig, effort: Effort) -> EvaluateConfig:
    matching = config.output / "matching"
    return EvaluateConfig(
        distilled=str(matching), output=matching / "figures.json", networks=config.networks,
        num_networks=effort.num_networks, random_subsets=effort.num_networks, seed=config.seed, device=config.device,
    )  # fmt: skip


def _check_enough(config: DistillConfig, sources: Sources) -> None:
    """Fail now rather than after the experts are trained."""
    train = sources.train
    rows = torch.zeros(len(train), 1)
    select("random", rows, train.labels, train.label_names, config.images_per_class, seeds.generator(config.seed))
