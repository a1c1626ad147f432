"""Settings of the inpainting recipes. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from gen.inpaint.presets import PRESETS, Preset, PresetName
from workbench.config import LRScheduler, TrainingConfig, require
from workbench.errors import UserError

MaskKind = Literal["centre", "rectangle", "strokes", "half"]


@dataclass(kw_only=True)
class InpaintConfig(TrainingConfig):
    """What the stages of diverse inpainting share."""

    preset: PresetName = "tiny32"
    """Sizes of all networks; give --resolution 64 or 256 with the others."""
    channels: int | None = None
    """1 for gray images, 3 for colour; that of the data unless given."""
    random_flip: bool = False
    """Mirror half of the training images."""
    crop_probability: float = 0.0
    """Share of training images that are random crops."""
    crop_max_scale: float = 2.0
    """A crop shows at least 1 / this of each side."""
    crop_max_upsampling: float = 1.25
    """Crops stop where the pixels of the set's largest images would be magnified more than this."""
    held_out_images: int = 64
    """Images for figures and pictures: of the data's validation or test split, else kept from the training."""

    adam_beta2: float = 0.999
    ema_decay: float = 0.9997

    @property
    def sizes(self) -> Preset:
        """Of all networks."""
        return PRESETS[self.preset]

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        factor = self.sizes.vqvae.factor
        if any(side % factor or side < 2 * factor for side in self.size):
            raise UserError(
                f"--resolution {self.resolution} does not fit --preset {self.preset}; "
                f"give multiples of {factor} from {2 * factor} on"
            )
        require(self, "crop_probability", lambda value: 0 <= value <= 1, "a share from 0 to 1")
        require(self, "crop_max_scale crop_max_upsampling", lambda value: value >= 1, "1 or more")
        require(self, "held_out_images", lambda value: value >= 1, "1 or more")
        require(self, "channels", lambda value: value in (None, 1, 3), "1 for gray or 3 for colour")


@dataclass(kw_only=True)
class MaskedConfig(InpaintConfig):
    """What the stages that see holes share."""

    vqvae: str = ""
    """The trained inpaint-vqvae run, or the folder of its result."""
    masks: list[MaskKind] = field(default_factory=lambda: ["rectangle", "strokes"])
    """Kinds of holes to learn, one drawn for each image in each step: centre, rectangle, strokes, half."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        if not self.vqvae:
            raise UserError("--vqvae is missing; give the run of gen/train.py inpaint-vqvae")
        kinds = get_args(MaskKind)
        if not self.masks or not set(self.masks) <= set(kinds):
            raise UserError(f"--masks is {' '.join(self.masks) or 'empty'}; give one or more of {', '.join(kinds)}")


@dataclass(kw_only=True)
class VQVAEConfig(InpaintConfig):
    """Train a hierarchical VQ-VAE: the first stage of diverse inpainting."""

    commitment_weight: float = 0.25
    """Of the distance between features and their codes, beside the mean squared error of the image."""
    texture_dropout_prob: float = 0.2
    """Share of training images that are decoded from their structure alone, so that the structure tokens tell what can
    be seen; the paper has 0."""
    codebook_decay: float = 0.99
    """Of the codebooks' moving averages."""
    dead_code_threshold: float = 0.01
    """A code moves away once it is used less than this share of an even use; 0 for never, as in the paper."""

    learning_rate: float = 3e-4
    lr_scheduler: LRScheduler = "constant_with_warmup"

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "commitment_weight", lambda value: value > 0, "more than 0")
        require(self, "texture_dropout_prob", lambda value: 0 <= value <= 1, "a share from 0 to 1")
        require(self, "codebook_decay dead_code_threshold", lambda value: 0 <= value < 1, "at least 0 and less than 1")


@dataclass(kw_only=True)
class StructureConfig(MaskedConfig):
    """Train the network that draws structures: the second stage of diverse inpainting, independent of the third."""

    dropout: float = 0.1
    """In the autoregressive network."""
    crops_per_image: int = 4
    """Structure tokens are cached for each whole image and, with --crop-probability, for crops of it: for so many."""

    learning_rate: float = 5e-4

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "dropout", lambda value: 0 <= value < 1, "at least 0 and less than 1")
        require(self, "crops_per_image", lambda value: value >= 1, "1 or more")
