"""Settings of the texture stage and of all stages in a row. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass, field
from typing import Literal

from gen.inpaint.config import InpaintConfig, MaskedConfig, MaskKind
from workbench.config import LRScheduler, require
from workbench.errors import UserError

AttentionKeys = Literal["all", "known"]


@dataclass(kw_only=True)
class TextureConfig(MaskedConfig):
    """Train the network that paints an image over a structure: the third stage of diverse inpainting.

    It needs the first stage alone: train it beside the second. The generator and its discriminator are updated in the
    same steps.
    """

    attention: Literal["all", "known", "none"] = "all"
    """What a place in the hole reads from: all places, as in the paper, or only those without a hole; none leaves the
    structural attention out."""
    fuse: bool = True
    """Let neighbours have a say in the attention."""
    attention_scale: float = 50.0
    """Factor on the attention's scores, which are in [-1, 1]."""
    single_stage: bool = False
    """Paint without a structure, and so without the attention: an ablation, which has one completion for a hole."""

    reconstruction_weight: float = 1.0
    """Of the mean absolute error of the whole image."""
    adversarial_weight: float = 1.0
    """Of the discriminator's opinion of the completed image."""
    adversarial_warmup_steps: int = 0
    """Raise the adversarial weight from 0 over so many steps."""
    feature_weight: float = 0.1
    """Of the structural and of the textural feature loss, which the VQ-VAE's encoder judges."""

    train_batch_size: int = 16
    learning_rate: float = 4e-4
    adam_beta1: float = 0.5
    lr_scheduler: LRScheduler = "constant_with_warmup"
    max_grad_norm: float = 100.0
    """Of both networks together; the paper has no limit."""
    ema_decay: float = 0.0
    """0 publishes the trained generator itself, as the paper does, and not its average."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "attention_scale", lambda value: value > 0, "more than 0")
        weights = "reconstruction_weight adversarial_weight adversarial_warmup_steps feature_weight"
        require(self, weights, lambda value: value >= 0, "0 or more")


@dataclass(kw_only=True)
class DiverseInpaintConfig(InpaintConfig):
    """Train all stages of diverse inpainting, each in a folder of its own below the output folder, and join them.

    Each stage is a recipe of its own (inpaint-vqvae, inpaint-structure, inpaint-texture): what is not given here is
    that stage's default. Stages that were trained already, on other machines perhaps, are given by their runs. An
    interrupted chain goes on where it was.
    """

    masks: list[MaskKind] = field(default_factory=lambda: ["rectangle", "strokes"])
    """Kinds of holes to learn: centre, rectangle, strokes, half."""
    vqvae: str | None = None
    """Take the result of this inpaint-vqvae run, instead of training one."""
    structure: str | None = None
    """Take the result of this inpaint-structure run."""
    texture: str | None = None
    """Take the result of this inpaint-texture run."""
    vqvae_steps: int | None = None
    """As --max-train-steps, which is of each stage, unless given."""
    structure_steps: int | None = None
    texture_steps: int | None = None

    train_batch_size: int | None = None  # type: ignore[assignment]
    """Each stage's own unless given."""
    learning_rate: float | None = None  # type: ignore[assignment]
    """Each stage's own unless given."""
    lr_scheduler: LRScheduler | None = None  # type: ignore[assignment]
    """Each stage's own unless given."""
    lr_warmup_steps: int | None = None  # type: ignore[assignment]
    """Each stage's own unless given."""
    adam_beta1: float | None = None  # type: ignore[assignment]
    """Each stage's own unless given."""
    adam_beta2: float | None = None  # type: ignore[assignment]
    """Each stage's own unless given."""
    max_grad_norm: float | None = None  # type: ignore[assignment]
    """Each stage's own unless given."""
    ema_decay: float | None = None  # type: ignore[assignment]
    """Each stage's own unless given."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work; each stage checks what is handed down to it."""
        counts = "max_train_steps vqvae_steps structure_steps texture_steps"
        require(self, counts, lambda value: value is None or value >= 1, "1 or more")
        if self.vqvae is None and (self.structure or self.texture):
            raise UserError(
                "--vqvae is missing; give the run of the VQ-VAE that the given --structure or --texture belongs to"
            )
