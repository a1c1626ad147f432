"""Settings of the `ttame` recipe. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from workbench.config import Size, TrainingConfig, parse_size, require
from workbench.errors import UserError

PresetName = Literal["paper", "ptame-like"]
PRESETS: dict[PresetName, dict[str, Any]] = {
    # T-TAME, IEEE Access 2024, as its authors' scripts train it
    "paper": {
        "confidence_weight": 1.5, "area_weight": 2.0, "variation_weight": 0.01, "area_exponent": 0.3,
        "optimizer": "sgd", "learning_rate": 1e-3, "adam_weight_decay": 5e-4,
    },
    # P-TAME, arXiv 2501.17813: of its tuned weights, which differ by the network, the middle ones
    "ptame-like": {
        "confidence_weight": 0.15, "area_weight": 0.84, "variation_weight": 0.0, "area_exponent": 0.5,
        "optimizer": "adamw", "learning_rate": 1e-4, "adam_weight_decay": 0.01,
    },
}  # fmt: skip


class LossSettings(NamedTuple):
    """Weights of the terms of the loss, and the power of the area."""

    confidence_weight: float
    area_weight: float
    variation_weight: float
    area_exponent: float


@dataclass(kw_only=True)
class TTameConfig(TrainingConfig):
    """Train a T-TAME attention module: it learns which pixels, kept alone, let a classifier see the class it saw.

    It needs images only, no labels: the classifier's own predictions are the targets. An independent implementation of
    Ntrougkas et al. 2024 (arXiv 2403.04523).
    """

    classifier: str
    """A folder of `workbench classify train`, timm:NAME, transformers:NAME, torchvision:NAME, efficientnet-lite0, or
    MODULE:FUNCTION."""
    classifier_fingerprint: Annotated[str | None, tyro.conf.Suppress] = None
    """Of the classifier that the run began with; another one is refused."""
    preset: PresetName = "paper"
    """Where the settings below that are not given come from; also optimizer, rate and weight decay."""
    layers: list[str] | None = None
    """Layers to read, by name; chosen by the shapes of their outputs unless given. --dry-run lists them."""
    num_layers: int = 3
    """At most so many, where they are not named."""
    max_map_size: int = 56
    """Places along a side of the maps: those of the first layer, but not more than this."""

    confidence_weight: float | None = None
    """Of keeping the class on the masked image."""
    area_weight: float | None = None
    """Of a small mask."""
    variation_weight: float | None = None
    """Of a smooth mask, as the paper counts it at its batch of 32; any other batch is converted."""
    area_exponent: float | None = None
    """Below 1: a few bright places are better than many dim ones."""
    regularise: Literal["batch", "own"] = "batch"
    """Which maps of an image are kept small and smooth: those of all classes of its batch, or that of its own class."""
    fill: Literal["black", "mean", "blur"] = "black"
    """What is seen where the mask is 0: black in the paper, the image's mean colour, or the image blurred."""

    resolution: str = "auto"
    """Side of the training images in pixels, or HEIGHTxWIDTH; auto: what the classifier takes."""
    crop_margin: float = 256 / 224
    """Images are read so much larger than they are shown, and cropped at random."""
    random_flip: bool = True
    """Mirror half of the training images."""
    max_images: int = 10_000
    """Hold at most so many images of the data in memory, chosen at random."""
    cache_features: bool = False
    """Keep what the classifier says of the whole images, in half precision: a step shows it the masked ones only. Takes
    memory (a ResNet-50 at 224 px: 1.4 MB an image), and needs --no-random-flip --crop-margin 1."""
    find_learning_rate: bool = False
    """Do not train, but show the loss over a hundred steps as the rate rises, and suggest one."""

    train_batch_size: int = 32
    """Images per process and per forward pass."""
    max_train_steps: int = 500
    """Updates of the weights. The paper does 8 epochs; 300 to 500 steps are enough for small sets."""
    optimizer: Literal["adamw", "muon", "sgd"] | None = None  # type: ignore[assignment]
    """The preset's: sgd with Nesterov momentum in the paper."""
    learning_rate: float | None = None  # type: ignore[assignment]
    """The preset's. Highest rate of the cycle; small classifiers learn faster at 1e-2."""
    adam_weight_decay: float | None = None  # type: ignore[assignment]
    """The preset's. Of sgd too."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "one_cycle"] = "one_cycle"
    adam_beta2: float = 0.999
    max_grad_norm: float = 1000.0
    """Clip the gradient's norm to this: the paper does not."""
    ema_decay: float = 0.0
    """0 publishes the trained weights themselves, as the paper does, and not their average."""

    validation_images: int = 64
    """Held-out images to measure on; the first eight are shown in samples/."""

    def __post_init__(self) -> None:
        for name, value in PRESETS.get(self.preset, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    @property
    def loss_settings(self) -> LossSettings:
        """Those given, and the preset's for the others."""
        return LossSettings(**{name: getattr(self, name) for name in LossSettings._fields})

    @property
    def asked_size(self) -> Size | None:
        """Height and width that were asked for; None: those of the classifier."""
        return None if self.resolution == "auto" else parse_size(self.resolution)

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "num_layers max_map_size max_images", lambda value: value >= 1, "1 or more")
        weights = "confidence_weight area_weight variation_weight validation_images"
        require(self, weights, lambda value: value >= 0, "0 or more")
        require(self, "area_exponent", lambda value: 0 < value <= 1, "more than 0 and at most 1")
        require(self, "crop_margin", lambda value: value >= 1, "1 or more")
        if self.cache_features and (self.random_flip or self.crop_margin > 1):
            raise UserError(
                "--cache-features is for images that are shown alike each time; give --no-random-flip --crop-margin 1"
            )

    def check_resolution(self) -> None:
        """Raise UserError for a resolution that is neither auto nor a size."""
        if self.resolution != "auto":
            parse_size(self.resolution)
