"""Makes a training set small: a few images on which a fresh network trains in seconds."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from distill.config import NetworkName
    from distill.product import Loaded
    from distill.trained import DistilledClassifier
    from workbench.config import Device


def load_distilled(folder: "str | Path") -> "Loaded":
    """What training on a distilled set takes: (dataset, transform, recipe). Raises UserError where there is none."""
    from distill.product import load_distilled

    return load_distilled(folder)


def train_on_distilled(
    folder: "str | Path", network: "NetworkName | None" = None, *, seed: int = 0, device: "Device" = "auto"
) -> "DistilledClassifier":
    """A classifier of images in [0, 1], trained on a distilled set by its own recipe. Raises UserError likewise."""
    from distill.trained import train_on_distilled

    return train_on_distilled(folder, network, seed=seed, device=device)
