"""Settings of evaluation. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from distill.config import NetworkName, Precision, at_least_1
from workbench.config import Device, require
from workbench.errors import UserError

EVERY_NETWORK: list[NetworkName] = ["convnet", "resnet18", "vgg11", "alexnet"]
STEP_SIZES = (0.003, 0.01, 0.03)


@dataclass(frozen=True)
class TrainingRecipe:
    """How a network is trained on a distilled set: SGD, with a tenth of the step size in the second half."""

    epochs: int = 1001
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augmentation: str = "color_crop_cutout_flip_scale_rotate"
    step_size: float | None = None  # the set's own unless given
    mixed_precision: Precision = "no"  # bf16 gains nothing on sets of a few images, and machines would differ


@dataclass(kw_only=True)
class EvaluateConfig:
    """Measure a distilled set on real test images: fresh networks trained on it, of several architectures.

    python distill/train.py evaluate runs/ten --data fashion-mnist --output runs/ten/figures.json

    Beside the set, as many random real images are measured in the same way, and the set's 8-bit copy.
    """

    distilled: tyro.conf.Positional[str]
    """A folder of a distilled set, of a matching run, or one of the zoo (zoo:distilled/NAME)."""
    data: str | None = None
    """The real images; those it was distilled from unless given."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["--output-file"])] = None
    """A JSON file for the figures; printed alone unless given."""
    networks: list[NetworkName] = field(default_factory=lambda: list(EVERY_NETWORK))
    """Architectures; the first is measured without augmentation and on the 8-bit copy as well."""
    num_networks: int = 5
    """Fresh networks of each."""
    epochs: int | None = None
    """Epochs of each network; those of the set's own recipe unless given."""
    random_subsets: int = 5
    """Sets of random real images to compare with."""
    seed: int = 0
    device: Device = "auto"
    overwrite: bool = False
    """Replace the output file."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        require(self, "num_networks", at_least_1, "1 or more")
        require(self, "epochs", lambda value: value is None or value >= 1, "1 or more")
        require(self, "random_subsets seed", lambda value: value >= 0, "0 or more")
        if not self.networks:
            raise UserError(f"--networks names none; give some of {', '.join(EVERY_NETWORK)}")
        if self.output and self.output.exists() and not self.overwrite:
            raise UserError(f"{self.output} is there already; give --overwrite to replace it, or another --output")
