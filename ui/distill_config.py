"""Settings of `workbench distill`. Light (no torch), because `--help` reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from distill.config import NetworkName, Preprocessing
from distill.presets import Method, PresetName
from workbench.config import Device, parse_size, require
from workbench.errors import UserError


class Effort(NamedTuple):
    """How much is spent."""

    width: int  # of the ConvNet
    num_experts: int
    evaluation_epochs: int
    num_networks: int
    matching: Mapping[str, Any]  # in place of the published settings


EFFORTS = {
    "full": Effort(128, 20, 1001, 5, {}),
    "quick": Effort(
        32, 3, 300, 3,
        {
            "synthetic_steps": 10, "expert_epochs": 1, "inner_batch_size": 50, "initial_step_size": 0.02,
            "min_start_epoch": 0, "max_start_epoch": 6, "first_max_start_epoch": 6, "widening_steps": 0,
            "learning_rate_images": 500.0, "ema_decay": 0.95, "max_train_steps": 200,
            "validation_steps": 50, "validation_epochs": 100, "checkpointing_steps": 20,
        },
    ),
}  # fmt: skip


@dataclass(kw_only=True)
class DistillConfig:
    """Distil labelled images to a few of each class, on which a fresh network trains in seconds; measure the result.

    workbench distill fashion-mnist:extract --images-per-class 1 --output runs/distilled
    workbench distill path/to/images --resolution 32 --images-per-class 10 --effort full --output runs/mine

    OUTPUT holds distilled.safetensors (the product), png/ and grid.png (what it looks like), README.md (how to train on
    it, and how good it is). Interrupted, the same command goes on. `python distill/train.py` has all settings.
    """

    data: tyro.conf.Positional[str]
    """Labelled real images: a name, an image folder, a parquet file, shards, or a hub name."""
    output: Path
    """Where everything is written."""
    images_per_class: int = 10
    method: Method = "ftd"
    """ftd: flat trajectory matching. mtt: the same with plain experts. datm: with soft labels and later starts."""
    effort: Literal["auto", "quick", "full"] = "auto"
    """quick: a narrow network, few experts and updates, for minutes on a CPU. full: the published settings, with 20
    experts, for a GPU. auto: by the device."""
    classes: list[str] | None = None
    """Only these classes, in this order."""
    resolution: str | None = None
    """Side of the images in pixels, or HEIGHTxWIDTH; the images' own unless given."""
    preprocessing: Preprocessing = "standard"
    """standard: mean 0 and deviation 1 in each channel. zca: whitened, as most published figures of CIFAR are."""
    augmentation: str = "color_crop_cutout_flip_scale_rotate"
    """Of experts, students and evaluation; leave out flip for digits and text."""
    preset: PresetName = "auto"
    """Whose published table of settings; auto takes the set nearest in size and number of classes."""
    initial: str = "auto"
    """What the images begin as: real ones (auto), noise, a data set's folder, or a generator (a run, or zoo:NAME)."""
    networks: list[NetworkName] = field(default_factory=lambda: ["convnet"])
    """Architectures to measure on; the first also distils."""
    num_networks: int | None = None
    """Fresh networks behind every figure."""
    width: int | None = None
    """Channels of the ConvNet."""
    num_experts: int | None = None
    max_train_steps: int | None = None
    """Updates of the images."""
    evaluation_epochs: int | None = None
    """Epochs of each network that is trained on the set."""
    seed: int = 0
    device: Device = "auto"
    overwrite: bool = False
    """Start anew where the output folder already holds a distillation."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        require(self, "images_per_class", lambda value: value >= 1, "1 or more")
        optional = "num_networks width num_experts max_train_steps evaluation_epochs"
        require(self, optional, lambda value: value is None or value >= 1, "1 or more")
        require(self, "seed", lambda value: value >= 0, "0 or more")
        if not self.networks:
            raise UserError("--networks names none; give convnet, or several")
        if self.resolution is not None:
            parse_size(self.resolution)

    def resolved_effort(self, on_cpu: bool) -> Effort:
        """What is spent: the named effort, with what was given in its place."""
        name = ("quick" if on_cpu else "full") if self.effort == "auto" else self.effort
        names = ("width", "num_experts", "evaluation_epochs", "num_networks")
        return EFFORTS[name]._replace(**{key: getattr(self, key) for key in names if getattr(self, key) is not None})
