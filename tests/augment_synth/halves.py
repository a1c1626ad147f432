"""Tiny images with a class (a bright half: left or right) and an attribute (a bright line: top or bottom)."""

from typing import Any

import torch
from torch import Tensor

from augment_synth.groups import GroupedImages, grouped
from augment_synth.robust_config import RobustSettings

SIZE = (8, 12)
CLASSES, ATTRIBUTES = ("left", "right"), ("top", "bottom")


def pictures(labels: Tensor, attributes: Tensor, seed: int = 0) -> Tensor:
    """Noise in colour."""
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 60, (len(labels), 3, *SIZE), generator=draws, dtype=torch.uint8)
    for image, label, attribute in zip(images, labels.tolist(), attributes.tolist(), strict=True):
        columns = slice(0, 6) if label == 0 else slice(6, 12)
        image[:, :, columns] += 60
        image[:, 0 if attribute == 0 else -1] += 100
    return images


def halves(counts: tuple[int, int, int, int] = (12, 4, 3, 9), synthetic: int = 0, seed: int = 0) -> GroupedImages:
    """`counts` images of (left, top), (left, bottom), (right, top), (right, bottom); then synthetic ones, whose
    attribute nobody knows."""
    groups = torch.repeat_interleave(torch.arange(4), torch.tensor(counts))
    labels = torch.cat([groups // 2, torch.arange(synthetic) % 2])
    attributes = torch.cat([groups % 2, torch.full((synthetic,), -1)])
    made = torch.arange(len(labels)) >= len(groups)
    return grouped(pictures(labels, attributes, seed), labels, CLASSES, attributes, ATTRIBUTES, made)


def quick(**changes: Any) -> RobustSettings:
    """A few steps of a narrow network."""
    settings: dict[str, Any] = {
        "max_train_steps": 3, "train_batch_size": 16, "width": 6, "random_shift": 1, "lr_warmup_steps": 0,
        "learning_rate": 1e-2, "ema_decay": 0.5, "device": "cpu", "mixed_precision": "no", "logging_steps": 10,
        "jtt_identification_steps": 2, "stylizer_steps": 2, "dfr_redraws": 2, "keep_warmup_steps": 1,
    }  # fmt: skip
    return RobustSettings(**settings | changes)
