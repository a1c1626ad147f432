"""The texture generator, which paints an image over a structure, and the discriminator that it is trained against.

Layers as in the paper's code. The generator has no randomness: completions differ because their structures do.

Shapes: B batch, C channels, H W pixels, D code dim; ht wt structure tokens.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gen.inpaint.attention import Weights, borrowed, structural_attention
from gen.inpaint.texture_config import AttentionKeys
from gen.inpaint.vqvae import initialise

GAIN = 2.3  # 1 / sqrt(E[ELU(a)^2] E[sigmoid(b)^2]) of standard normal a and b
DILATIONS = (2, 4, 8, 16)
DISCRIMINATOR_WIDTHS = (1, 2, 4)  # of the first layers, in units of the first one's; the others are as wide as the last


class TextureGenerator(ModelMixin, ConfigMixin):
    """An image from what is known of it and from the structure that it should have.

    Args:
        sample_size: height and width of the training images.
        channels: of the images.
        structure_dim: of the structure vectors; 0 for the ablation without structure (a single stage).
        first_stride: 2 as in the paper, where a structure token has 8 pixels along each side; 1 for 4.
        width: raw filters of the first layer.
        attention: where the places in the hole read from ("known": places without a hole), or "none" for the
            ablation, in which the features go on as they are.
        fuse: whether neighbours have a say in the attention's scores.
        attention_scale: the factor before the softmax.
        codebook_hash: of the VQ-VAE that it was trained with.
        mask_kinds: holes that it was trained with.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: Sequence[int] = (256, 256),
        channels: int = 3,
        structure_dim: int = 64,
        first_stride: int = 2,
        width: int = 64,
        attention: AttentionKeys | Literal["none"] = "all",
        fuse: bool = True,
        attention_scale: float = 50.0,
        codebook_hash: str = "",
        mask_kinds: Sequence[str] = (),
    ) -> None:
        super().__init__()
        half = width // 2  # of what a gated layer gives
        self.fine = nn.Sequential(
            Gated(channels + 2, width, kernel_size=5), Gated(half, 2 * width, stride=first_stride),
            Gated(width, 2 * width),
        )  # fmt: skip
        self.coarse = Gated(width, 4 * width, stride=2)
        self.structure = structure_branch(structure_dim, 4 * width) if structure_dim else None
        merged = (4 if structure_dim else 2) * width
        self.merge = nn.Sequential(
            Gated(merged, 4 * width), Gated(2 * width, 4 * width),
            *(Gated(2 * width, 4 * width, dilation=dilation) for dilation in DILATIONS),
        )  # fmt: skip
        self.decode_coarse = nn.Sequential(Gated(2 * width, 4 * width), Gated(2 * width, 4 * width))
        self.to_fine = nn.Sequential(
            Gated(4 * width, 4 * width), nn.Upsample(scale_factor=2), Gated(2 * width, 2 * width)
        )
        self.to_pixels = nn.Sequential(
            Gated(2 * width, 2 * width), nn.Upsample(scale_factor=first_stride), Gated(width, width),
            Gated(half, width), nn.Conv2d(half, channels, 3, padding=1), nn.Tanh(),
        )  # fmt: skip
        self.apply(initialise)
        self._keep_the_signal()

    def _keep_the_signal(self) -> None:
        """Ours: without it a fresh network answers 1e-4 to anything, and learns later (docs/journal.md)."""
        for layer in self.modules():
            if isinstance(layer, Gated):
                layer.convolution.weight.data *= GAIN

    def forward(
        self,
        masked: Float[Tensor, "b c h w"],
        mask: Float[Tensor, "b 1 h w"],
        structure_vectors: Float[Tensor, "b d ht wt"] | None = None,
        attention: Weights | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Whole images in [-1, 1]: take the pixels in the hole. `masked` is 0 in the hole, `mask` 1.

        `structure_vectors`: needed unless the network has no structure. `attention`: what `attend` gives, where it is
        there already.
        """
        fine = self.fine(torch.cat([masked, torch.ones_like(mask), mask], dim=1))
        coarse = self.coarse(fine)
        if self.structure is not None:
            coarse = torch.cat([coarse, self.structure(structure_vectors)], dim=1)
        coarse = self.merge(coarse)
        weights = self.attend(structure_vectors, mask) if attention is None else attention
        x = torch.cat([self.decode_coarse(coarse), borrowed(weights, coarse, 2)], dim=1)
        x = torch.cat([self.to_fine(x), borrowed(weights, fine, 4)], dim=1)
        images: Tensor = self.to_pixels(x)
        return images

    def attend(
        self, structure_vectors: Float[Tensor, "b d ht wt"] | None, mask: Float[Tensor, "b 1 h w"]
    ) -> Weights | None:
        """The structural attention, or None where the network has none."""
        config = self.config
        if config.attention == "none" or structure_vectors is None or self.structure is None:
            return None
        return structural_attention(structure_vectors, mask, config.attention, config.fuse, config.attention_scale)


class Gated(nn.Module):
    """A convolution to `filters` raw filters: ELU of one half times the sigmoid of the other."""

    def __init__(self, inputs: int, filters: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = kernel_size // 2 * dilation
        self.convolution = nn.Conv2d(inputs, filters, kernel_size, stride, padding, dilation)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b half_filters oh ow"]:
        features, gates = self.convolution(x).chunk(2, dim=1)
        return F.elu(features) * gates.sigmoid()


def structure_branch(inputs: int, filters: int) -> nn.Sequential:
    """From the structure map to twice its sides."""
    return nn.Sequential(
        Gated(inputs, filters), Gated(filters // 2, filters), nn.Upsample(scale_factor=2), Gated(filters // 2, filters)
    )


class Discriminator(nn.Module):
    """Scores of the patches of an image whose hole it is told: high for true ones (SN-PatchGAN).

    Args:
        channels: of the images.
        width: filters of the first layer.
        num_layers: each halves the sides.
    """

    def __init__(self, channels: int, width: int, num_layers: int) -> None:
        super().__init__()
        last = DISCRIMINATOR_WIDTHS[-1]
        widths = [width * factor for factor in (*DISCRIMINATOR_WIDTHS, *[last] * num_layers)][:num_layers]
        layers: list[nn.Module] = []
        for inputs, outputs in zip([channels + 1, *widths], widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 5, stride=2, padding=2), nn.LeakyReLU(0.2)]  # the last one too
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)
        for layer in self.layers[::2]:
            spectral_norm(layer)

    def forward(self, images: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b scores"]:
        scores: Tensor = self.layers(torch.cat([images, mask], dim=1))
        return scores.flatten(1)
