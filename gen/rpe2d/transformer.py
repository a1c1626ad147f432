"""The diffusion transformer: DiT blocks whose attention knows positions only through 2-D rotary embedding.

Shapes: B batch, C channels, H W pixels (or latents), h w patches, N = h * w tokens, D width, d head dim.
Block and adaLN-Zero: Peebles & Xie 2023 (arXiv 2212.09748). Positions: see `positions.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from jaxtyping import Complex64, Float, Int64, Num
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gen.rpe2d.positions import PositionMode, inference_positions, rotary_table, rotate
from workbench.errors import UserError

Rotary = Complex64[Tensor, "#b 1 n f"]
SINUSOID = 256  # channels of the sinusoid of each conditioning number, as in DiT


def modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b 1 d"], scale: Float[Tensor, "b 1 d"]
) -> Float[Tensor, "b n d"]:
    """LayerNorm without weights, then the condition's own scale and shift (adaLN)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class TokenLinear(nn.Linear):
    """A linear layer over tokens. On a CPU it runs as a 1x1 convolution: the same sums, through oneDNN's kernels,
    which were measured at twice the speed of the BLAS behind `nn.Linear` (docs/journal.md)."""

    def forward(self, x: Float[Tensor, "b n i"]) -> Float[Tensor, "b n o"]:
        if x.device.type != "cpu":
            return super().forward(x)
        y = F.conv2d(x[:, None].permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).squeeze(1)


class LeanRMSNorm(torch.autograd.Function):
    """RMS norm that keeps only its input for the backward pass, and passes over it seldom: on a CPU, torch's own keeps
    three tensors more of its size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return (x.float() * _inverse_rms(x, eps)).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        # y = x r w with r = 1 / rms(x): dL/dx = r w g - x r^2 mean(r w g x), dL/dw = sum(r g x)
        x, weight = ctx.saved_tensors
        r, w = _inverse_rms(x, ctx.eps), weight.float()
        gradient = gradient * r
        along = gradient * x
        mean = (along @ w)[..., None] / x.shape[-1]
        x_gradient = (gradient * w).addcmul_(x.float(), mean * r.square(), value=-1)
        return x_gradient.to(x.dtype), along.sum((0, 1, 2)).to(weight.dtype), None


def _inverse_rms(x: Float[Tensor, "b heads n d"], eps: float) -> Float[Tensor, "b heads n 1"]:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return (norm.square() / x.shape[-1] + eps).rsqrt()


class FloatRMSNorm(nn.RMSNorm):
    """RMS norm of queries or keys, computed and returned in fp32 whatever the precision around it."""

    def forward(self, x: Float[Tensor, "b heads n d"]) -> Float[Tensor, "b heads n d"]:
        if x.device.type == "cpu":
            return LeanRMSNorm.apply(x, self.weight, self.eps)
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps)


def attend(
    q: Float[Tensor, "b heads n d"],
    k: Float[Tensor, "b heads n d"],
    v: Float[Tensor, "b heads n d"],
    scale: float | None,
) -> Float[Tensor, "b heads n d"]:
    """Scaled dot-product attention. A CPU computes it in fp32 even under bf16 autocast: its bf16 kernel's backward pass
    was measured at a fifth of the speed (docs/journal.md)."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, scale=scale)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=scale).to(v.dtype)


