"""Positions of the patches on the grid, at training and at inference, and their rotary encoding.

Training draws an ordered random subset of a range that is larger than the training grid, independently per axis and
per sample, so that every position a larger grid needs has been trained [Hou et al. 2025, arXiv 2503.18719; ordered
subsets: Ruoss et al. 2023, arXiv 2305.16843]. Inference places the grid deterministically in the same range.
"""

from typing import Literal

import torch
from jaxtyping import Complex64, Float, Int64
from torch import Tensor

from workbench.errors import UserError

PositionMode = Literal["equispaced", "isotropic", "centered", "random"]


def sample_positions(
    batch_size: int, length: int, max_positions: int, generator: torch.Generator
) -> Int64[Tensor, "b n"]:
    """Draw `length` distinct positions of `0 .. max_positions - 1` uniformly and in increasing order, for each sample.

    Runs on the generator's device without a Python loop. Raises UserError when the range is too small.
    """
    check_range(length, max_positions)
    scores = torch.rand(batch_size, max_positions, generator=generator, device=generator.device)
    return scores.topk(length, dim=-1).indices.sort(dim=-1).values


def inference_positions(
    grid: tuple[int, int],
    max_positions: tuple[int, int],
    mode: PositionMode = "equispaced",
    generator: torch.Generator | None = None,
) -> tuple[Int64[Tensor, " h"], Int64[Tensor, " w"]]:
    """Row and column positions of a `grid` (height, width) of patches, each increasing within its trained range.

    `equispaced` spreads each axis over its whole range; `isotropic` uses one common gap, so that patches keep their
    aspect on a non-square grid; `centered` takes consecutive positions in the middle; `random` draws as training does.
    Raises UserError when an axis has more patches than positions were trained.
    """
    for length, maximum in zip(grid, max_positions, strict=True):
        check_range(length, maximum)
    if mode == "random":
        generator = generator or torch.Generator().manual_seed(0)
        rows, columns = (sample_positions(1, n, m, generator)[0] for n, m in zip(grid, max_positions, strict=True))
        return rows, columns
    gaps = _gaps(grid, max_positions, mode)
    rows, columns = (_centered(n, m, gap) for n, m, gap in zip(grid, max_positions, gaps, strict=True))
    return rows, columns


def check_range(length: int, max_positions: int) -> None:
    """Raise UserError unless `length` patches fit in `max_positions` trained positions."""
    if not 1 <= length <= max_positions:
        raise UserError(
            f"{length} patches along one axis were asked for, but this model was trained on {max_positions} positions; "
            f"choose a size with at most {max_positions} patches a side, or train with a larger --max-positions"
        )


def _gaps(grid: tuple[int, int], max_positions: tuple[int, int], mode: PositionMode) -> tuple[float, float]:
    if mode == "centered":
        return 1.0, 1.0
    widest = [(m - 1) / max(n - 1, 1) for n, m in zip(grid, max_positions, strict=True)]
    if mode == "isotropic":
        common = min((gap for n, gap in zip(grid, widest, strict=True) if n > 1), default=1.0)
        return common, common
    return widest[0], widest[1]


def _centered(length: int, max_positions: int, gap: float) -> Int64[Tensor, " n"]:
    # Half down, not half to even: rounding a run of equal gaps >= 1 then stays strictly increasing.
    start = (max_positions - 1 - (length - 1) * gap) / 2
    positions = start + gap * torch.arange(length, dtype=torch.float64)
    return (positions + 0.5 - 1e-9).floor().long()


def rotary_table(
    rows: Int64[Tensor, "*b h"], columns: Int64[Tensor, "*b w"], head_dim: int, theta: float
) -> Complex64[Tensor, "b 1 n f"]:
    """Axial 2-D rotary embedding: unit complex numbers of shape (b or 1, 1, h * w, head_dim / 2).

    The first half of them turns with the row, the second with the column: angle = position * theta^(-4k / head_dim)
    for k < head_dim / 4 [RoFormer, arXiv 2104.09864; axial form: FiT, arXiv 2402.12376].
    """
    frequencies = theta ** (-torch.arange(head_dim // 4, device=rows.device, dtype=torch.float32) * 4 / head_dim)
    row_angles = torch.atleast_2d(rows)[:, :, None, None] * frequencies  # (b, h, 1, f / 2)
    column_angles = torch.atleast_2d(columns)[:, None, :, None] * frequencies  # (b, 1, w, f / 2)
    batch, h, w = len(row_angles), row_angles.shape[1], column_angles.shape[2]
    angles = torch.cat([row_angles.expand(batch, h, w, -1), column_angles.expand(batch, h, w, -1)], dim=-1)
    angles = angles.reshape(batch, 1, h * w, head_dim // 2)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Float[Tensor, "b heads n d"], rotary: Complex64[Tensor, "#b 1 n f"]) -> Float[Tensor, "b heads n d"]:
    """Turn each pair of neighbouring channels of `x` by its token's angle, in fp32: bf16 cannot hold the angles."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary).flatten(-2).to(x.dtype)
