"""The layers of EPG's encoder and decoder, and the projector of its pre-training.

Shapes: B batch, N tokens, D width of the block, E width of the encoder. Pre-norm ViT blocks (Dosovitskiy et al. 2020);
the decoder's take a long skip from the encoder (U-ViT, Bao et al. 2022) and adaLN-Zero (DiT, Peebles & Xie 2022).
"""

import torch
from diffusers.models.attention import AttentionModuleMixin
from jaxtyping import Float
from torch import Tensor, nn

from gen.layers import AttentionProcessor, TokenLinear
from gen.pixel.batch_norm import SynchronisedBatchNorm

Modulation = Float[Tensor, "b 1 6 d"]  # shift, scale and gate of attention, then of the MLP


class SelfAttentionProcessor(AttentionProcessor):
    """Plain self-attention; queries, keys and values come from one product, in that order."""

    def __call__(
        self, attention: "SelfAttention", x: Float[Tensor, "b n d"], kept: int | None = None
    ) -> Float[Tensor, "b k d"]:
        q, k, v = attention.to_qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return attention.dropout(attention.to_out(self.attend(q[:, :, :kept], k, v)))


class SelfAttention(nn.Module, AttentionModuleMixin):
    """Multi-head self-attention without a bias on queries, keys and values."""

    _default_processor_cls = SelfAttentionProcessor
    _available_processors = [SelfAttentionProcessor]
    _supports_qkv_fusion = False  # it is one product already

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = TokenLinear(dim, 3 * dim, bias=False)
        self.to_out = TokenLinear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.processor = SelfAttentionProcessor()

    def forward(self, x: Float[Tensor, "b n d"], kept: int | None = None) -> Float[Tensor, "b k d"]:
        return self.processor(self, x, kept)


def feed_forward(dim: int, mlp_ratio: float) -> nn.Sequential:
    """Two layers around a GELU."""
    hidden = int(dim * mlp_ratio)
    return nn.Sequential(TokenLinear(dim, hidden), nn.GELU(), TokenLinear(hidden, dim))


class EPGEncoderBlock(nn.Module):
    """Attention and MLP, each behind a LayerNorm."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads)
        self.mlp = feed_forward(dim, mlp_ratio)

    def forward(self, x: Float[Tensor, "b n d"], kept: int | None = None) -> Float[Tensor, "b k d"]:
        """The tokens, of which only the first `kept` go on where the others are not needed any more."""
        x = x[:, :kept] + self.attention(self.norm_1(x), kept)
        return x + self.mlp(self.norm_2(x))


class EPGDecoderBlock(nn.Module):
    """Merges a skip from the encoder, then attention and MLP, each modulated and gated by noise level and label."""

    def __init__(self, dim: int, encoder_dim: int, num_heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.merge, self.merge_norm = TokenLinear(dim + encoder_dim, dim), nn.LayerNorm(dim)
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads, dropout)
        self.mlp = feed_forward(dim, mlp_ratio)

    def forward(
        self, x: Float[Tensor, "b n d"], skip: Float[Tensor, "b n e"], modulation: Modulation
    ) -> Float[Tensor, "b n d"]:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.unbind(2)
        x = self.merge_norm(self.merge(torch.cat([x, skip], dim=-1)))
        x = x + gate_a * self.attention(torch.addcmul(shift_a, self.norm_1(x), 1 + scale_a))
        return x + gate_m * self.mlp(torch.addcmul(shift_m, self.norm_2(x), 1 + scale_m))


class Projector(nn.Sequential):
    """Three linear layers with batch norms between them, from a representation to where views are compared."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__(
            nn.Linear(dim, hidden, bias=False), SynchronisedBatchNorm(hidden), nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False), SynchronisedBatchNorm(hidden), nn.ReLU(),
            nn.Linear(hidden, out, bias=False),
        )  # fmt: skip


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases; queries, keys and values count as three matrices (MoCo v3)."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            for matrix in part.weight.flatten(1).chunk(3 if name.endswith("to_qkv") else 1):
                nn.init.xavier_uniform_(matrix)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
