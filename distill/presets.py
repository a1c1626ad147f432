"""The published settings of trajectory matching, a row a cell of the papers' tables. Light (no torch).

Sources: FTD's table 7 (arXiv 2211.11004), MTT's settings as dc_benchmark lists them, and DATM's configuration files
(arXiv 2310.05773). The rows of fashion-mnist are this project's own: no paper gives any.
"""

import math
from typing import Any, Literal, NamedTuple

Method = Literal["mtt", "ftd", "datm"]
PresetName = Literal["auto", "cifar10", "cifar100", "tiny-imagenet", "imagenet-10", "fashion-mnist"]
Labels = Literal["hard", "learned", "assigned"]


class Hyperparameters(NamedTuple):
    """What a row of the tables fixes; names as in MatchConfig."""

    synthetic_steps: int
    expert_epochs: int
    max_start_epoch: int
    learning_rate_images: float
    learning_rate_step_size: float
    initial_step_size: float
    ema_decay: float
    inner_batch_size: int = 0
    min_start_epoch: int = 0
    first_max_start_epoch: int | None = None
    widening_steps: int = 0
    labels: Labels = "hard"
    learning_rate_labels: float = 0.0
    max_train_steps: int = 5000
    threshold: float = 1.1


def _ftd(n: int, m: int, hi: int, b: int, lr: float, lr_eta: float, eta: float, ema: float) -> Hyperparameters:
    return Hyperparameters(n, m, hi, lr, lr_eta, eta, ema, inner_batch_size=b)


def _datm(
    n: int, low: int, high: int, first: int | None, widening: int, lr: float, lr_labels: float, lr_eta: float = 1e-5,
    m: int = 2,
) -> Hyperparameters:  # fmt: skip
    return Hyperparameters(
        n, m, high, lr, lr_eta, 0.01, 0.0, min_start_epoch=low, first_max_start_epoch=first, widening_steps=widening,
        labels="learned", learning_rate_labels=lr_labels, max_train_steps=10000, threshold=1.0,
    )  # fmt: skip


Rows = dict[int, Hyperparameters]  # by images per class

FTD: dict[str, Rows] = {
    "cifar10": {
        1: _ftd(50, 2, 2, 0, 100.0, 1e-7, 0.01, 0.9999),
        10: _ftd(30, 2, 20, 0, 100.0, 1e-5, 0.001, 0.9995),
        50: _ftd(30, 2, 40, 0, 1000.0, 1e-5, 0.01, 0.999),
    },
    "cifar100": {
        1: _ftd(40, 3, 20, 0, 1000.0, 1e-5, 0.01, 0.9995),
        10: _ftd(20, 2, 40, 0, 1000.0, 1e-5, 0.01, 0.9995),
        50: _ftd(80, 2, 40, 1000, 1000.0, 1e-5, 0.01, 0.999),
    },
    "tiny-imagenet": {
        1: _ftd(30, 2, 10, 0, 1e4, 1e-4, 0.01, 0.999),
        10: _ftd(20, 2, 40, 500, 1e4, 1e-4, 0.01, 0.999),
    },
    "imagenet-10": {
        1: _ftd(20, 2, 10, 64, 1e4, 1e-4, 0.01, 0.999),
        10: _ftd(20, 2, 10, 64, 1e4, 1e-4, 0.001, 0.999),
    },
    "fashion-mnist": {
        1: _ftd(20, 2, 5, 0, 100.0, 1e-5, 0.01, 0.999),
        10: _ftd(20, 2, 10, 0, 100.0, 1e-5, 0.01, 0.999),
        50: _ftd(20, 2, 20, 0, 1000.0, 1e-5, 0.01, 0.999),
    },
}
# where MTT differs from FTD's rows, besides having no average
MTT: dict[tuple[str, int], dict[str, Any]] = {
    ("cifar10", 50): {"initial_step_size": 0.001},
    ("cifar100", 1): {"synthetic_steps": 20},
    ("cifar100", 10): {"max_start_epoch": 20},
    ("cifar100", 50): {"inner_batch_size": 125},
    ("tiny-imagenet", 1): {"synthetic_steps": 10},
    ("tiny-imagenet", 10): {"inner_batch_size": 200},
    ("imagenet-10", 1): {"learning_rate_images": 1e5, "learning_rate_step_size": 1e-6, "inner_batch_size": 0},
    ("imagenet-10", 10): {"learning_rate_images": 1e5, "learning_rate_step_size": 1e-6, "inner_batch_size": 20},
}
MTT_ONLY: dict[str, Rows] = {"tiny-imagenet": {50: _ftd(20, 2, 40, 300, 1e4, 1e-4, 0.01, 0.0)}}
DATM: dict[str, Rows] = {
    "cifar10": {
        1: _datm(80, 0, 4, None, 0, 100.0, 5.0, 1e-7)._replace(threshold=1.1),
        10: _datm(80, 0, 20, 10, 1000, 100.0, 2.0),
        50: _datm(80, 0, 40, 20, 2000, 1000.0, 2.0),
        500: _datm(40, 40, 60, None, 0, 50.0, 10.0),
        1000: _datm(100, 40, 60, None, 0, 50.0, 10.0),
    },
    "cifar100": {
        1: _datm(40, 0, 20, 10, 1000, 1000.0, 10.0, m=3),
        10: _datm(80, 0, 50, 30, 2000, 1000.0, 10.0),
        50: _datm(80, 20, 70, None, 0, 1000.0, 10.0),
        100: _datm(80, 30, 70, None, 0, 50.0, 10.0),
    },
    "tiny-imagenet": {
        1: _datm(40, 0, 20, 15, 2000, 1e4, 10.0, 1e-4),
        10: _datm(40, 10, 50, None, 0, 100.0, 10.0, 1e-4),
        50: _datm(20, 40, 70, None, 0, 100.0, 10.0, 1e-4),
    },
    "fashion-mnist": {
        1: _datm(20, 0, 5, None, 0, 100.0, 2.0)._replace(max_train_steps=5000, threshold=1.1),
        10: _datm(20, 0, 10, 5, 1000, 100.0, 2.0)._replace(max_train_steps=5000),
        50: _datm(20, 5, 20, 10, 1000, 1000.0, 2.0)._replace(max_train_steps=5000),
    },
}


def hyperparameters(
    method: Method, preset: PresetName, images_per_class: int, data: str, size: tuple[int, int], num_classes: int
) -> Hyperparameters:
    """The row of a method's table for a preset (auto: see `nearest_preset`) and the nearest number of images."""
    name = nearest_preset(data, size, num_classes) if preset == "auto" else preset
    rows = rows_of(method, name)
    return rows[min(rows, key=lambda count: abs(math.log(count / images_per_class)))]


def nearest_preset(data: str, size: tuple[int, int], num_classes: int) -> str:
    """The set of the tables that is nearest to this one."""
    if data.split(":")[0] == "fashion-mnist":
        return "fashion-mnist"
    if max(size) > 80:
        return "imagenet-10"
    if max(size) > 40:
        return "tiny-imagenet"
    return "cifar100" if num_classes > 30 else "cifar10"


def rows_of(method: Method, preset: str) -> Rows:
    """A method's rows for a set; DATM has none for ImageNet's subsets and takes those of the set nearest in size."""
    if method == "datm":
        return DATM.get(preset, DATM["tiny-imagenet"])
    if method == "ftd":
        return FTD[preset]
    rows = {count: row._replace(ema_decay=0.0, **MTT.get((preset, count), {})) for count, row in FTD[preset].items()}
    return rows | MTT_ONLY.get(preset, {})
