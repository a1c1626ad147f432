"""The layers of the diffusion transformer: DiT's block, with rotary attention and RMS-normalised queries and keys.

Shapes: B batch, N tokens, D width, d head dim. Block and adaLN-Zero: Peebles & Xie 2023 (arXiv 2212.09748).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gen.layers import AttentionProcessor, TokenLinear
from gen.rpe2d.rotary import Rotary, rotate

FeedForward = Literal["gelu", "swiglu"]


def modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b 1 d"], scale: Float[Tensor, "b 1 d"]
) -> Float[Tensor, "b n d"]:
    """LayerNorm without weights, then the condition's own scale and shift (adaLN)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


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


class RotaryAttentionProcessor(AttentionProcessor):
    """Attention of rotated queries and keys."""

    def __call__(
        self, attention: "RotaryAttention", x: Float[Tensor, "b n d"], rotary: Rotary | None, scale: float | None
    ) -> Float[Tensor, "b n d"]:
        q, k, v = attention.to_qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = attention.norm_q(q), attention.norm_k(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return attention.to_out(self.attend(q, k, v, scale))


class RotaryAttention(nn.Module, AttentionModuleMixin):
    """Self-attention with RMS-normalised queries and keys, turned by their positions where a rotary table is given."""

    _default_processor_cls = RotaryAttentionProcessor
    _available_processors = [RotaryAttentionProcessor]
    _supports_qkv_fusion = False  # it is one product already

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = TokenLinear(dim, 3 * dim)
        self.norm_q = FloatRMSNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.norm_k = FloatRMSNorm(dim // num_heads, eps=1e-6) if qk_norm else nn.Identity()
        self.to_out = TokenLinear(dim, dim)
        self.processor = RotaryAttentionProcessor()

    def forward(
        self, x: Float[Tensor, "b n d"], rotary: Rotary | None, scale: float | None = None
    ) -> Float[Tensor, "b n d"]:
        return self.processor(self, x, rotary, scale)


class SwiGLU(nn.Module):
    """Gated feed-forward layer of the same number of weights as a plain one of `hidden` channels (arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        hidden = round(hidden * 2 / 3)
        self.gate_and_value = TokenLinear(dim, 2 * hidden)
        self.to_out = TokenLinear(hidden, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.to_out(F.silu(gate) * value)


def feed_forward(kind: FeedForward, dim: int, hidden: int) -> nn.Module:
    """DiT's two layers around a GELU, or the gated form."""
    if kind == "swiglu":
        return SwiGLU(dim, hidden)
    return nn.Sequential(TokenLinear(dim, hidden), nn.GELU(), TokenLinear(hidden, dim))


class RPE2DBlock(nn.Module):
    """DiT block: attention and MLP, each modulated and gated by the condition, the gates starting at zero."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qk_norm: bool, ffn_type: FeedForward) -> None:
        super().__init__()
        self.modulation = nn.Linear(dim, 6 * dim)
        self.attention = RotaryAttention(dim, num_heads, qk_norm)
        self.mlp = feed_forward(ffn_type, dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        condition: Float[Tensor, "b d"],
        rotary: Rotary | None,
        scale: float | None = None,
    ) -> Float[Tensor, "b n d"]:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = torch.addcmul(x, gate_a, self.attention(modulate(x, shift_a, scale_a), rotary, scale))
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift_m, scale_m)))
