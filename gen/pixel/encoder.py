"""The encoder: a ViT over a class token, a time token and patches, pre-trained alone and then part of the generator.

Shapes: B batch, N patches, E width of the encoder. An independent implementation of EPG (arXiv 2510.12586).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.utils import BaseOutput
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from gen.pixel.blocks import EPGEncoderBlock, Projector, initialise
from gen.pixel.noise import NoiseRange
from gen.pixel.scaling import DataScaling
from workbench.errors import UserError

SampleSize = int | Sequence[int]
Labels = Int[Tensor, " b"] | None
EXTRA = 2  # tokens before the patches: class, time


class Encoder(nn.Module):
    """Tokens of a noisy image, of its noise level and of its label, through the encoder's blocks."""

    _gradient_checkpointing_func: Callable[..., Tensor]  # given by enable_gradient_checkpointing

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        patch, heads = config["patch_size"], config["num_attention_heads"]
        dim = heads * config["attention_head_dim"]
        rows, columns = grid(config["sample_size"], patch)
        self.patch_embed = nn.Conv2d(config["in_channels"], dim, patch, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, EXTRA + rows * columns, dim))
        classes = config["num_class_embeds"]
        self.class_embed = nn.Embedding(classes + 1, dim) if classes else None  # the last row: no label
        self.blocks = nn.ModuleList(
            EPGEncoderBlock(dim, heads, config["mlp_ratio"]) for _ in range(config["num_layers"])
        )
        self.norm = nn.LayerNorm(dim)
        self.gradient_checkpointing = False
        self._initialise()

    def _initialise(self) -> None:
        initialise(self)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.class_embed is not None:
            nn.init.normal_(self.class_embed.weight, std=0.02)

    def embed(
        self, sample: Float[Tensor, "b c h w"], timestep: Num[Tensor, "*#b"], class_labels: Labels
    ) -> tuple[Float[Tensor, "b n e"], Float[Tensor, "b 1 e"]]:
        """The tokens before the first block, and the sum of time and label that the decoder is conditioned on."""
        patches = self.patch_embed(sample.to(self.patch_embed.weight.dtype)).flatten(2).transpose(1, 2)
        timestep = timestep.to(sample.device, torch.float32).expand(len(sample))
        sinusoid = get_timestep_embedding(
            timestep, self.pos_embed.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        time = sinusoid.to(self.pos_embed.dtype)[:, None]
        label = self._label(class_labels, time)
        tokens = torch.cat([self.cls_token + label, time, patches], dim=1) + self.pos_embed
        return tokens, time + label

    def _label(self, class_labels: Labels, time: Float[Tensor, "b 1 e"]) -> Float[Tensor, "b 1 e"]:
        if self.class_embed is None:
            return torch.zeros_like(time)
        if class_labels is None:
            class_labels = torch.full((len(time),), self.class_embed.num_embeddings - 1, device=time.device)
        return self.class_embed(class_labels)[:, None]

    def states(self, tokens: Float[Tensor, "b n e"]) -> Iterator[Float[Tensor, "b n e"]]:
        """The tokens after each of the blocks."""
        for block in self.blocks:
            tokens = self._through(block, tokens)
            yield tokens

    def class_state(self, tokens: Float[Tensor, "b n e"]) -> Float[Tensor, "b e"]:
        """The class token after the last block, whose other tokens are not computed: in three blocks a quarter less."""
        *early, last = self.blocks
        for block in early:
            tokens = self._through(block, tokens)
        return self._through(last, tokens, 1)[:, 0]

    def _through(self, block: nn.Module, tokens: Float[Tensor, "b n e"], kept: int | None = None) -> Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, tokens, kept)
        return block(tokens, kept)


