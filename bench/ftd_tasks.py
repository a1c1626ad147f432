"""The data sets of the distillation benchmark, and how much is spent on each."""

import argparse
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from workbench import seeds
from workbench.records import DatasetWriter

ALL_FAMILIES = "color_crop_cutout_flip_scale_rotate"
NUM_TEST_DIGITS = 500


@dataclass(frozen=True)
class Task:
    """A data set, its network, and the settings of every method; by images per class where they differ."""

    name: str
    data: str
    width: int
    depth: int | None
    augmentation: str
    validation_share: float
    experts: dict[str, Any]
    num_matched: int  # experts; the others measure how far students stray
    matching: dict[int, dict[str, Any]]
    datm: dict[int, dict[str, Any]]  # in place of these
    rivals: dict[str, dict[int, dict[str, Any]]]  # what dm, dc and dsa are given
    evaluation_epochs: int
    step_sizes: tuple[float, ...]  # tried for sets that bring none
    preprocessing: str = "standard"
    generator: str | None = None
    device: str = field(default="auto", compare=False)

    def settings(self) -> dict[str, Any]:
        """All that a figure depends on."""
        return {**{key: value for key, value in asdict(self).items() if key != "device"}, "data": Path(self.data).name}


DIGITS = Task(
    name="digits", data="", width=32, depth=2, augmentation="none", validation_share=0.229,
    experts={"num_experts": 10, "epochs": 30, "train_batch_size": 50, "learning_rate": 0.02}, num_matched=8,
    matching={
        1: {"synthetic_steps": 20, "expert_epochs": 2, "max_start_epoch": 10, "learning_rate_images": 10.0,
            "learning_rate_step_size": 1e-4, "initial_step_size": 0.02, "ema_decay": 0.99, "max_train_steps": 200},
        10: {"synthetic_steps": 20, "expert_epochs": 2, "max_start_epoch": 20, "learning_rate_images": 10.0,
             "learning_rate_step_size": 1e-4, "initial_step_size": 0.02, "ema_decay": 0.99, "max_train_steps": 200,
             "inner_batch_size": 50},
    },
    datm={
        1: {"min_start_epoch": 0, "max_start_epoch": 10, "learning_rate_labels": 1.0},
        10: {"min_start_epoch": 0, "max_start_epoch": 20, "first_max_start_epoch": 10, "widening_steps": 100,
             "learning_rate_labels": 1.0, "inner_batch_size": 50},
    },
    rivals={
        "dm": {1: {"iterations": 1000, "batch_real": 64}, 10: {"iterations": 2000, "batch_real": 64}},
        "dc": {1: {"iterations": 300, "batch_real": 64}, 10: {"iterations": 10, "batch_real": 64}},
        "dsa": {1: {"iterations": 300, "batch_real": 64}, 10: {"iterations": 10, "batch_real": 64}},
    },
    evaluation_epochs=300, step_sizes=(0.003, 0.01, 0.03, 0.1),
)  # fmt: skip
FASHION = Task(
    name="fashion", data="fashion-mnist:extract", width=32, depth=3, augmentation=ALL_FAMILIES, validation_share=0.1,
    experts={"num_experts": 5, "epochs": 12, "train_batch_size": 32}, num_matched=4,
    matching={
        1: {"synthetic_steps": 10, "expert_epochs": 1, "max_start_epoch": 6, "learning_rate_images": 500.0,
            "learning_rate_step_size": 1e-5, "initial_step_size": 0.02, "ema_decay": 0.98, "max_train_steps": 500},
        10: {"synthetic_steps": 10, "expert_epochs": 1, "max_start_epoch": 10, "learning_rate_images": 500.0,
             "learning_rate_step_size": 1e-5, "initial_step_size": 0.02, "ema_decay": 0.98, "max_train_steps": 500,
             "inner_batch_size": 50},
    },
    datm={
        1: {"min_start_epoch": 0, "max_start_epoch": 6, "learning_rate_labels": 2.0},
        10: {"min_start_epoch": 0, "max_start_epoch": 10, "first_max_start_epoch": 6, "widening_steps": 250,
             "learning_rate_labels": 2.0, "inner_batch_size": 50},
    },
    rivals={
        "dm": {1: {"iterations": 3000, "batch_real": 64}, 10: {"iterations": 5000, "batch_real": 64}},
        "dc": {1: {"iterations": 600, "batch_real": 64}, 10: {"iterations": 40, "batch_real": 64}},
        "dsa": {1: {"iterations": 600, "batch_real": 64}, 10: {"iterations": 40, "batch_real": 64}},
    },
    evaluation_epochs=500, step_sizes=(0.003, 0.01, 0.03), generator="zoo:fashion-rpe2d",
)  # fmt: skip
PUBLISHED: dict[int, dict[str, Any]] = {1: {}, 10: {}}  # nothing in place of the published rows
PUBLISHED_RIVALS: dict[str, dict[int, dict[str, Any]]] = {"dm": PUBLISHED, "dc": PUBLISHED, "dsa": PUBLISHED}
FASHION_FULL = replace(
    FASHION, name="fashion-full", data="fashion-mnist", width=128,
    experts={"num_experts": 22, "epochs": 20}, num_matched=20, matching=PUBLISHED, datm=PUBLISHED,
    rivals=PUBLISHED_RIVALS, evaluation_epochs=1001,
)  # fmt: skip
CIFAR10 = replace(
    FASHION_FULL, name="cifar10", data="cifar10-train.parquet", preprocessing="zca", generator=None,
    experts={"num_experts": 22, "epochs": 22},
)  # fmt: skip
TASKS = {task.name: task for task in (DIGITS, FASHION, FASHION_FULL, CIFAR10)}


def prepared(task: Task, options: argparse.Namespace) -> Task:
    """The task with its data on disk, on the device of this call."""
    data = str(write_digits(options.folder / "digits")) if task is DIGITS else options.data or task.data
    return replace(task, data=data, device=options.device)


def write_digits(folder: Path) -> Path:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels as a data set: 500 for the test, chosen by a seed."""
    if (folder / "dataset.json").exists():
        return folder
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images * 255 / 16).round().to(torch.uint8)
    labels = torch.from_numpy(found.target)
    order = torch.randperm(len(labels), generator=seeds.generator(0))
    parts = {"train": order[NUM_TEST_DIGITS:], "test": order[:NUM_TEST_DIGITS]}
    writer = DatasetWriter(folder, [str(digit) for digit in range(10)], {"seed": 0}, shard_size=2000)
    for split, rows in parts.items():
        for shard in writer.missing_shards(len(rows), split):
            about = [{"label": int(label), "source": "real"} for label in labels[rows]]
            writer.write_shard(shard, list(images[rows]), about, split)
    return writer.finish(seed=0)
