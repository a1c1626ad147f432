"""Settings of the `pixel` recipes. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass
from typing import Literal

from gen.pixel.presets import PIXEL_PRESETS, PixelPreset, PixelPresetName
from workbench.config import TrainingConfig, require
from workbench.errors import UserError


@dataclass(kw_only=True)
class PixelTrainingConfig(TrainingConfig):
    """What all stages share: the network, the noise and the images."""

    train_batch_size: int = 128
    """Images per process and per forward pass."""

    preset: PixelPresetName = "tiny"
    """Depth and widths; the settings below replace parts of it."""
    num_layers: int | None = None
    """Depth of the encoder, and of the decoder."""
    num_attention_heads: int | None = None
    attention_head_dim: int | None = None
    """Channels of a head; the encoder's width is heads x head dim."""
    decoder_num_attention_heads: int | None = None
    decoder_attention_head_dim: int | None = None
    patch_size: int = 4
    """Side of a patch in pixels."""
    gradient_checkpointing: bool = False
    """Compute the blocks again in the backward pass instead of keeping their activations."""
    compile: bool = False
    """Compile the blocks with torch.compile: pays on a GPU."""

    sigma_min: float = 0.002
    """Least noise, as a standard deviation; the images' own is 0.5."""
    sigma_max: float = 20.0
    """Most noise. The paper's 80 is drawn too seldom to be learned in a short run."""
    sigma_shift: float = 1.0
    """Factor on all noise levels; the paper takes height / 64."""
    random_flip: bool = False
    """Mirror half of the training images."""

    @property
    def shape(self) -> PixelPreset:
        """Depth and widths: the preset's, but for what was given."""
        preset = PIXEL_PRESETS[self.preset]
        given = {name: getattr(self, name) for name in PixelPreset._fields if getattr(self, name, None) is not None}
        return preset._replace(**given)

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "patch_size", lambda value: value >= 1, "1 or more")
        if any(side % self.patch_size for side in self.size):
            raise UserError(
                f"--resolution {self.resolution} is not made of whole patches of {self.patch_size} pixels; "
                f"give multiples of {self.patch_size}, or another --patch-size"
            )
        for name, value in self.shape._asdict().items():
            if value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}; give 1 or more")
        require(self, "sigma_min sigma_shift", lambda value: value > 0, "more than 0")
        require(self, "sigma_max", lambda value: value > self.sigma_min, f"more than --sigma-min {self.sigma_min}")


@dataclass(kw_only=True)
class PretrainingConfig(PixelTrainingConfig):
    """Train an encoder without labels, for a generator to start from.

    It learns to tell images apart whatever their crop and colours (contrast of two views), and to see the same in an
    image at neighbouring noise levels. Stage 1 of EPG (Lei et al. 2025, arXiv 2510.12586).
    """

    train_batch_size: int = 128
    """Images per process. All of a step's images are each other's negatives: too few, and little is learned."""
    ema_decay: float = 0.0
    """0 publishes the trained encoder itself, as the paper does, and not its average."""

    views: Literal["auto", "gray", "small", "imagenet"] = "auto"
    """How the two views are made. auto: gray for images of one channel, small (no blur, little colour) below 96 pixels
    a side, else as for ImageNet."""
    projector_hidden_dim: int | None = None
    projector_dim: int | None = None
    """Numbers that the views are compared by; the preset's unless given."""
    target_momentum: float = 0.99
    """Share that the slow copy of the encoder, which the views' keys come from, keeps in each step."""
    contrast_weight: float = 1.0
    """Of the contrast of views; 0 leaves it out."""
    contrast_temperature: float = 0.2
    consistency_weight: float = 1.0
    """Of the consistency between noise levels; 0 leaves it out."""
    consistency_temperature: float = 0.1
    """Of that consistency, at the least noise."""
    consistency_temperature_at_most_noise: tuple[float, float] = (0.2, 0.1)
    """At the start, and from two thirds of the steps on. 0.1 0.1 is what the paper's code was released with."""
    first_levels: int = 20
    """Intervals of noise that neighbours are drawn from at the start; they double from time to time."""
    final_levels: int = 80
    """At the end. The paper's 1280 takes a long run: what is seen has to pass from each level to the next."""
    probe_images: int = 2000
    """Images whose classes validation looks for among their neighbours, at three noise levels; 0 for none."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "train_batch_size", lambda value: value >= 2, "2 or more, to be told from each other")
        counts = "first_levels final_levels projector_hidden_dim projector_dim"
        require(self, counts, lambda value: value is None or value >= 1, "1 or more")
        require(self, "contrast_weight consistency_weight probe_images", lambda value: value >= 0, "0 or more")
        require(self, "target_momentum", lambda value: 0 <= value < 1, "at least 0 and less than 1")
        require(self, "contrast_temperature consistency_temperature", lambda value: value > 0, "more than 0")
        pair = "consistency_temperature_at_most_noise"
        require(self, pair, lambda values: min(values) > 0, "two numbers above 0")
        if self.first_levels > self.final_levels:
            raise UserError(
                f"--first-levels is {self.first_levels} but --final-levels is {self.final_levels}; give no more"
            )
        if not self.contrast_weight and not self.consistency_weight:
            raise UserError("--contrast-weight and --consistency-weight are both 0: nothing is learned; raise one")
        forbid_accumulation(self)


@dataclass(kw_only=True)
class GeneratorConfig(PixelTrainingConfig):
    """What both kinds of generators share."""

    init_from: str | None = None
    """Start from the weights of this trained run: an encoder, or a whole generator. From nothing unless given."""
    log_sigma_mean: float = 0.0
    """Noise levels are drawn with this mean of their logarithm,"""
    log_sigma_std: float = 1.4
    """and this standard deviation; both before the shift."""

    validation_images: int = 64
    """Pictures of a validation grid."""
    validation_inference_steps: int = 18
    validation_guidance_scale: float = 1.0

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "log_sigma_std", lambda value: value > 0, "more than 0")
        require(self, "validation_images", lambda value: value >= 0, "0 or more")
        require(self, "validation_inference_steps", lambda value: value >= 1, "1 or more")


@dataclass(kw_only=True)
class DiffusionConfig(GeneratorConfig):
    """Train a diffusion model of pixels, from nothing or from a pre-trained encoder (--init-from).

    Stage 2 of EPG (Lei et al. 2025, arXiv 2510.12586).
    """

    class_dropout_prob: float = 0.1
    """Share of training images whose label is hidden, for classifier-free guidance."""
    diffusion_levels: int = 1280
    """Noise levels that training draws from."""
    diffusion_weight: Literal["smooth", "steps", "velocity"] = "smooth"
    """smooth: sigma^(-6/7). steps: one over the distance to the next level, as released; of 1280 levels up to sigma 80
    that is 126 times as much: choose --max-grad-norm with it. velocity: as if the flow's velocity were compared (JiT,
    arXiv 2511.13720, with --log-sigma-mean 0.8 --log-sigma-std 0.8)."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "class_dropout_prob", lambda value: 0 <= value <= 1, "a share from 0 to 1")
        require(self, "diffusion_levels validation_inference_steps", lambda value: value >= 2, "2 or more")


