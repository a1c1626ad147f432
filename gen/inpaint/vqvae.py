"""The hierarchical VQ-VAE: a small map of structure tokens above a larger one of texture tokens.

Only the sizes of the maps split structure from texture; no loss does. Layers as in the paper's code; the skeleton is
that of VQ-VAE-2 (Razavi et al. 2019, arXiv 1906.00446).

Shapes: B batch, C channels, H W pixels, D code dim; ht wt structure tokens, each a square of `factor` pixels; hb wb
texture tokens, twice as many along each side.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from gen.inpaint.quantiser import Quantised, Quantiser
from gen.loading import read_component
from workbench.errors import UserError


class Encoded(NamedTuple):
    """An image's features before quantisation, and the tokens of both levels."""

    top: Float[Tensor, "b d ht wt"]
    bottom: Float[Tensor, "b d hb wb"]
    top_ids: Int64[Tensor, "b ht wt"]
    bottom_ids: Int64[Tensor, "b hb wb"]


class Reconstructed(NamedTuple):
    """Images after both quantisers, and how far features were from their codes: the sum of both levels."""

    images: Float[Tensor, "b c h w"]
    commitment: Float[Tensor, ""]


class HierarchicalVQVAE(ModelMixin, ConfigMixin):
    """Images to structure and texture tokens, and back.

    Args:
        channels: of the images, which are in [-1, 1].
        first_stride: 2 as in the paper: 8 pixels along each side of a structure token; 1 for small images: 4.
        width, residual_width, num_residual_blocks: of the convolutions.
        code_dim, num_codes: of each level's codebook.
        codebook_decay, dead_code_threshold: see `Quantiser`.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 3,
        first_stride: int = 2,
        width: int = 128,
        residual_width: int = 64,
        num_residual_blocks: int = 2,
        code_dim: int = 64,
        num_codes: int = 512,
        codebook_decay: float = 0.99,
        dead_code_threshold: float = 0.01,
    ) -> None:
        super().__init__()
        half = width // 2

        def residual() -> nn.Sequential:
            blocks = [ResidualBlock(width, residual_width) for _ in range(num_residual_blocks)]
            return nn.Sequential(*blocks, nn.ELU())

        self.bottom_encoder = nn.Sequential(
            _resized(nn.Conv2d, channels, half, first_stride), nn.ELU(),
            _resized(nn.Conv2d, half, width, 2), nn.ELU(),
            nn.Conv2d(width, width, 3, padding=1), residual(),
        )  # fmt: skip
        self.top_encoder = nn.Sequential(
            _resized(nn.Conv2d, width, half, 2), nn.ELU(),
            nn.Conv2d(half, width, 3, padding=1), residual(),
            nn.Conv2d(width, code_dim, 1),
        )  # fmt: skip
        self.top = Quantiser(num_codes, code_dim, codebook_decay, dead_code_threshold)
        self.top_decoder = nn.Sequential(
            nn.Conv2d(code_dim, width, 3, padding=1), residual(), _resized(nn.ConvTranspose2d, width, width, 2)
        )
        self.merge = nn.Conv2d(2 * width, code_dim, 1)
        self.bottom = Quantiser(num_codes, code_dim, codebook_decay, dead_code_threshold)
        self.upsample_top = _resized(nn.ConvTranspose2d, code_dim, code_dim, 2)
        self.decoder = nn.Sequential(
            nn.Conv2d(2 * code_dim, width, 3, padding=1), residual(),
            _resized(nn.ConvTranspose2d, width, half, 2), nn.ELU(),
            _resized(nn.ConvTranspose2d, half, channels, first_stride),
        )  # fmt: skip
        self.apply(initialise)

    @property
    def factor(self) -> int:
        """Pixels along each side of a structure token."""
        return 4 * int(self.config.first_stride)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of structure tokens. Raises UserError when the size is not made of whole ones."""
        factor = self.factor
        if height % factor or width % factor or min(height, width) < factor:
            raise UserError(f"{height}x{width} pixels are not whole structure tokens; give multiples of {factor}")
        return height // factor, width // factor

    def forward(
        self, images: Float[Tensor, "b c h w"], without_texture: Bool[Tensor, " b"] | None = None
    ) -> Reconstructed:
        """Through both quantisers and back; in training mode they note what they see.

        `without_texture`: images to decode from their structure alone, with texture vectors of zero.
        """
        _, top, _, bottom = self._quantise(images)
        texture = bottom.vectors
        if without_texture is not None:
            texture = texture.masked_fill(without_texture[:, None, None, None], 0.0)
        return Reconstructed(self.decode(top.vectors, texture), top.commitment + bottom.commitment)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Encoded:
        """Features and tokens of images in [-1, 1]; the gradient of `bottom` reaches the images through both levels."""
        top_features, top, bottom_features, bottom = self._quantise(images)
        return Encoded(top_features, bottom_features, top.ids, bottom.ids)

    def _quantise(self, images: Tensor) -> tuple[Tensor, Quantised, Tensor, Quantised]:
        self.grid(*images.shape[-2:])
        below = self.bottom_encoder(images)
        top_features = self.top_encoder(below)
        top = self.top(top_features)
        bottom_features = self.merge(torch.cat([below, self.top_decoder(top.vectors.to(below.dtype))], dim=1))
        return top_features, top, bottom_features, self.bottom(bottom_features)

    def decode(
        self, top_vectors: Float[Tensor, "b d ht wt"], bottom_vectors: Float[Tensor, "b d hb wb"]
    ) -> Float[Tensor, "b c h w"]:
        """Images, about [-1, 1]: clamp them to look at them."""
        up = self.upsample_top(top_vectors.to(self.dtype))
        return self.decoder(torch.cat([bottom_vectors.to(up.dtype), up], dim=1))

    def structure_picture(self, top_ids: Int64[Tensor, "b ht wt"]) -> Float[Tensor, "b c h w"]:
        """What structure tokens show by themselves, in [-1, 1]: decoded with texture vectors of zero."""
        top = self.top.vectors(top_ids)
        height, width = top.shape[-2:]
        return self.decode(top, top.new_zeros(*top.shape[:2], 2 * height, 2 * width)).clamp(-1, 1)

    def codebook_hash(self) -> str:
        """SHA-256 of the structure codebook: says which structure and texture networks belong to it.

        Of its codes in half precision, so that a model whose weights are stored so is the same one.
        """
        codes = self.top.codebook.detach().half().cpu().contiguous()
        return hashlib.sha256(codes.numpy().tobytes()).hexdigest()

    @torch.no_grad()
    def start_codebooks(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> None:
        """Begin with codes among the features of these images, chosen by a generator of the CPU."""
        was_training = self.training
        self.eval()
        for level, features in ((self.top, "top"), (self.bottom, "bottom")):  # the bottom features need the top codes
            found = getattr(self.encode(images), features).float().movedim(1, -1).flatten(0, -2)
            order = torch.randperm(len(found), generator=generator).to(found.device)
            chosen = torch.arange(len(level.codebook), device=found.device) % len(found)
            level.start_from(found[order[chosen]])
        self.train(was_training)

    def update_codebooks(self, generator: torch.Generator) -> None:
        """Move the codes by what they saw since the last update: once a training step."""
        self.top.update(generator)
        self.bottom.update(generator)


class ResidualBlock(nn.Module):
    """`x + Conv1x1(ELU(Conv3x3(ELU(x))))`."""

    def __init__(self, width: int, residual_width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.ELU(), nn.Conv2d(width, residual_width, 3, padding=1), nn.ELU(), nn.Conv2d(residual_width, width, 1)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.branch(x)


def _resized(convolution: type[nn.Module], inputs: int, outputs: int, stride: int) -> nn.Module:
    """A convolution, or a transposed one, by stride 2; by stride 1 a plain one."""
    if stride == 1:
        return nn.Conv2d(inputs, outputs, 3, padding=1)
    return convolution(inputs, outputs, 4, stride, padding=1)


def initialise(module: nn.Module) -> None:
    """Truncated normal weights of deviation 1 / sqrt(kernel area x inputs), zero biases."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        area = module.kernel_size[0] * module.kernel_size[1]
        std = (area * module.in_channels) ** -0.5
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


def open_vqvae(folder: str | Path) -> HierarchicalVQVAE:
    """The trained VQ-VAE of a run, a pipeline or its own folder, to be used. Raises UserError when there is none."""
    for candidate in (Path(folder), Path(folder) / "vqvae", Path(folder) / "pipeline" / "vqvae"):
        if (candidate / "config.json").is_file():
            vqvae: HierarchicalVQVAE = read_component(HierarchicalVQVAE, candidate)
            return vqvae.eval().requires_grad_(False)
    raise UserError(f"there is no VQ-VAE in {folder}; give the run of gen/train.py inpaint-vqvae")


def check_codebook(vqvae: HierarchicalVQVAE, model: ModelMixin, name: str) -> None:
    """Raise UserError where a network was trained with another structure codebook: it would draw nonsense."""
    if model.config.codebook_hash != vqvae.codebook_hash():
        raise UserError(
            f"the {name} network was trained with another VQ-VAE; "
            "give the one that it was trained with, or train it again with this one"
        )
