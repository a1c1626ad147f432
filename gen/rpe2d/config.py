"""Settings of the `rpe2d` recipe. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gen.presets import PRESETS, Preset, PresetName
from gen.rpe2d.modes import PositionMode, PositionSampling
from workbench.config import TrainingConfig, parse_size, require
from workbench.errors import UserError


@dataclass(kw_only=True)
class RPE2DConfig(TrainingConfig):
    """Train an RPE-2D diffusion transformer: one training resolution, images at many.

    Random positions are an independent implementation of Hou et al. 2025 (arXiv 2503.18719); where the paper's value is
    not known, the default is this project's choice.
    """

    init_from: str | None = None
    """Start from the weights of this trained run or pipeline, of any resolution: multi-stage training."""
    vae: str | None = None
    """Train on the latents of this diffusers VAE's folder instead of on pixels; patches are then of latents."""
    crops_per_image: int = 4
    """Latents cached for each image: first the whole image, then random crops of --crop-probability's share of all. 1
    caches whole images only."""
    latent_cache: Path | None = None
    """Folder of the cached latents, to share between runs; in the run's folder unless given."""
    caption_column: str | None = None
    """Column of the data that holds each image's caption or list of attribute tokens; learned beside the label."""
    max_vocabulary: int = 1024
    """Most frequent tokens of the captions to learn."""
    max_caption_tokens: int = 32

    preset: PresetName = "tiny"
    """Depth and width; the three settings below replace parts of it."""
    num_layers: int | None = None
    num_attention_heads: int | None = None
    attention_head_dim: int | None = None
    """Channels of a head; the model's width is heads x head dim."""
    patch_size: int = 4
    """Side of a patch in pixels (or latents)."""
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    """RMS-normalise queries and keys: keeps low precision stable."""
    ffn_type: Literal["gelu", "swiglu"] = "gelu"
    gradient_checkpointing: bool = False
    """Compute the blocks again in the backward pass instead of keeping their activations."""
    compile: bool = False
    """Compile the blocks with torch.compile: pays on a GPU."""

    pos_embed_type: Literal["rope", "sincos", "lff", "table"] = "rope"
    """Rotary, sine-cosine, learnable Fourier features, or a learned table."""
    rope_theta: float = 100.0
    """Base of the frequencies of rope and sincos; 10000 suits grids of hundreds of patches."""
    max_positions: str = "16"
    """Positions trained along an axis, or ROWSxCOLUMNS: the largest grid of patches that can be generated. As many as
    the training grid has are fixed positions."""
    position_sampling: PositionSampling = "uniform"
    """Any ordered positions of the range, or one in each of as many equal parts as the grid has patches (an
    experiment)."""
    position_annealing_steps: int = 0
    """Widen the range from the training grid to --max-positions over so many steps: converts a model of fixed ones."""
    crop_aligned_positions: bool = False
    """Draw a crop's positions within its part of the range (an experiment)."""
    inference_positions: PositionMode = "equispaced"
    """How a grid is placed in the trained range at sampling."""

    class_dropout_prob: float = 0.1
    """Share of training images whose label and tokens are hidden, for classifier-free guidance."""
    random_flip: bool = False
    """Mirror half of the training images."""
    crop_conditioning: bool = True
    """Tell the network which crop of the image it sees."""
    crop_probability: float = 0.5
    """Share of training images that are random crops."""
    crop_max_scale: float = 2.0
    """A crop shows at least 1 / this of each side."""
    crop_max_upsampling: float = 1.25
    """Crops stop where the pixels of the set's largest images would be magnified more than this."""

    validation_images: int = 64
    """Pictures of a validation grid."""
    validation_inference_steps: int = 25
    validation_guidance_scale: float = 1.5

    @property
    def position_range(self) -> tuple[int, int]:
        """Positions trained along rows and columns."""
        return parse_size(self.max_positions)

    @property
    def shape(self) -> Preset:
        """Depth and width: the preset's, but for what was given."""
        preset = PRESETS[self.preset]
        given = {name: getattr(self, name) for name in Preset._fields if getattr(self, name) is not None}
        return preset._replace(**given)

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        require(self, "patch_size", lambda value: value >= 1, "1 or more")
        if self.vae is None:
            self.check_patches()
        elif self.crop_aligned_positions:
            raise UserError("--crop-aligned-positions needs crops drawn in each step; leave it out, or --vae")
        for name, value in self.shape._asdict().items():
            if value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}; give 1 or more")
        counts = "validation_inference_steps max_vocabulary max_caption_tokens crops_per_image"
        require(self, counts, lambda value: value >= 1, "1 or more")
        counts = "position_annealing_steps validation_images"
        require(self, counts, lambda value: value >= 0, "0 or more")
        require(self, "mlp_ratio", lambda value: value > 0, "more than 0")
        require(self, "rope_theta", lambda value: value > 1, "more than 1")
        require(self, "class_dropout_prob crop_probability", lambda value: 0 <= value <= 1, "a share from 0 to 1")
        require(self, "crop_max_scale crop_max_upsampling", lambda value: value >= 1, "1 or more")

    def check_patches(self, scale_factor: int = 1) -> None:
        """Raise UserError where the training images are no grid of patches that the positions can hold.

        `scale_factor`: pixels along a side of one element of the latents.
        """
        height, width = self.size
        patch = self.patch_size * scale_factor
        if height % patch or width % patch:
            raise UserError(
                f"--resolution {self.resolution} is not made of whole patches of {patch} pixels; "
                f"give multiples of {patch}, or another --patch-size"
            )
        for patches, positions in zip((height // patch, width // patch), self.position_range, strict=True):
            if patches > positions:
                raise UserError(
                    f"--resolution {self.resolution} has {patches} patches along an axis but --max-positions is "
                    f"{self.max_positions}; give at least {patches}, and more to generate larger images"
                )