@dataclass(kw_only=True)
class ConsistencyConfig(GeneratorConfig):
    """Train a consistency model, which makes an image in one step, by consistency tuning (ECT, arXiv 2406.14548).

    Start from a diffusion model (--init-from its run): the shorter road. The road of EPG (Lei et al. 2025, arXiv
    2510.12586) starts from the pre-trained encoder, and keeps a frozen copy as guide: give its run to --init-from and
    to --guide.
    """

    validation_inference_steps: int = 1

    guide: str | None = None
    """Run of a pre-trained encoder that should see the same in the clean image and in what is made of its noise."""
    guide_weight: float = 1.0
    guide_feature: Literal["representation", "projection"] = "representation"
    """What of the guide is compared. The released code takes the projection, whose statistics are of noisy images."""
    guide_temperature: float = 0.1
    num_stages: int = 6
    """Stages of equal length; in each the two noise levels of a pair come closer."""
    first_stage: int = 1
    """0 begins with a stage of plain denoising."""
    gap_base: float = 2.0
    """In stage m, level t is paired with t (1 - gap_base^-m (1 + gap_extra sigmoid(-gap_slope t)))."""
    gap_extra: float = 8.0
    """Wider gaps where there is little noise."""
    gap_slope: float = 1.0
    """How fast those end as noise grows."""
    huber: float = 0.06
    """Differences of images much below this count by their square, others by themselves."""
    dropout: float = 0.0
    """Of the decoder's attention; a pair shares its mask. The released script has 0.5."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "num_stages", lambda value: value >= 1, "1 or more")
        require(self, "first_stage gap_extra gap_slope guide_weight", lambda value: value >= 0, "0 or more")
        require(self, "gap_base", lambda value: value > 1, "more than 1")
        require(self, "huber guide_temperature", lambda value: value > 0, "more than 0")
        require(self, "dropout", lambda value: 0 <= value < 1, "at least 0 and less than 1")
        require(self, "validation_guidance_scale", lambda value: value == 1, "1: guidance is for diffusion models")
        if self.guide:
            forbid_accumulation(self)


@dataclass(kw_only=True)
class PixelConfig(PixelTrainingConfig):
    """Train a generator of pixels in all its stages, each in a folder of its own below the output folder.

    Each stage is a recipe of its own (pixel-pretrain, pixel-diffusion, pixel-consistency) with settings of its own,
    which are its defaults here. An interrupted chain goes on where it was.
    """

    goal: Literal["one-step", "diffusion", "one-step-from-encoder"] = "one-step"
    """one-step: encoder, diffusion model, consistency model. diffusion: without the last. one-step-from-encoder: the
    consistency model straight from the encoder, as in the paper."""
    pretraining_steps: int | None = None
    """As --max-train-steps, which is of each stage, unless given. 0 leaves pre-training out."""
    diffusion_steps: int | None = None
    consistency_steps: int | None = None
    validation_images: int = 64
    """Pictures of a validation grid."""

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "validation_images", lambda value: value >= 0, "0 or more")
        require(self, "pretraining_steps", lambda value: value is None or value >= 0, "0 or more")
        counts = "diffusion_steps consistency_steps"
        require(self, counts, lambda value: value is None or value >= 1, "1 or more")
        if self.resume_from_checkpoint not in ("latest", "none"):
            raise UserError("--resume-from-checkpoint belongs to one stage; give it to pixel-pretrain and so on")
        if self.pretraining_steps == 0 and self.goal == "one-step-from-encoder":
            raise UserError("--goal one-step-from-encoder needs an encoder; give --pretraining-steps 1 or more")


def forbid_accumulation(config: TrainingConfig) -> None:
    """Raise UserError for gradient accumulation: a contrast needs all images of the step at once."""
    if config.gradient_accumulation_steps > 1:
        raise UserError(
            f"--gradient-accumulation-steps is {config.gradient_accumulation_steps}, but all images of a step are "
            "compared with each other: give 1, and a larger --train-batch-size or more processes"
        )
