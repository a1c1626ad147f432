"""Positional encodings that are added to the tokens once; the default, rotary, turns queries and keys instead.

Each maps row positions (b or none, h) and column positions (b or none, w) to (b or 1, h * w, dim). Positions may be
fractions where a grid is interpolated. Letters: b images, h rows, w columns, d width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Num
from torch import Tensor, nn

Rows = Num[Tensor, "*b h"]
Columns = Num[Tensor, "*b w"]


def on_grid(rows: Float[Tensor, "b h e"], columns: Float[Tensor, "b w e"]) -> Float[Tensor, "b n d"]:
    """Every pair of a row's and a column's channels, in row-major order, the row's first."""
    batch, h, w = len(rows), rows.shape[1], columns.shape[1]
    pairs = (rows[:, :, None].expand(batch, h, w, -1), columns[:, None].expand(batch, h, w, -1))
    return torch.cat(pairs, dim=-1).flatten(1, 2)


class SinCosEncoding(nn.Module):
    """Sines and cosines of the positions, without weights, as in DiT (arXiv 2212.09748; there the column comes first).

    A quarter of the width each: sin(row), cos(row), sin(column), cos(column), at theta^(-k / (d / 4)) radians a step.
    """

    def __init__(self, dim: int, theta: float) -> None:
        super().__init__()
        self.dim, self.theta = dim, theta

    def forward(self, rows: Rows, columns: Columns) -> Float[Tensor, "b n d"]:
        """The encoding of a grid of patches."""
        return on_grid(self._axis(rows), self._axis(columns))

    def _axis(self, positions: Num[Tensor, "*b n"]) -> Float[Tensor, "b n e"]:
        steps = torch.arange(self.dim // 4, device=positions.device, dtype=torch.float32)
        angles = torch.atleast_2d(positions)[..., None] * self.theta ** (-steps / (self.dim // 4))
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class FourierEncoding(nn.Module):
    """Learnable Fourier features of the position on the plane, then a small MLP (Li et al. 2021, arXiv 2106.02795).

    Frequencies start as N(0, gamma^-2) on positions scaled to [0, 1].
    """

    def __init__(self, dim: int, max_positions: tuple[int, int], features: int, hidden: int, gamma: float) -> None:
        super().__init__()
        self.extent = tuple(max(m - 1, 1) for m in max_positions)
        self.frequencies = nn.Linear(2, features // 2, bias=False)
        nn.init.normal_(self.frequencies.weight, std=1 / gamma)
        self.mlp = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, rows: Rows, columns: Columns) -> Float[Tensor, "b n d"]:
        """The encoding of a grid of patches."""
        scaled = [torch.atleast_2d(p)[..., None] / m for p, m in zip((rows, columns), self.extent, strict=True)]
        with torch.autocast(rows.device.type, enabled=False):  # bf16 cannot tell neighbouring positions apart
            phases = on_grid(*scaled) @ self.frequencies.weight.float().T
            features = torch.cat([phases.cos(), phases.sin()], dim=-1) / (2 * phases.shape[-1]) ** 0.5
        return self.mlp(features.to(self.frequencies.weight.dtype))


class TableEncoding(nn.Module):
    """A learned vector for each row and one for each column; between positions the table is resampled bicubically."""

    def __init__(self, dim: int, max_positions: tuple[int, int]) -> None:
        super().__init__()
        self.rows, self.columns = (nn.Parameter(torch.randn(m, dim // 2) * 0.02) for m in max_positions)

    def forward(self, rows: Rows, columns: Columns) -> Float[Tensor, "b n d"]:
        """The encoding of a grid of patches; no position may lie outside the table."""
        return on_grid(_look_up(self.rows, torch.atleast_2d(rows)), _look_up(self.columns, torch.atleast_2d(columns)))


def _look_up(table: Float[Tensor, "m e"], positions: Num[Tensor, "b n"]) -> Float[Tensor, "b n e"]:
    if not positions.is_floating_point():
        return table[positions]
    along = 2 * positions.float() / max(len(table) - 1, 1) - 1  # grid_sample's coordinates: the ends are +-1
    places = torch.stack([torch.zeros_like(along), along], dim=-1)[:, :, None]  # (b, n, 1, 2)
    image = table.float().T[None, :, :, None].expand(len(along), -1, -1, -1)  # (b, e, m, 1)
    sampled = F.grid_sample(image, places, mode="bicubic", padding_mode="border", align_corners=True)
    return sampled[..., 0].mT.to(table.dtype)
