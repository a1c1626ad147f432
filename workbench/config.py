"""Settings every training run shares: one dataclass is the command line, the YAML file and the Python call.

Light on purpose (no torch): `--help` reads this file. Names follow diffusers' and accelerate's example scripts.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from workbench.errors import UserError

Device = Literal["auto", "cpu", "cuda", "mps"]
Size = tuple[int, int]
Config = TypeVar("Config")


def parse_size(text: str | int) -> Size:
    """Height and width in pixels from `48x32` (HEIGHTxWIDTH) or `32` (both). Raises UserError on anything else."""
    parts = str(text).lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"{text!r} is not a size; write one number such as 32, or HEIGHTxWIDTH such as 48x32")
    return int(parts[0]), int(parts[-1])


@dataclass(kw_only=True)
class TrainingConfig:
    """What every recipe needs to know about its run."""

    data: str = "fashion-mnist"
    """A data set's name, an image folder, a parquet file, shards, or a hub name."""
    classes: list[str] | None = None
    """Only these classes, in this order."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["--output"])]
    """The run's folder: config.yaml, checkpoints/, metrics.jsonl, samples/ and the result."""
    resolution: str = "32"
    """Side of the training images in pixels, or HEIGHTxWIDTH."""
    overwrite: bool = False
    """Start anew where the output folder already holds a run (its results are replaced at the end)."""
    dry_run: bool = False
    """Print the settings, the number of parameters and the steps per epoch, then stop."""

    train_batch_size: int = 64
    """Images per process and per forward pass."""
    gradient_accumulation_steps: int = 1
    """Forward passes per update: the global batch is batch size x this x processes."""
    max_train_steps: int = 1000
    """Updates of the weights."""
    learning_rate: float = 1e-3
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "cosine"
    lr_warmup_steps: int = 100
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_weight_decay: float = 0.0
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    """Clip the gradient's norm to this."""
    ema_decay: float = 0.9999
    """Ceiling of the weight average's decay, reached as (1 + step) / (10 + step). 0 publishes the raw weights."""
    max_nonfinite_steps: int = 10
    """Skip an update whose loss or gradient is not finite; stop after this many in a row."""

    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """auto: bf16 where the processor computes it natively (measured to win there), else fp32."""
    device: Device = "auto"
    seed: int = 0

    checkpointing_steps: int = 500
    """Save everything needed to go on, every so many steps."""
    checkpoints_total_limit: int = 2
    """Complete checkpoints to keep; older ones go once the new one is in place."""
    resume_from_checkpoint: str = "latest"
    """latest: go on from the newest complete checkpoint of this run, if any. Or a checkpoint's folder, or none."""
    validation_steps: int = 500
    """Write validation pictures to samples/ every so many steps; 0 for never."""
    logging_steps: int = 10
    """Write a line to metrics.jsonl every so many steps."""
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """A tracker beside metrics.jsonl."""

    @property
    def size(self) -> Size:
        """Training height and width in pixels."""
        return parse_size(self.resolution)

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        for name in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "logging_steps",
                     "checkpointing_steps", "checkpoints_total_limit", "max_nonfinite_steps"):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give more than 0")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"--ema-decay is {self.ema_decay}; give at least 0 and less than 1")
        parse_size(self.resolution)


def to_mapping(config: Any) -> dict[str, Any]:
    """A dataclass's fields as plain YAML / JSON values."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def from_mapping(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a config from a mapping; an unknown field is a UserError that names the nearest known one."""
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {key.replace("-", "_"): value for key, value in values.items()}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UserError(
                f"unknown setting {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}")
            )
    return cls(**values)