class RotaryAttention(nn.Module):
    """Self-attention with RMS-normalised, rotated queries and keys."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = TokenLinear(dim, 3 * dim)
        self.norm_q = FloatRMSNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.norm_k = FloatRMSNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.to_out = TokenLinear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"], rotary: Rotary, scale: float | None = None) -> Float[Tensor, "b n d"]:
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = attend(rotate(self.norm_q(q), rotary), rotate(self.norm_k(k), rotary), v, scale)
        return self.to_out(x.transpose(1, 2).flatten(2))


class RPE2DBlock(nn.Module):
    """DiT block: attention and MLP, each modulated and gated by the condition, the gates starting at zero."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        self.modulation = nn.Linear(dim, 6 * dim)
        self.attention = RotaryAttention(dim, num_heads, qk_norm)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(TokenLinear(dim, hidden), nn.GELU(), TokenLinear(hidden, dim))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        condition: Float[Tensor, "b d"],
        rotary: Rotary,
        scale: float | None = None,
    ) -> Float[Tensor, "b n d"]:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = torch.addcmul(x, gate_a, self.attention(modulate(x, shift_a, scale_a), rotary, scale))
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift_m, scale_m)))


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
        rope_theta: base of the rotary frequencies.
        max_positions: positions trained, along rows and columns.
        inference_positions: how a grid is placed when `position_ids` is not given, see `positions.py`.
        crop_conditioning: tell the model which crop of the whole image it sees.
        id2label: names of the labels.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["RPE2DBlock"]
    _repeated_blocks = ["RPE2DBlock"]
    _skip_layerwise_casting_patterns = ["norm"]

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
        rope_theta: float = 100.0,
        max_positions: Sequence[int] = (16, 16),
        inference_positions: PositionMode = "equispaced",
        crop_conditioning: bool = True,
        id2label: Mapping[int | str, str] | None = None,
    ) -> None:
        super().__init__()
        if attention_head_dim % 4:
            raise UserError(f"--attention-head-dim is {attention_head_dim}; 2-D rotary embedding needs a multiple of 4")
        dim = num_attention_heads * attention_head_dim
        self.patch_embed = TokenLinear(patch_size**2 * in_channels, dim)
        self.time_embed = TimestepEmbedding(SINUSOID, dim)
        self.label_embed = nn.Embedding(num_classes + 1, dim) if num_classes else None
        self.crop_embed = TimestepEmbedding(4 * SINUSOID, dim) if crop_conditioning else None
        self.blocks = nn.ModuleList(RPE2DBlock(dim, num_attention_heads, mlp_ratio, qk_norm) for _ in range(num_layers))
        self.final_modulation = nn.Linear(dim, 2 * dim)
        self.proj_out = TokenLinear(dim, patch_size**2 * in_channels)
        self.gradient_checkpointing = False
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for linear layers, N(0, 0.02) for time and label, zero for everything that ends a branch."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in (self.time_embed.linear_1, self.time_embed.linear_2, self.label_embed):
            if module is not None:
                nn.init.normal_(module.weight, std=0.02)
        ends = ("modulation.weight", "proj_out.weight", "crop_embed.linear_2.weight")
        for name, parameter in self.named_parameters():
            if name.endswith(ends):
                nn.init.zeros_(parameter)

    @property
    def native_tokens(self) -> int:
        """Number of patches of a training image."""
        height, width = self.config.sample_size
        return (height // self.config.patch_size) * (width // self.config.patch_size)

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
        position_ids: tuple[Int64[Tensor, "*bh h"], Int64[Tensor, "*bw w"]] | None = None,
        attention_scale: float | None = None,
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
        rotary = rotary_table(rows, columns, self.config.attention_head_dim, self.config.rope_theta)
        scale = None if attention_scale is None else attention_scale / self.config.attention_head_dim**0.5

        # 2. Condition and tokens
        condition = self._condition(hidden_states, timestep, class_labels, crop_box)
        x = self.patch_embed(self._patchify(hidden_states, h, w))  # (B, N, D)

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

    def _condition(
        self, x: Tensor, timestep: Tensor, labels: Tensor | None, crop_box: Tensor | None
    ) -> Float[Tensor, "b d"]:
        """Time, label and crop, summed; the activation that every block would apply is applied here once."""
        batch, dtype = x.shape[0], self.patch_embed.weight.dtype
        embedding = self.time_embed(_sinusoid(timestep.expand(batch)).to(dtype))
        if self.label_embed is not None:
            if labels is None:
                labels = torch.full((batch,), self.config.num_classes, device=x.device)
            embedding = embedding + self.label_embed(labels)
        if self.crop_embed is not None:
            whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=x.device)
            box = whole if crop_box is None else crop_box
            sinusoids = _sinusoid(box.flatten() * 1000).view(len(box), -1)
            embedding = embedding + self.crop_embed(sinusoids.to(dtype))
        return F.silu(embedding)

    def _patchify(self, x: Tensor, h: int, w: int) -> Float[Tensor, "b n d"]:
        p = self.config.patch_size
        return x.unflatten(3, (w, p)).unflatten(2, (h, p)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def _unpatchify(self, x: Tensor, h: int, w: int) -> Float[Tensor, "b c height width"]:
        p = self.config.patch_size
        return x.view(len(x), h, w, p, p, -1).permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def _sinusoid(values: Num[Tensor, " n"]) -> Float[Tensor, "n 256"]:
    return get_timestep_embedding(values, SINUSOID, flip_sin_to_cos=True, downscale_freq_shift=0)