class EPGModel:
    """What the encoder alone and the whole generator share: their images' size, scale and noise."""

    config: Any
    _supports_gradient_checkpointing = True
    _no_split_modules = ["EPGEncoderBlock", "EPGDecoderBlock"]
    _repeated_blocks = ["EPGEncoderBlock", "EPGDecoderBlock"]
    _skip_layerwise_casting_patterns = ["pos_embed", "cls_token", "norm"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return height_and_width(self.config.sample_size)

    @property
    def noise_range(self) -> NoiseRange:
        """The noise levels that the model is made for."""
        c = self.config
        return NoiseRange(sigma_min=c.sigma_min, sigma_max=c.sigma_max, shift=c.sigma_shift)

    @property
    def scaling(self) -> DataScaling:
        """How pixels are scaled for the model."""
        c = self.config
        return DataScaling(tuple(c.data_mean), tuple(c.data_std), tuple(c.data_range[0]), tuple(c.data_range[1]))


@dataclass
class EPGEncoderOutput(BaseOutput):
    """`representation`: the class token after the last block, normalised, of shape (batch, width)."""

    representation: Tensor


class EPGEncoderModel(EPGModel, ModelMixin, ConfigMixin):
    """The encoder of stage 1, with the projector that its pre-training compares views by.

    Args:
        sample_size: height and width of the images in pixels, or one number for both.
        in_channels, patch_size: channels of the images, and side of a patch.
        num_layers, num_attention_heads, attention_head_dim, mlp_ratio: the blocks; the width is heads times head dim.
        projector_hidden_dim, projector_dim: widths of the projector.
        num_class_embeds: number of labels; None for none. Label `num_class_embeds` means "no label".
        sigma_shift, sigma_min, sigma_max: the noise levels, see `noise.py`.
        data_mean, data_std, data_range: the pixels' scaling, see `scaling.py`; the range is (low, high) by channel.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: SampleSize = 32,
        in_channels: int = 3,
        patch_size: int = 4,
        num_layers: int = 3,
        num_attention_heads: int = 3,
        attention_head_dim: int = 32,
        mlp_ratio: float = 4.0,
        projector_hidden_dim: int = 4096,
        projector_dim: int = 256,
        num_class_embeds: int | None = None,
        sigma_shift: float = 1.0,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        data_mean: Sequence[float] = (0.5,),
        data_std: Sequence[float] = (0.25,),
        data_range: Sequence[Sequence[float]] = ((-1.0,), (1.0,)),
    ) -> None:
        super().__init__()
        self.encoder = Encoder(self.config)
        self.projector = Projector(num_attention_heads * attention_head_dim, projector_hidden_dim, projector_dim)
        initialise(self.projector)

    def forward(
        self,
        sample: Float[Tensor, "b c h w"],
        timestep: Num[Tensor, "*#b"],
        class_labels: Labels = None,
        return_dict: bool = True,
    ) -> EPGEncoderOutput | tuple[Tensor]:
        """The representation of noisy images that were scaled by c_in; `timestep` is c_noise, 250 ln(sigma)."""
        tokens, _ = self.encoder.embed(sample, timestep, class_labels)
        representation = self.encoder.norm(self.encoder.class_state(tokens))
        return EPGEncoderOutput(representation=representation) if return_dict else (representation,)

    def project(self, representation: Float[Tensor, "b e"]) -> Float[Tensor, "b p"]:
        """Where views are compared; in training mode its batch norms see the views of all processes."""
        return self.projector(representation)


def height_and_width(sample_size: SampleSize) -> tuple[int, int]:
    """Both sides of a size in pixels."""
    return (sample_size, sample_size) if isinstance(sample_size, int) else (sample_size[0], sample_size[1])


def grid(sample_size: SampleSize, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches. Raises UserError when the size is not made of whole patches."""
    height, width = height_and_width(sample_size)
    if height % patch_size or width % patch_size:
        raise UserError(
            f"{height}x{width} pixels is not made of whole {patch_size}-pixel patches; "
            f"give multiples of {patch_size}, or another patch size"
        )
    return height // patch_size, width // patch_size


def resize_positions(
    pos_embed: Float[Tensor, "1 n e"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 m e"]:
    """Position embeddings of another grid: the extra tokens' stay, the patches' are interpolated."""
    if old == new:
        return pos_embed
    extra, patches = pos_embed[:, :EXTRA], pos_embed[:, EXTRA:]
    patches = patches.unflatten(1, old).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, new, mode="bicubic", antialias=True)
    return torch.cat([extra, patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
