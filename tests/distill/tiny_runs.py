"""Tiny runs on the digits: experts in a second, matching in a few."""

from pathlib import Path
from typing import Any

from distill.config import ExpertsConfig, MatchConfig
from distill.distilled import Distilled
from distill.evaluation_config import TrainingRecipe
from distill.matching import Matching
from distill.product import Origin, save_distilled
from workbench.config import from_mapping
from workbench.metrics_log import read_metrics


def experts_config(data: Path, output: Path, **changes: Any) -> ExpertsConfig:
    """Two experts of six short epochs."""
    settings: dict[str, Any] = {
        "data": str(data), "width": 8, "depth": 2, "num_experts": 2, "epochs": 6, "train_batch_size": 32,
        "learning_rate": 0.05, "flatness": "none", "augmentation": "crop_scale", "device": "cpu",
        "mixed_precision": "no",
    }  # fmt: skip
    return from_mapping(ExpertsConfig, {"output_dir": str(output), **settings, **changes})


def match_config(experts: Path, output: Path, **changes: Any) -> MatchConfig:
    """Eight updates of two images a class, a checkpoint every third."""
    settings: dict[str, Any] = {
        "experts": str(experts), "images_per_class": 2, "synthetic_steps": 3, "expert_epochs": 2, "max_start_epoch": 3,
        "learning_rate_images": 10.0, "learning_rate_step_size": 1e-4, "initial_step_size": 0.05, "ema_decay": 0.9,
        "max_train_steps": 8, "threshold": 2.0, "checkpointing_steps": 3, "logging_steps": 1, "validation_steps": 4,
        "device": "cpu",
    }  # fmt: skip
    return from_mapping(MatchConfig, {"output_dir": str(output), **settings, **changes})


def run_matching(config: MatchConfig) -> Path:
    """Match, with the spread of the pixels for a score; returns the product's folder."""
    return Matching(config).run(spread, write)


def spread(distilled: Distilled) -> float:
    """A score that takes no training."""
    return float(distilled.images.std())


def write(distilled: Distilled, folder: Path) -> None:
    """The product without its pictures."""
    save_distilled(distilled, TrainingRecipe(), Origin("digits", "none"), folder)


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times."""
    return [{k: v for k, v in row.items() if k != "updates_per_second"} for row in read_metrics(run / "metrics.jsonl")]
