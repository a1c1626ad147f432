"""Settings of distillation. Light (no torch), because `--help` reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distill.presets import Hyperparameters, Labels, Method, PresetName, hyperparameters
from workbench.config import Device, Size, parse_size, require
from workbench.errors import UserError

NetworkName = Literal["convnet", "resnet18", "vgg11", "alexnet"]
Preprocessing = Literal["standard", "zca"]
Flatness = Literal["none", "sam", "gsam", "saf"]
GradMode = Literal["adjoint", "autograd", "frozen"]
Precision = Literal["auto", "no", "bf16"]


@dataclass(kw_only=True)
class ExpertsConfig:
    """Train expert networks on the real images and keep their weights after every epoch: what matching follows.

    python distill/train.py experts --data fashion-mnist --output-dir runs/experts
    accelerate launch distill/train.py experts --data cifar.parquet --preprocessing zca --output-dir runs/experts

    Stopped, the same command goes on; finished experts are kept. More experts can be added later.
    """

    data: str = "fashion-mnist"
    """A data set's name, an image folder, a parquet file, shards, or a hub name."""
    classes: list[str] | None = None
    """Only these classes, in this order."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["--output"])]
    """The folder of the experts."""
    resolution: str | None = None
    """Side of the images in pixels, or HEIGHTxWIDTH; the images' own unless given."""
    validation_share: float = 0.1
    """Share of the training images held out for every choice; 0 trains on all, as the papers do."""
    split_seed: int = 0
    """Which images are held out."""
    preprocessing: Preprocessing = "standard"
    """standard: mean 0 and deviation 1 in each channel. zca: whitened."""
    augmentation: str = "color_crop_cutout_flip_scale_rotate"
    """Families of differentiable siamese augmentation, joined by _, or none; leave out flip for digits and text."""
    overwrite: bool = False
    """Start anew where the output folder already holds experts."""
    dry_run: bool = False
    """Print the settings and what they cost in memory and disk, then stop."""

    network: NetworkName = "convnet"
    width: int = 128
    """Channels of the ConvNet."""
    depth: int | None = None
    """Blocks of the ConvNet; unless given 3 up to 32 pixels, 4 up to 64, and so on."""

    num_experts: int = 20
    """Papers use 100."""
    epochs: int = 50
    keep_epochs: int | None = None
    """Keep the weights of the first so many epochs only; matching needs those up to its last start plus its segment."""
    train_batch_size: int = 256
    learning_rate: float = 0.01
    """Of plain SGD, because the student has to imitate it."""
    flatness: Flatness = "gsam"
    """none: plain (what MTT follows). sam, gsam: lower the worst loss nearby (FTD). saf: keep to own past outputs."""
    rho: float = 0.05
    """Radius of sam and gsam."""
    alpha: float = 0.3
    """gsam: weight of the step against the part of the gradient that the nearby one has not."""
    adaptive: bool = False
    """Scale the radius by each weight's size. With it the published rho 0.01 hardly changes anything: see the docs."""
    saf_weight: float = 0.3
    saf_temperature: float = 5.0
    saf_lag: int = 3
    """Epochs between an output and the past one it is kept to."""
    saf_start: int = 5
    """Epoch after which saf begins; at least the lag."""
    experts_at_once: int | None = None
    """Experts trained side by side in one process; unless given 5 on a GPU, and 1 on a CPU, where it gains nothing."""
    mixed_precision: Precision = "auto"
    """Of the networks' products; auto takes bf16 where the machine has it. Weights and steps are float32."""
    seed: int = 0
    """Expert k is made from (seed, k)."""
    device: Device = "auto"

    @property
    def size(self) -> Size | None:
        """Height and width in pixels; None for the images' own."""
        return None if self.resolution is None else parse_size(self.resolution)

    @property
    def epochs_kept(self) -> int:
        """Epochs whose weights are written, besides the initial ones."""
        return self.epochs if self.keep_epochs is None else min(self.keep_epochs, self.epochs)

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        require(self, "num_experts epochs train_batch_size width saf_lag", at_least_1, "1 or more")
        require(self, "depth keep_epochs experts_at_once", lambda value: value is None or value >= 1, "1 or more")
        require(self, "learning_rate rho saf_temperature", lambda value: value > 0, "more than 0")
        require(self, "alpha saf_weight seed split_seed", lambda value: value >= 0, "0 or more")
        require(self, "validation_share", lambda value: 0 <= value < 1, "a share from 0 to less than 1")
        if self.flatness == "saf" and self.saf_start < self.saf_lag:
            raise UserError(f"--saf-start is {self.saf_start}; give at least --saf-lag, {self.saf_lag}")
        _ = self.size


