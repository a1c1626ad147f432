"""Settings of the main job. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass, field
from pathlib import Path

from workbench.config import Device, parse_size
from workbench.errors import UserError

PATCH = 4  # pixels; suits images of 24 to 64
ZOO = "zoo:fashion-rpe2d"


@dataclass(kw_only=True)
class QuickstartConfig:
    """The main job on real images: take or train a generator, make a documented data set with it, measure it, report.

    workbench quickstart
    workbench quickstart --generator train
    workbench quickstart --data path/to/folder --output runs/mine --max-train-steps 5000

    A few minutes on two CPU cores as it stands; four more where the generator is trained. Interrupted, the same command
    goes on where it was.
    """

    data: str = "fashion-mnist:extract"
    """Labelled real images: a name, an image folder, a parquet file, shards, or a hub name."""
    output: Path = Path("runs/quickstart")
    """Where everything is written; open report.html there."""
    generator: str = "auto"
    """auto: the zoo's where the data is Fashion-MNIST, else one is trained on the data. train: always train one. Or a
    trained run's or pipeline's folder."""
    resolution: str = "32"
    """Size of the training images, of a generator and of classifiers."""
    size: list[str] = field(default_factory=lambda: ["32", "48", "48x32"])
    """Sizes to generate, HEIGHTxWIDTH or one number."""
    num_images: int = 1500
    """Images to generate, shared by the sizes."""
    max_train_steps: int = 1800
    """Updates of a generator that is trained."""
    train_batch_size: int = 64
    max_positions: str = "16"
    """The generator's range: sizes up to this many patches of 4 pixels a side."""
    guidance_scale: float = 1.5
    num_inference_steps: int = 20
    classifier_steps: int = 200
    """Updates of each classifier."""
    classifier_width: int = 32
    classifier_seeds: int = 3
    """Classifiers trained on each of real, generated, and both: the spread is reported."""
    seed: int = 0
    device: Device = "auto"
    overwrite: bool = False
    """Start anew where the output folder already holds a quickstart."""

    @property
    def source(self) -> str:
        """`train`, or the generator to take."""
        if self.generator != "auto":
            return self.generator
        return ZOO if self.data.split(":")[0] == "fashion-mnist" else "train"

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        for name in ("num_images", "max_train_steps", "classifier_steps", "classifier_width", "classifier_seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        if self.source == "train":
            self._check_sizes()
        for size in self.size:
            parse_size(size)

    def _check_sizes(self) -> None:
        """A generator that is trained here has patches and a range of positions that are known beforehand."""
        positions = parse_size(self.max_positions)
        for size in [self.resolution, *self.size]:
            for side, most in zip(parse_size(size), positions, strict=True):
                if side % PATCH or side > most * PATCH:
                    raise UserError(
                        f"{size} cannot be made of patches of {PATCH} pixels, {most} a side; give multiples of {PATCH} "
                        f"up to {most * PATCH}, or a larger --max-positions"
                    )
