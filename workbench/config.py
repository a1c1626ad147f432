"""Settings every training run shares: one dataclass is the command line, the YAML file and the Python call.

Light on purpose (no torch): `--help` reads this file. Names follow diffusers' and accelerate's example scripts.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

from workbench.errors import UserError

Device = Literal["auto", "cpu", "cuda", "mps"]
LRScheduler = Literal["constant", "constant_with_warmup", "linear", "cosine", "one_cycle"]
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
    max_image_pixels: int = 64_000_000
    """Refuse files with more pixels than this: they may be decompression bombs."""
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
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """muon: the matrices of a transformer's blocks by Muon, the rest by AdamW; fewer steps, each a little dearer. sgd:
    with Nesterov momentum 0.9, and biases that do not decay."""
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.02
    lr_scheduler: LRScheduler = "cosine"
    """one_cycle: up for three tenths of the steps, then down, the momentum the other way, as torch's OneCycleLR."""
    lr_warmup_steps: int = 100
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_weight_decay: float = 0.0
    """Of sgd too."""
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
    resume_from_checkpoint: Annotated[str, tyro.conf.arg(aliases=["--resume"])] = "latest"
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
        counts = (
            "train_batch_size gradient_accumulation_steps max_train_steps logging_steps checkpointing_steps "
            "checkpoints_total_limit max_nonfinite_steps"
        )
        require(self, counts, lambda value: value >= 1, "1 or more")
        require(self, "lr_warmup_steps validation_steps seed adam_weight_decay", lambda value: value >= 0, "0 or more")
        require(
            self, "learning_rate muon_learning_rate max_grad_norm adam_epsilon", lambda value: value > 0, "more than 0"
        )
        require(self, "ema_decay adam_beta1 adam_beta2", lambda value: 0 <= value < 1, "at least 0 and less than 1")
        self.check_resolution()

    def check_resolution(self) -> None:
        """Raise UserError for a resolution that is no size."""
        parse_size(self.resolution)


def require(config: Any, names: str, fits: Callable[[Any], bool], allowed: str) -> None:
    """Raise UserError for the first of the named fields that does not fit."""
    for name in names.split():
        value = getattr(config, name)
        if not fits(value):
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {allowed}")


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
    """Build a config from a mapping, such as a YAML file's.

    Raises UserError for an unknown field (naming the nearest known one), a missing one, and a value of another type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {key.replace("-", "_"): value for key, value in values.items()}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            raise UserError(
                f"unknown setting {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}")
            )
    for name, field in fields.items():
        if field.default is field.default_factory is dataclasses.MISSING and name not in values:
            raise UserError(f"the setting {name!r} is missing; give it a value")
    kinds = get_type_hints(cls)
    return cls(**{key: _typed(key, value, kinds[key]) for key, value in values.items()})


# a field's type: the types it is made from, and how a person calls it
CONVERSIONS: dict[type, tuple[tuple[type, ...], str]] = {
    int: ((str,), "a whole number"),
    float: ((str, int), "a number"),
    str: ((int, float), "text"),
    Path: ((str,), "a path"),
    bool: ((), "true or false"),
}


def _typed(name: str, value: Any, kind: Any) -> Any:
    """A YAML value as its field's type: YAML takes 1e-3 for text, 32 for a number, and no for False."""
    if NoneType in get_args(kind):  # optional
        if value is None:
            return None
        kind = next(one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is Literal:
        value = "no" if value is False else value
        if value not in get_args(kind):
            raise UserError(f"{name} is {value!r}; give {' or '.join(get_args(kind))}")
    elif kind in CONVERSIONS and (not isinstance(value, kind) or type(value) is bool is not kind):
        sources, called = CONVERSIONS[kind]
        try:
            if type(value) not in sources:
                raise ValueError
            return kind(value)
        except ValueError:
            raise UserError(f"{name} is {value!r}; give {called}") from None
    return value
