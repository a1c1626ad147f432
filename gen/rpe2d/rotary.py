"""Axial 2-D rotary embedding: queries and keys turn with the row and the column of their patch."""

import torch
from jaxtyping import Complex64, Float, Num
from torch import Tensor

Rotary = Complex64[Tensor, "b 1 n f"]


def rotary_frequencies(head_dim: int, theta: float, device: torch.device | str | None = None) -> Float[Tensor, " f"]:
    """Radians per position of one axis, fastest first: theta^(-4k / head_dim) for k < head_dim / 4.

    RoFormer (arXiv 2104.09864) on the half of the channels that belongs to an axis.
    """
    return theta ** (-torch.arange(head_dim // 4, dtype=torch.float32, device=device) * 4 / head_dim)


def rotary_table(
    rows: Num[Tensor, "*b h"],
    columns: Num[Tensor, "*b w"],
    frequencies: tuple[Float[Tensor, " f"], Float[Tensor, " f"]],
) -> Complex64[Tensor, "b 1 n 2*f"]:
    """Unit complex numbers of shape (b or 1, 1, h * w, head_dim / 2), in fp32: bf16 cannot hold the angles.

    The first half of them turns with the row, the second with the column, each at its axis' own frequencies
    [axial form: FiT, arXiv 2402.12376].
    """
    row_angles = torch.atleast_2d(rows)[:, :, None, None] * frequencies[0]  # (b, h, 1, f)
    column_angles = torch.atleast_2d(columns)[:, None, :, None] * frequencies[1]  # (b, 1, w, f)
    batch, h, w = len(row_angles), row_angles.shape[1], column_angles.shape[2]
    angles = torch.cat([row_angles.expand(batch, h, w, -1), column_angles.expand(batch, h, w, -1)], dim=-1)
    angles = angles.reshape(batch, 1, h * w, -1)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Float[Tensor, "b heads n d"], rotary: Complex64[Tensor, "#b 1 n f"]) -> Float[Tensor, "b heads n d"]:
    """Turn each pair of neighbouring channels of `x` by its token's angle, in fp32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary).flatten(-2).to(x.dtype)
