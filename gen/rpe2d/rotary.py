"""Axial 2-D rotary embedding: queries and keys turn with the row and the column of their patch."""

import torch
from jaxtyping import Float, Num
from torch import Tensor

Rotary = Float[Tensor, "#b 1 n f 2"]  # cosine and sine of each pair of channels


def rotary_frequencies(head_dim: int, theta: float, device: torch.device | str | None = None) -> Float[Tensor, " f"]:
    """Radians per position of one axis, fastest first: theta^(-4k / head_dim) for k < head_dim / 4.

    RoFormer (arXiv 2104.09864) on the half of the channels that belongs to an axis.
    """
    return theta ** (-torch.arange(head_dim // 4, dtype=torch.float32, device=device) * 4 / head_dim)


def rotary_table(
    rows: Num[Tensor, "*b h"],
    columns: Num[Tensor, "*b w"],
    frequencies: tuple[Float[Tensor, " f"], Float[Tensor, " f"]],
) -> Float[Tensor, "b 1 n 2*f 2"]:
    """Cosines and sines of shape (b or 1, 1, h * w, head_dim / 2, 2), in fp32: bf16 cannot hold the angles.

    The first half of them turns with the row, the second with the column, each at its axis' own frequencies
    [axial form: FiT, arXiv 2402.12376].
    """
    row_angles = torch.atleast_2d(rows)[:, :, None, None] * frequencies[0]  # (b, h, 1, f)
    column_angles = torch.atleast_2d(columns)[:, None, :, None] * frequencies[1]  # (b, 1, w, f)
    batch, h, w = len(row_angles), row_angles.shape[1], column_angles.shape[2]
    angles = torch.cat([row_angles.expand(batch, h, w, -1), column_angles.expand(batch, h, w, -1)], dim=-1)
    angles = angles.reshape(batch, 1, h * w, -1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Float[Tensor, "b heads n d"], rotary: Rotary) -> Float[Tensor, "b heads n d"]:
    """Turn each pair of neighbouring channels of `x` by its token's angle, in fp32.

    On a CPU as one product of complex numbers, which is one pass; elsewhere in real numbers, which torch.compile fuses
    (it cannot fuse complex ones).
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if x.device.type == "cpu":
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary))
    else:
        turned = _in_real_numbers(pairs, rotary)
    return turned.flatten(-2).to(x.dtype)


def _in_real_numbers(pairs: Float[Tensor, "b heads n f 2"], rotary: Rotary) -> Float[Tensor, "b heads n f 2"]:
    (a, b), (cosine, sine) = pairs.unbind(-1), rotary.unbind(-1)
    return torch.stack([a * cosine - b * sine, a * sine + b * cosine], dim=-1)
