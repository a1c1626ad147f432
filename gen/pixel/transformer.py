"""The generator: EPG's encoder, and a decoder that takes its states as long skips and makes pixels of them.

Shapes: B batch, N patches, E width of the encoder, D of the decoder. An independent implementation of EPG (Lei et al.
2025, arXiv 2510.12586).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from jaxtyping import Float, Num
from torch import Tensor, nn

from gen.layers import TokenLinear
from gen.pixel.blocks import EPGDecoderBlock, initialise
from gen.pixel.encoder import EXTRA, Encoder, EPGEncoderModel, EPGModel, Labels, SampleSize, grid, resize_positions
from workbench.errors import UserError

PredictionType = Literal["sample", "consistency"]

# What a generator has from the encoder that it starts from; what shapes the encoder's weights cannot be replaced.
SHAPE = ("in_channels", "patch_size", "num_layers", "num_attention_heads", "attention_head_dim", "mlp_ratio")
INHERITED = (
    *SHAPE, "sample_size", "num_class_embeds", "sigma_shift", "sigma_min", "sigma_max", "data_mean", "data_std",
    "data_range",
)  # fmt: skip


class EPGTransformer2DModel(EPGModel, ModelMixin, ConfigMixin):
    """Encoder and decoder, trained end to end as a diffusion model or as a consistency model; see `noise.py`.

    Args:
        sample_size: height and width of the images in pixels, or one number for both.
        in_channels, patch_size: channels of the images, and side of a patch.
        num_layers: blocks of the encoder, and as many of the decoder.
        num_attention_heads, attention_head_dim, mlp_ratio: the blocks; the width is heads times head dim.
        decoder_num_attention_heads, decoder_attention_head_dim: those of the decoder; as the encoder's unless given.
        decoder_dropout: after the attention of the decoder's blocks.
        num_class_embeds: number of labels; None for none. Label `num_class_embeds` means "no label".
        prediction_type: how clean images are read out: the network's "sample" (a diffusion model), or "consistency".
        sigma_shift, sigma_min, sigma_max: the noise levels, see `noise.py`.
        data_mean, data_std, data_range: the pixels' scaling, see `scaling.py`; the range is (low, high) by channel.
        id2label: names of the labels.
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
        decoder_num_attention_heads: int | None = None,
        decoder_attention_head_dim: int | None = None,
        decoder_dropout: float = 0.0,
        num_class_embeds: int | None = None,
        prediction_type: PredictionType = "sample",
        sigma_shift: float = 1.0,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        data_mean: Sequence[float] = (0.5,),
        data_std: Sequence[float] = (0.25,),
        data_range: Sequence[Sequence[float]] = ((-1.0,), (1.0,)),
        id2label: Mapping[int | str, str] | None = None,
    ) -> None:
        super().__init__()
        encoder_dim = num_attention_heads * attention_head_dim
        heads = decoder_num_attention_heads or num_attention_heads
        dim = heads * (decoder_attention_head_dim or attention_head_dim)
        self.encoder = Encoder(self.config)
        self.encoder_to_decoder = TokenLinear(encoder_dim, dim) if dim != encoder_dim else nn.Identity()
        self.modulation = nn.Linear(encoder_dim, num_layers * 6 * dim)  # of all blocks in one product
        self.decoder_blocks = nn.ModuleList(
            EPGDecoderBlock(dim, encoder_dim, heads, mlp_ratio, decoder_dropout) for _ in range(num_layers)
        )
        self.out_norm = nn.LayerNorm(dim)
        self.proj_out = TokenLinear(dim, patch_size**2 * in_channels)
        self.gradient_checkpointing = False
        for part in (self.encoder_to_decoder, self.decoder_blocks):
            initialise(part)
        for end in (self.modulation, self.proj_out):  # a decoder starts as the identity, and a network as zero
            nn.init.zeros_(end.weight)
            nn.init.zeros_(end.bias)

    @classmethod
    def from_encoder(cls, encoder: EPGEncoderModel, **settings: Any) -> "EPGTransformer2DModel":
        """A generator with the encoder's weights and a fresh decoder.

        `settings` are the decoder's, and any of the encoder's that may differ: at another `sample_size` the positions
        are interpolated. Raises UserError for one that shapes the encoder's weights.
        """
        for name in SHAPE:
            if settings.get(name, encoder.config[name]) != encoder.config[name]:
                raise UserError(
                    f"{name} is {settings[name]} but the encoder was trained with {encoder.config[name]}; "
                    f"give {encoder.config[name]}, or pre-train another encoder"
                )
        model = cls(**{**{name: encoder.config[name] for name in INHERITED}, **settings})
        weights = encoder.encoder.state_dict()
        patch = model.config.patch_size
        grids = (grid(one.config.sample_size, patch) for one in (encoder, model))
        weights["pos_embed"] = resize_positions(weights["pos_embed"], *grids)
        missing, unexpected = model.encoder.load_state_dict(weights, strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= {"class_embed.weight"}, missing
        return model

    def forward(
        self,
        sample: Float[Tensor, "b c h w"],
        timestep: Num[Tensor, "*#b"],
        class_labels: Labels = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The network's raw output, of the images' shape; `denoise` and `consistency` read clean images out of it.

        Args:
            sample: noisy images times c_in, about unit scale.
            timestep: c_noise, 250 ln(sigma), one for all or one per image.
            class_labels: label ids; None means no label.
            return_dict: a bare tuple when False.
        """
        # 1. Encoder
        tokens, condition = self.encoder.embed(sample, timestep, class_labels)
        skips = list(self.encoder.states(tokens))

        # 2. Decoder, the encoder's last state first
        x = self.encoder_to_decoder(self.encoder.norm(skips[-1]))  # (B, 2 + N, D)
        modulations = self.modulation(F.silu(condition)).unflatten(-1, (len(self.decoder_blocks), 6, -1))
        for block, modulation in zip(self.decoder_blocks, modulations.unbind(2), strict=True):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, skips.pop(), modulation)
            else:
                x = block(x, skips.pop(), modulation)

        # 3. Pixels
        output = self._unpatchify(self.proj_out(self.out_norm(x[:, EXTRA:])))
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _unpatchify(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b c h w"]:
        p = self.config.patch_size
        rows, columns = grid(self.config.sample_size, p)
        return x.view(len(x), rows, columns, p, p, -1).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
