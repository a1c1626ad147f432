"""Settings of the `rpe2d` recipe. Light (no torch), because `--help` reads it."""

from dataclasses import dataclass
from typing import Literal

from workbench.config import TrainingConfig, parse_size
from workbench.errors import UserError


@dataclass(kw_only=True)
class RPE2DConfig(TrainingConfig):
    """Train an RPE-2D diffusion transformer: one training resolution, images at many.

    Random positions are an independent implementation of Hou et al. 2025 (arXiv 2503.18719); where the paper's value is
    not known, the default is this project's choice.
    """

    patch_size: int = 4
    """Side of a patch in pixels."""
    num_layers: int = 6
    num_attention_heads: int = 4
    attention_head_dim: int = 32
    """Channels of a head; the model's width is heads x head dim."""
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    """RMS-normalise queries and keys: keeps low precision stable."""
    rope_theta: float = 100.0
    """Base of the rotary frequencies; 10000 suits grids of hundreds of patches."""
    max_positions: str = "16"
    """Positions trained along an axis, or ROWSxCOLUMNS: the largest grid of patches that can be generated."""
    inference_positions: Literal["equispaced", "isotropic", "centered", "random"] = "equispaced"
    """How a grid is placed in the trained range at sampling."""

    class_dropout_prob: float = 0.1
    """Share of training images whose label is hidden, for classifier-free guidance."""
    random_flip: bool = False
    """Mirror half of the training images."""
    crop_conditioning: bool = True
    """Tell the network which crop of the image it sees."""
    crop_probability: float = 0.5
    """Share of training images that are random crops."""
    crop_max_scale: float = 2.0
    """A crop shows at least 1 / this of each side."""

    validation_images: int = 64
    """Pictures of a validation grid."""
    validation_inference_steps: int = 25
    validation_guidance_scale: float = 1.5

    @property
    def position_range(self) -> tuple[int, int]:
        """Positions trained along rows and columns."""
        return parse_size(self.max_positions)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of a training image."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    def check(self) -> None:
        """Raise UserError for a value that cannot work."""
        super().check()
        self._check_patches()
        for name in ("num_layers", "num_attention_heads", "attention_head_dim", "validation_inference_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")
        for name in ("mlp_ratio", "rope_theta"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give more than 0")
        for name in ("class_dropout_prob", "crop_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give a share from 0 to 1")
        if self.crop_max_scale < 1:
            raise UserError(f"--crop-max-scale is {self.crop_max_scale}; give 1 or more")

    def _check_patches(self) -> None:
        height, width = self.size
        if self.patch_size < 1:
            raise UserError(f"--patch-size is {self.patch_size}; give 1 or more")
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"--resolution {self.resolution} is not made of whole patches of {self.patch_size} pixels; "
                f"give multiples of {self.patch_size}, or another --patch-size"
            )
        for patches, positions in zip(self.grid, self.position_range, strict=True):
            if patches > positions:
                raise UserError(
                    f"--resolution {self.resolution} has {patches} patches along an axis but --max-positions is "
                    f"{self.max_positions}; give at least {patches}, and more to generate larger images"
                )