@dataclass(kw_only=True)
class MatchConfig:
    """Distil: move the pixels of a few images so that training on them follows the experts' way.

    python distill/train.py match --experts runs/experts --images-per-class 1 --output-dir runs/one
    accelerate launch distill/train.py match --experts runs/experts --images-per-class 10 --output-dir runs/ten

    What is not given is taken from the published table's row for the method, the kind of data and the number of images.
    Stopped, the same command goes on.
    """

    experts: Path
    """Folder of the experts."""
    output_dir: Annotated[Path, tyro.conf.arg(aliases=["--output"])]
    """The run's folder: config.yaml, checkpoints/, metrics.jsonl, samples/ and the result."""
    images_per_class: int = 10
    method: Method = "ftd"
    """Whose settings: mtt, ftd (the same with an average of the images; flat experts are for the experts command), or
    datm (soft labels, later and widening starts)."""
    preset: PresetName = "auto"
    """Whose table: a data set; auto takes the one nearest in size and number of classes."""
    num_experts: int | None = None
    """Match the first so many experts only; the others can measure how far a student strays."""
    initial: str = "auto"
    """What the images begin as: random, herding, k-center or k-means (real ones), correct (real ones that experts
    classify correctly), noise, a data set, or a generator. auto is random, and correct for learned labels."""
    overwrite: bool = False
    """Start anew where the output folder already holds a run."""
    dry_run: bool = False
    """Print the settings and what they cost in memory and disk, then stop."""

    synthetic_steps: int | None = None
    """N: steps that a student takes on the set."""
    expert_epochs: int | None = None
    """M: epochs of the expert that they stand for."""
    min_start_epoch: int | None = None
    """First epoch that a student may start from."""
    max_start_epoch: int | None = None
    """The start is before this epoch."""
    first_max_start_epoch: int | None = None
    """Begin with starts before this epoch and widen evenly to --max-start-epoch."""
    widening_steps: int | None = None
    """Updates until then."""
    inner_batch_size: int | None = None
    """Images of a student's step; 0 for all."""
    labels: Labels | None = None
    """hard; learned: soft ones, from the experts at first; assigned: the target's own outputs, at every update anew."""
    learning_rate_images: float | None = None
    learning_rate_labels: float | None = None
    learning_rate_step_size: float | None = None
    initial_step_size: float | None = None
    """Learning rate of the student at first; learned."""
    ema_decay: float | None = None
    """Average of the images; the better of average and raw ones on held-out images is kept. 0 for none."""
    max_train_steps: int | None = None
    """Updates of the images."""
    threshold: float | None = None
    """Skip an update whose loss is above this: the student ended farther away than it began."""
    momentum: float = 0.5
    """Of the updates of images and step size."""
    label_momentum: float = 0.9
    min_step_size: float = 1e-4
    """The learned step size goes no lower."""
    max_bad_steps: int = 50
    """Stop after so many updates in a row that were skipped, or that held the step size at its floor."""
    starts_per_step: int = 1
    """Starting points per process whose gradients are averaged in an update."""

    grad_mode: GradMode = "adjoint"
    """adjoint: exact, in the memory of one step. autograd: exact, keeps all steps. frozen: TESLA's approximation."""
    keep_every: int = 1
    """Keep every so many-th vector of a student's way, and compute the others again: for networks of many weights."""
    compile: bool = False
    """Compile the adjoint of a step: pays on a GPU."""
    seed: int = 0
    device: Device = "auto"
    checkpointing_steps: int = 100
    checkpoints_total_limit: int = 2
    resume_from_checkpoint: Annotated[str, tyro.conf.arg(aliases=["--resume"])] = "latest"
    """latest: go on from the newest complete checkpoint of this run, if any. Or a checkpoint's folder, or none."""
    validation_steps: int | None = None
    """Measure on held-out images and draw a picture every so many updates; a tenth of all unless given, 0 for never."""
    validation_networks: int = 3
    """Fresh networks that are trained on the set to measure it."""
    validation_epochs: int = 300
    """Epochs of each on the set."""
    logging_steps: int = 10

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        counts = (
            "images_per_class max_bad_steps starts_per_step keep_every checkpointing_steps checkpoints_total_limit "
            "logging_steps validation_networks validation_epochs"
        )
        require(self, counts, at_least_1, "1 or more")
        require(self, "num_experts", lambda value: value is None or value >= 1, "1 or more")
        require(self, "validation_steps", lambda value: value is None or value >= 0, "0 or more")
        require(self, "seed", lambda value: value >= 0, "0 or more")
        require(self, "momentum label_momentum", lambda value: 0 <= value < 1, "at least 0 and less than 1")
        require(self, "min_step_size", lambda value: value > 0, "more than 0")
        self._check_row()

    def _check_row(self) -> None:
        """Raise UserError for a value in place of the row's that cannot work."""

        def check(names: str, fits: Callable[[float], bool], allowed: str) -> None:
            require(self, names, lambda value: value is None or fits(value), allowed)

        counts = "synthetic_steps expert_epochs max_start_epoch first_max_start_epoch max_train_steps"
        check(counts, lambda value: value >= 1, "1 or more")
        rates = "learning_rate_images learning_rate_labels learning_rate_step_size"
        check(f"min_start_epoch widening_steps inner_batch_size {rates}", lambda value: value >= 0, "0 or more")
        check("initial_step_size threshold", lambda value: value > 0, "more than 0")
        check("ema_decay", lambda value: 0 <= value < 1, "at least 0 and less than 1")

    def resolved(self, data: str, size: Size, num_classes: int) -> Hyperparameters:
        """What was given, and the rest from the published row."""
        row = hyperparameters(self.method, self.preset, self.images_per_class, data, size, num_classes)
        given = {name: getattr(self, name) for name in Hyperparameters._fields if getattr(self, name) is not None}
        row = row._replace(**given)
        row = row._replace(widening_steps=row.widening_steps if row.first_max_start_epoch else 0)
        return row


def at_least_1(value: int) -> bool:
    """Whether a count is one."""
    return value >= 1
