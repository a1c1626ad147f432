"""The diverse structure generator: p(structure tokens | masked image), one token after another in raster order.

A condition network sees the masked image; an autoregressive network of two streams sees it and the tokens above and to
the left: PixelCNN++ (Salimans et al. 2017, arXiv 1701.05517) with the attention of PixelSNAIL (Chen et al. 2018,
arXiv 1712.09763), at one resolution. `sampler.py` computes the same, a column at a time.

Shapes: B batch, C channels, H W pixels, D code dim, ht wt tokens, K codes, F width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Convolution = Callable[[int, int], nn.Conv2d]


class StructureModel(ModelMixin, ConfigMixin):
    """Both networks; see `condition` and `logits`.

    Args:
        channels: of the images.
        num_codes, code_dim: of the structure codebook.
        factor: pixels along each side of a token, a power of two.
        condition_width: filters of the condition network at full resolution, doubled at each halving.
        dilations: of the condition network's last blocks.
        width: filters of the autoregressive network.
        num_levels: gated blocks in each of its streams.
        attention_every: levels from one attention to the next.
        num_attention_heads: each with queries and keys of width / heads and values of width / 2.
        num_output_blocks: 1x1 layers before the logits.
        dropout: share of each gated block's output that a dropout mask hides, in the autoregressive network.
        codebook_hash: of the VQ-VAE that it was trained with.
        mask_kinds: holes that it was trained with.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 3,
        num_codes: int = 512,
        code_dim: int = 64,
        factor: int = 8,
        condition_width: int = 32,
        dilations: Sequence[int] = (1, 1, 1, 1, 2, 4, 8, 16, 1, 1, 1),
        width: int = 128,
        num_levels: int = 20,
        attention_every: int = 5,
        num_attention_heads: int = 8,
        num_output_blocks: int = 20,
        dropout: float = 0.1,
        codebook_hash: str = "",
        mask_kinds: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.condition_network = ConditionNetwork(channels + 2, factor, condition_width, dilations)
        self.autoregression = Autoregression(
            num_codes, code_dim, condition_width * factor, width, num_levels, attention_every, num_attention_heads,
            num_output_blocks, dropout,
        )  # fmt: skip

    def condition(self, masked: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b f ht wt"]:
        """What the masked images tell of each token. `masked` is in [-1, 1], 0 in the hole; `mask` is 1 in the hole."""
        features: Tensor = self.condition_network(torch.cat([masked, torch.ones_like(mask), mask], dim=1))
        return features

    def logits(
        self,
        vectors: Float[Tensor, "b d ht wt"],
        h: Float[Tensor, "#b f ht wt"],
        dropout_mask: Bool[Tensor, "b blocks width ht wt"] | None = None,
    ) -> Float[Tensor, "b k ht wt"]:
        """Log-probabilities, up to a constant, of each token given those before it; `vectors` are their codes."""
        logits: Tensor = self.autoregression(vectors, h, dropout_mask)
        return logits

    def forward(
        self,
        masked: Float[Tensor, "b c h w"],
        mask: Float[Tensor, "b 1 h w"],
        vectors: Float[Tensor, "b d ht wt"],
        dropout_mask: Bool[Tensor, "b blocks width ht wt"] | None = None,
    ) -> Float[Tensor, "b k ht wt"]:
        """Logits of all tokens at once, for training. `dropout_mask`: true where a gated block's output is kept."""
        return self.logits(vectors, self.condition(masked, mask), dropout_mask)

    @property
    def dropout_shape(self) -> tuple[int, int]:
        """Blocks and filters of a dropout mask."""
        return 2 * self.config.num_levels, self.config.width


# ---- layers ----------------------------------------------------------------------------------------------------------


def concat_elu(x: Float[Tensor, "b f *grid"]) -> Float[Tensor, "b 2*f *grid"]:
    """ELU of x and of -x: twice the channels."""
    return F.elu(torch.cat([x, -x], dim=1))


class PaddedConv2d(nn.Conv2d):
    """A convolution with its own zero padding on each side: left, right, top, bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], sides: tuple[int, int, int, int]) -> None:
        super().__init__(inputs, outputs, kernel)
        self.sides = sides

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        return super().forward(F.pad(x, self.sides))


def normed(layer: nn.Conv2d) -> nn.Conv2d:
    """With weight normalisation; directions from N(0, 0.05), norms 1, biases 0."""
    nn.init.normal_(layer.weight, std=0.05)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    weight_norm(layer)
    parametrizations: Any = layer.parametrizations
    nn.init.ones_(parametrizations.weight.original0)
    return layer


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution."""
    return normed(nn.Conv2d(inputs, outputs, 1))


def down(inputs: int, outputs: int) -> nn.Conv2d:
    """2x3: this row and the one above."""
    return normed(PaddedConv2d(inputs, outputs, (2, 3), (1, 1, 1, 0)))


def down_right(inputs: int, outputs: int) -> nn.Conv2d:
    """2x2: this column and the one to the left, of this row and the one above."""
    return normed(PaddedConv2d(inputs, outputs, (2, 2), (1, 0, 1, 0)))


def shifted_down(x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b f h w"]:
    """Each row in the place of the one below; zeros above."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


def shifted_right(x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b f h w"]:
    """Each column in the place of the one to the right; zeros at the left."""
    return F.pad(x, (1, 0))[..., :-1]


class GatedBlock(nn.Module):
    """`x + keep(gate(conv2(celu(conv1(celu(x)) + side)) + condition) [+ attention])`; see `forward`."""

    def __init__(
        self,
        width: int,
        conv1: nn.Conv2d,
        conv2: nn.Conv2d,
        side_width: int = 0,
        condition_width: int = 0,
        num_attention_heads: int = 0,
    ) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv1, conv2
        self.side = pointwise(2 * side_width, conv1.out_channels) if side_width else None
        self.condition = pointwise(2 * condition_width, 2 * width) if condition_width else None
        self.attention = CausalAttention(width, num_attention_heads) if num_attention_heads else None

    def forward(
        self,
        x: Float[Tensor, "b f h w"],
        side: Float[Tensor, "b s h w"] | None = None,
        condition: Float[Tensor, "#b c h w"] | None = None,
        keep: Float[Tensor, "b f h w"] | None = None,
    ) -> Float[Tensor, "b f h w"]:
        """`side` and `condition` come after their concatenated ELU; `keep` multiplies the branch."""
        c = self.conv1(concat_elu(x))
        if self.side is not None:
            c = c + self.side(side)
        c = self.conv2(concat_elu(c))
        if self.condition is not None:
            c = c + self.condition(condition)
        c = F.glu(c, dim=1)
        if self.attention is not None:
            c = c + self.attention(c)
        return x + (c if keep is None else c * keep)


class CausalAttention(nn.Module):
    """Each position attends to those before it in raster order, never to itself; the first one gets nothing."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key = pointwise(width, width), pointwise(width, width)
        self.value = pointwise(width, num_heads * (width // 2))
        self.out = pointwise(num_heads * (width // 2), width)

    def forward(self, x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b f h w"]:
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        # position t sees 0 .. t - 1: the usual triangle, of queries from 1 on and keys up to the last but one
        seen = F.scaled_dot_product_attention(query[:, :, 1:], key[:, :, :-1], value[:, :, :-1], is_causal=True)
        seen = F.pad(seen, (0, 0, 1, 0)).transpose(2, 3)  # (B, heads, values, N)
        result: Tensor = self.out(seen.reshape(len(x), -1, *x.shape[-2:]))
        return result

    def _heads(self, x: Float[Tensor, "b f h w"]) -> Float[Tensor, "b heads n e"]:
        return x.unflatten(1, (self.num_heads, -1)).flatten(3).transpose(2, 3)


# ---- networks --------------------------------------------------------------------------------------------------------


class ConditionNetwork(nn.Module):
    """Gated blocks at full resolution, at each halving of the sides, and with growing dilation on the token grid."""

    def __init__(self, inputs: int, factor: int, width: int, dilations: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [normed(nn.Conv2d(inputs, width, 5, padding=2)), self._block(width)]
        while factor > 1:
            factor, width = factor // 2, 2 * width
            layers.append(normed(nn.Conv2d(width // 2, width, 3, stride=2, padding=1)))
            layers += [self._block(width)] if factor > 1 else [self._block(width, dilation) for dilation in dilations]
        self.layers = nn.Sequential(*layers)

    @staticmethod
    def _block(width: int, dilation: int = 1) -> GatedBlock:
        first = normed(nn.Conv2d(2 * width, width, 3, padding=dilation, dilation=dilation))
        return GatedBlock(width, first, normed(nn.Conv2d(2 * width, 2 * width, 3, padding=1)))

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b f ht wt"]:
        features: Tensor = self.layers(x)
        return features


class Autoregression(nn.Module):
    """Two streams over the token grid: `u` sees the rows above, `ul` sees them and what is to the left."""

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        condition_width: int,
        width: int,
        num_levels: int,
        attention_every: int,
        num_attention_heads: int,
        num_output_blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        inputs = code_dim + 1  # and a plane of ones, which marks the inside
        self.above = down(inputs, width)
        self.row_above = normed(PaddedConv2d(inputs, width, (1, 3), (1, 1, 0, 0)))
        self.left = normed(PaddedConv2d(inputs, width, (2, 1), (0, 0, 1, 0)))
        block = partial(GatedBlock, width, condition_width=condition_width)
        self.u_blocks = nn.ModuleList(
            block(down(2 * width, width), down(2 * width, 2 * width)) for _ in range(num_levels)
        )
        self.ul_blocks = nn.ModuleList(
            block(
                down_right(2 * width, width), down_right(2 * width, 2 * width), side_width=width,
                num_attention_heads=0 if level % attention_every else num_attention_heads,
            )
            for level in range(1, num_levels + 1)
        )  # fmt: skip
        self.output_blocks = nn.ModuleList(pointwise(width, width) for _ in range(num_output_blocks))
        self.out = pointwise(width, num_codes)

    def forward(
        self,
        vectors: Float[Tensor, "b d ht wt"],
        h: Float[Tensor, "#b f ht wt"],
        dropout_mask: Bool[Tensor, "b blocks width ht wt"] | None = None,
    ) -> Float[Tensor, "b k ht wt"]:
        """Logits at each place, of what is above and to the left of it."""
        x = F.pad(vectors, (0, 0, 0, 0, 0, 1), value=1.0)
        u = shifted_down(self.above(x))
        ul = shifted_down(self.row_above(x)) + shifted_right(self.left(x))
        h = concat_elu(h)
        for level, (u_block, ul_block) in enumerate(zip(self.u_blocks, self.ul_blocks, strict=True)):
            u = u_block(u, condition=h, keep=self._keep(dropout_mask, 2 * level))
            ul = ul_block(ul, side=concat_elu(u), condition=h, keep=self._keep(dropout_mask, 2 * level + 1))
        for layer in self.output_blocks:
            ul = ul + layer(F.elu(ul))
        logits: Tensor = self.out(F.elu(ul))
        return logits

    def _keep(self, dropout_mask: Tensor | None, block: int) -> Tensor | None:
        """Factors on a block's output: 0 where the mask hides it, and more than 1 elsewhere, so that the mean stays."""
        return None if dropout_mask is None else dropout_mask[:, block] / (1 - self.dropout)
