"""The layers of the autoregressive network, computed a column or a row at a time from what they remember.

Each holds its weights folded (without weight normalisation) and channels last. A group of n variants moves on together,
down the rows of wt tokens; the m columns that are computed at once are one, or all of a row.

Shapes: n variants, m columns, wt columns of a row, T tokens, F width, i o channels in and out.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from gen.inpaint.structure import CausalAttention, GatedBlock


def concat_elu(x: Float[Tensor, "*grid f"]) -> Float[Tensor, "*grid 2*f"]:
    """ELU of x and of -x, channels last."""
    return F.elu_(torch.cat([x, -x], dim=-1))


class Product:
    """A convolution of one row as a product: all taps of a place times one matrix."""

    def __init__(self, layer: nn.Conv2d) -> None:
        (self.weight,), self.bias = kernel_rows(layer), _folded(layer.bias)

    def __call__(self, x: Float[Tensor, "*grid i"]) -> Float[Tensor, "*grid o"]:
        return F.linear(x, self.weight.T, self.bias)


class RowConvolution:
    """A causal convolution over this row and the one above: `rows` holds the inputs of a row until they are replaced.

    What the row above gives is one product for the whole row, `from_above`; what this row gives, one for each call.
    """

    def __init__(self, layer: nn.Conv2d, num_variants: int, columns: int) -> None:
        (self.above, self.here), self.bias = kernel_rows(layer), _folded(layer.bias)
        self.taps = layer.kernel_size[1]
        self.padding = self.taps // 2  # to the left: 0, 1, 1 of 1, 2, 3 taps; the rest is to the right
        self.rows = torch.zeros(num_variants, columns + self.taps - 1, layer.in_channels, device=self.bias.device)

    def reset(self) -> None:
        """Forget all rows: above the first one there are zeros."""
        self.rows.zero_()

    def start_row(self) -> None:
        """Take leave of the row above."""
        self.from_above = F.linear(self.windows(), self.above.T, self.bias)  # (n, wt, o)

    def __call__(self, x: Float[Tensor, "n m i"], columns: slice) -> Float[Tensor, "n m o"]:
        """The outputs at these columns of this row, whose inputs are `x`."""
        self.rows[:, columns.start + self.padding : columns.stop + self.padding] = x
        return self.from_above[:, columns] + self.windows(columns) @ self.here

    def windows(self, columns: slice | None = None) -> Float[Tensor, "n m taps_i"]:
        """The inputs that each column sees of one row, side by side, without a copy."""
        n, length, channels = self.rows.shape
        start, stop = (0, length - self.taps + 1) if columns is None else (columns.start, columns.stop)
        shape, strides = (n, stop - start, self.taps * channels), (length * channels, channels, 1)
        return self.rows.as_strided(shape, strides, start * channels)


class Block:
    """A gated block: see `GatedBlock`. The condition of all rows is computed once."""

    def __init__(
        self, block: GatedBlock, num_variants: int, condition: Float[Tensor, "ht wt c"], row: Int64[Tensor, "1"]
    ) -> None:
        rows, columns = condition.shape[:2]
        assert block.condition is not None
        self.conv1 = RowConvolution(block.conv1, num_variants, columns)
        self.conv2 = RowConvolution(block.conv2, num_variants, columns)
        self.condition = Product(block.condition)(condition)  # (ht, wt, 2F)
        self.side = None if block.side is None else Product(block.side)
        self.attention = None if block.attention is None else Attention(block.attention, num_variants, rows * columns)
        self.row = row  # that is being computed, on the device

    def reset(self) -> None:
        """Forget all rows. What attention remembers is replaced before it is looked at."""
        self.conv1.reset()
        self.conv2.reset()

    def start_row(self, side: Float[Tensor, "n wt s"] | None = None) -> None:
        """Go on to the next row; `side` comes after its concatenated ELU."""
        self.conv1.start_row()
        self.conv2.start_row()
        self.conv2.from_above += self.condition.index_select(0, self.row)
        if side is not None:
            assert self.side is not None
            self.conv1.from_above += self.side(side)

    def __call__(self, x: Float[Tensor, "n m f"], columns: slice, past: "Past | None" = None) -> Float[Tensor, "n m f"]:
        """The outputs at these columns."""
        c = self.conv1(concat_elu(x), columns)
        c = F.glu(self.conv2(concat_elu(c), columns), dim=-1)
        if self.attention is not None:
            assert past is not None
            c = c + self.attention(c, past)
        return x + c


class Past:
    """Which tokens the columns attend to: those before them in raster order.

    Args:
        positions: of the columns, in 0 .. T - 1.
        length: number of tokens to look at, at least all that are seen.
    """

    def __init__(self, positions: Int64[Tensor, " m"], length: int) -> None:
        self.positions, self.length = positions, length
        self.seen: Bool[Tensor, "m length"] = torch.arange(length, device=positions.device) < positions[:, None]


class Attention:
    """Strictly causal attention over remembered keys and values: see `CausalAttention`."""

    def __init__(self, layer: CausalAttention, num_variants: int, tokens: int) -> None:
        self.query, self.key, self.value = (Product(one) for one in (layer.query, layer.key, layer.value))
        self.out, self.heads = Product(layer.out), layer.num_heads
        device, width = self.out.bias.device, self.query.bias.shape[0] // self.heads
        self.scale = 1 / math.sqrt(width)
        self.keys = torch.zeros(num_variants, self.heads, tokens, width, device=device)
        self.values = torch.zeros(num_variants, self.heads, tokens, len(self.value.bias) // self.heads, device=device)

    def __call__(self, x: Float[Tensor, "n m f"], past: Past) -> Float[Tensor, "n m f"]:
        """What the columns get from those before them; the columns themselves are remembered for later ones."""
        self.keys.index_copy_(2, past.positions, self._split(self.key(x)))
        self.values.index_copy_(2, past.positions, self._split(self.value(x)))
        keys, values = self.keys[:, :, : past.length], self.values[:, :, : past.length]
        scores = self._split(self.query(x)) @ keys.mT * self.scale  # (n, heads, m, length)
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill_(~past.seen, lowest).softmax(-1) * past.seen  # none at all for the first token
        return self.out((weights @ values).transpose(1, 2).flatten(2))

    def _split(self, x: Float[Tensor, "n m he"]) -> Float[Tensor, "n heads m e"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def kernel_rows(layer: nn.Conv2d) -> list[Float[Tensor, "taps_i o"]]:
    """Of each row of a kernel the matrix for all of its taps, side by side: the fastest layout for a few inputs."""
    weight = _folded(layer.weight)  # (o, i, kh, kw)
    return [row.permute(2, 1, 0).flatten(0, 1) for row in weight.unbind(2)]


def _folded(parameter: Tensor | None) -> Tensor:
    assert parameter is not None
    return parameter.detach().float()
