"""Settings of `workbench classify`. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from workbench.config import Device, TrainingConfig
from workbench.errors import UserError


@dataclass(kw_only=True)
class ClassifyTrainConfig(TrainingConfig):
    """Train a small classifier.

    workbench classify train --data fashion-mnist --output runs/classifier
    workbench classify train --data REAL --extra-data GENERATED --output runs/both
    """

    extra_data: str | None = None
    """A second data set with the same class names, added to the first: real and generated images together."""
    test_data: str | None = None
    """Labelled images to measure on: the data's own test split unless given, or a tenth held out where it has none."""
    network: Literal["convnet", "resnet18"] = "convnet"
    """convnet: the standard of data set distillation. resnet18: more accurate, ten times the work."""
    width: int = 128
    """Channels of the convnet."""
    random_flip: bool = False
    """Mirror half of the training images."""
    random_shift: int = 4
    """Move training images by up to so many pixels; 0 for not at all."""

    train_batch_size: int = 128
    learning_rate: float = 2e-3
    adam_beta2: float = 0.999
    adam_weight_decay: float = 5e-4
    ema_decay: float = 0.99
    validation_steps: int = 0

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        if self.width < 1 or self.random_shift < 0:
            raise UserError(f"--width is {self.width} and --random-shift {self.random_shift}; give at least 1 and 0")


@dataclass(kw_only=True)
class ClassifyEvalConfig:
    """Measure any classifier on labelled images.

    workbench classify eval --classifier runs/classifier --data fashion-mnist
    workbench classify eval --classifier timm:resnet18 --data path/to/folder --split test
    workbench classify eval --model efficientnet-lite0 --data demo-photographs
    """

    classifier: Annotated[str, tyro.conf.arg(aliases=["--model"])]
    """A trained folder, timm:NAME, transformers:NAME, torchvision:NAME, efficientnet-lite0, or MODULE:FUNCTION."""
    data: str
    """A data set's name, an image folder, a parquet file, shards, or a hub name."""
    split: str | None = None
    """The part to measure on: test where there is one, unless given."""
    batch_size: int = 256
    output: Path | None = None
    """Also write the figures here, as JSON."""
    json: bool = False
    """Print the figures as JSON."""
    seed: int = 0
    device: Device = "auto"
    overwrite: bool = False
    """Replace the output file."""
