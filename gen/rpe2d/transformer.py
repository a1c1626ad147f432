"""The diffusion transformer: DiT blocks for a grid of patches of any size, placed by its positions alone.

Shapes: B batch, C channels, H W pixels (or latents), h w patches, N = h * w tokens, D width, T caption tokens.
DiT: Peebles & Xie 2023 (arXiv 2212.09748). Positions: see `positions.py`; layers: `blocks.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from jaxtyping import Float, Int64, Num
from torch import Tensor, nn

from gen.layers import TokenLinear
from gen.rpe2d.blocks import FeedForward, RPE2DBlock, modulate
from gen.rpe2d.encodings import FourierEncoding, SinCosEncoding, TableEncoding
from gen.rpe2d.modes import PositionMode
from gen.rpe2d.positions import inference_positions
from gen.rpe2d.rotary import Rotary, rotary_frequencies, rotary_table
from workbench.errors import UserError

PositionEncoding = Literal["rope", "sincos", "lff", "table"]
Frequencies = tuple[Float[Tensor, " k"], Float[Tensor, " k"]]
SINUSOID = 256  # channels of the sinusoid of each conditioning number, as in DiT


class RPE2DTransformer2DModel(ModelMixin, ConfigMixin):
    """Diffusion transformer for any grid up to `max_positions` patches a side; predicts the flow's velocity.

    An independent implementation of the RPE-2D idea [Hou et al. 2025, arXiv 2503.18719].

    Args:
        sample_size: training height and width in pixels (or latents); the native size of the model.
        patch_size: side of a patch.
        in_channels: channels of the input and of the output.
        num_layers, num_attention_heads, attention_head_dim, mlp_ratio: the blocks; the width is heads times head dim.
        num_classes: number of labels, 0 for an unconditional model. Label `num_classes` means "no label".
        qk_norm: RMS-normalise queries and keys.
        ffn_type: gelu, or swiglu of the same size.
        pos_embed_type: rope turns queries and keys; sincos, lff (learnable Fourier features) and table (learned) are
            added to the tokens, see `encodings.py`.
        rope_theta: base of the frequencies of rope and sincos.
        fourier_features, fourier_hidden, fourier_gamma: of lff.
        max_positions: positions trained, along rows and columns.
        inference_positions: how a grid is placed when `position_ids` is not given, see `positions.py`.
        crop_conditioning: tell the model which crop of the whole image it sees.
        id2label: names of the labels.
        token_names: attribute tokens that captions are made of.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["RPE2DBlock"]
    _repeated_blocks = ["RPE2DBlock"]
    _skip_layerwise_casting_patterns = ["pos_embed", "norm"]

    @register_to_config
    def __init__(
        self,
        sample_size: Sequence[int] = (32, 32),
        patch_size: int = 4,
        in_channels: int = 3,
        num_layers: int = 6,
        num_attention_heads: int = 4,
        attention_head_dim: int = 32,
        mlp_ratio: float = 4.0,
        num_classes: int = 10,
        qk_norm: bool = True,
        ffn_type: FeedForward = "gelu",
        pos_embed_type: PositionEncoding = "rope",
        rope_theta: float = 100.0,
        fourier_features: int = 768,
        fourier_hidden: int = 32,
        fourier_gamma: float = 1.0,
        max_positions: Sequence[int] = (16, 16),
        inference_positions: PositionMode = "equispaced",
        crop_conditioning: bool = True,
        id2label: Mapping[int | str, str] | None = None,
        token_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if attention_head_dim % 4:
            raise UserError(f"--attention-head-dim is {attention_head_dim}; positions in 2-D need a multiple of 4")
        dim = num_attention_heads * attention_head_dim
        self.pos_embed = self._position_encoding(dim)
        self.patch_embed = TokenLinear(patch_size**2 * in_channels, dim)
        self.time_embed = TimestepEmbedding(SINUSOID, dim)
        self.label_embed = nn.Embedding(num_classes + 1, dim) if num_classes else None
        self.token_embed = nn.Embedding(len(token_names), dim) if token_names else None
        self.crop_embed = TimestepEmbedding(4 * SINUSOID, dim) if crop_conditioning else None
        self.blocks = nn.ModuleList(
            RPE2DBlock(dim, num_attention_heads, mlp_ratio, qk_norm, ffn_type) for _ in range(num_layers)
        )
        self.final_modulation = nn.Linear(dim, 2 * dim)
        self.proj_out = TokenLinear(dim, patch_size**2 * in_channels)
        self.gradient_checkpointing = False
        self._initialise()

    def _position_encoding(self, dim: int) -> nn.Module | None:
        """What is added to the tokens; None where attention is turned instead."""
        c, maximum = self.config, tuple(self.config.max_positions)
        match c.pos_embed_type:
            case "sincos":
                return SinCosEncoding(dim, c.rope_theta)
            case "lff":
                return FourierEncoding(dim, maximum, c.fourier_features, c.fourier_hidden, c.fourier_gamma)
            case "table":
                return TableEncoding(dim, maximum)
        return None

    def _initialise(self) -> None:
        """Xavier for linear layers, N(0, 0.02) for time, label and tokens, zero for everything that ends a branch."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith("pos_embed.frequencies"):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in (self.time_embed.linear_1, self.time_embed.linear_2, self.label_embed, self.token_embed):
            if module is not None:
                nn.init.normal_(module.weight, std=0.02)
        ends = ("modulation.weight", "proj_out.weight", "crop_embed.linear_2.weight")  # of branches
        for name, parameter in self.named_parameters():
            if name.endswith(ends):
                nn.init.zeros_(parameter)

    @property
    def native_grid(self) -> tuple[int, int]:
        """Rows and columns of patches of a training image."""
        return self.grid(*self.config.sample_size)

    @property
    def native_tokens(self) -> int:
        """Number of patches of a training image."""
        rows, columns = self.native_grid
        return rows * columns

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches. Raises UserError when the size is not made of whole patches."""
        patch = self.config.patch_size
        if height % patch or width % patch or min(height, width) < patch:
            raise UserError(
                f"{height}x{width} pixels is not made of whole {patch}-pixel patches; give multiples of {patch}"
            )
        return height // patch, width // patch

    def forward(
        self,
        hidden_states: Float[Tensor, "b c height width"],
        timestep: Num[Tensor, " #b"],
        class_labels: Int64[Tensor, " b"] | None = None,
        crop_box: Float[Tensor, "#b 4"] | None = None,
        position_ids: tuple[Num[Tensor, "*bh h"], Num[Tensor, "*bw w"]] | None = None,
        attention_scale: float | None = None,
        token_ids: Int64[Tensor, "b t"] | None = None,
        frequencies: Frequencies | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity of the flow, of the input's shape.

        Args:
            hidden_states: noisy images, about unit scale.
            timestep: noise level times 1000, one for all or one per image.
            class_labels: label ids; None means no label.
            crop_box: (top, left, height, width) of the crop as fractions of the whole image; None is the whole image.
            position_ids: increasing row and column positions, shared (n,) or per image (b, n). None places the grid
                by the deterministic inference rule, in training mode too.
            attention_scale: factor on the attention logits (1 at the training size).
            token_ids: attribute tokens of each image, a set; -1 is none.
            frequencies: rotary ones of rows and of columns, instead of the model's own (`extrapolation.py`).

        Raises:
            UserError: the size is not made of whole patches, or has more patches than positions were trained.
        """
        # 1. Positions
        h, w = self.grid(*hidden_states.shape[-2:])
        if position_ids is None:
            position_ids = inference_positions(
                (h, w), tuple(self.config.max_positions), self.config.inference_positions
            )
        rows, columns = (p.to(hidden_states.device) for p in position_ids)
        scale = None if attention_scale is None else attention_scale / self.config.attention_head_dim**0.5

        # 2. Condition and tokens
        condition = self._condition(hidden_states, timestep, class_labels, token_ids, crop_box)
        x = self.patch_embed(self._patchify(hidden_states, h, w))  # (B, N, D)
        rotary = None
        if self.pos_embed is None:
            rotary = self._rotary(rows, columns, frequencies)  # once, for all blocks
        else:
            x = x + self.pos_embed(rows, columns).to(x.dtype)

        # 3. Blocks
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, condition, rotary, scale)
            else:
                x = block(x, condition, rotary, scale)

        # 4. Output
        shift, gain = self.final_modulation(condition)[:, None].chunk(2, dim=-1)
        sample = self._unpatchify(self.proj_out(modulate(x, shift, gain)), h, w)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _rotary(self, rows: Tensor, columns: Tensor, frequencies: Frequencies | None) -> Rotary:
        if frequencies is None:
            own = rotary_frequencies(self.config.attention_head_dim, self.config.rope_theta, rows.device)
            frequencies = own, own
        return rotary_table(rows, columns, frequencies)

    def _condition(
        self, x: Tensor, timestep: Tensor, labels: Tensor | None, tokens: Tensor | None, crop_box: Tensor | None
    ) -> Float[Tensor, "b d"]:
        """Time, label, tokens and crop, summed; the activation that every block would apply is applied here once."""
        batch, dtype = x.shape[0], x.dtype
        embedding = self.time_embed(_sinusoid(timestep.expand(batch)).to(dtype))
        if self.label_embed is not None:
            if labels is None:
                labels = torch.full((batch,), self.config.num_classes, device=x.device)
            embedding = embedding + self.label_embed(labels)
        if self.token_embed is not None and tokens is not None:
            given = (tokens >= 0)[..., None]
            embedding = embedding + (self.token_embed(tokens.clamp(min=0)) * given).sum(1)
        if self.crop_embed is not None:
            box = whole_image(x.device) if crop_box is None else crop_box
            sinusoids = _sinusoid(box.flatten() * 1000).view(len(box), -1)
            embedding = embedding + self.crop_embed(sinusoids.to(dtype))
        return F.silu(embedding)

    def _patchify(self, x: Tensor, h: int, w: int) -> Float[Tensor, "b n d"]:
        p = self.config.patch_size
        return x.unflatten(3, (w, p)).unflatten(2, (h, p)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def _unpatchify(self, x: Tensor, h: int, w: int) -> Float[Tensor, "b c height width"]:
        p = self.config.patch_size
        return x.view(len(x), h, w, p, p, -1).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def whole_image(device: torch.device) -> Float[Tensor, "1 4"]:
    """The box (top, left, height, width) of an image that is not cropped, made where it is used."""
    return torch.cat([torch.zeros(1, 2, device=device), torch.ones(1, 2, device=device)], dim=-1)


def _sinusoid(values: Num[Tensor, " n"]) -> Float[Tensor, "n 256"]:
    return get_timestep_embedding(values, SINUSOID, flip_sin_to_cos=True, downscale_freq_shift=0)
