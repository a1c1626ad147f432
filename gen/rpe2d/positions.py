"""Positions of the patches on the grid, at training and at inference.

Training draws an ordered random subset of a range that is larger than the training grid, independently per axis and
per sample, so that every position a larger grid needs has been trained [Hou et al. 2025, arXiv 2503.18719; ordered
subsets: Ruoss et al. 2023, arXiv 2305.16843]. Inference places the grid deterministically in the same range.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gen.rpe2d.modes import PositionMode
from workbench.errors import UserError


def sample_positions(
    batch_size: int, length: int, max_positions: int, generator: torch.Generator
) -> Int64[Tensor, "b n"]:
    """Draw `length` distinct positions of `0 .. max_positions - 1` uniformly and in increasing order, for each sample.

    Runs on the generator's device without a Python loop. Raises UserError when the range is too small.
    """
    check_range(length, max_positions)
    scores = torch.rand(batch_size, max_positions, generator=generator, device=generator.device)
    return scores.topk(length, dim=-1).indices.sort(dim=-1).values


def crop_aligned_positions(
    start: Float[Tensor, " b"], extent: Float[Tensor, " b"], length: int, max_positions: int, generator: torch.Generator
) -> Int64[Tensor, "b n"]:
    """Draw each sample's positions inside its crop's part of the range, as a fraction of the whole image.

    A patch of a close crop then has the spacing that patches of a large image have. The part is widened around its
    middle to `length` positions where it has fewer. An experiment of this project, not of the paper.
    """
    check_range(length, max_positions)
    width = (extent * max_positions).round().clamp(length, max_positions)
    first = ((start + extent / 2) * max_positions - width / 2).round()
    first = torch.minimum(first.clamp(min=0), max_positions - width)[:, None]
    slots = torch.arange(max_positions, device=start.device)
    scores = torch.rand(len(start), max_positions, generator=generator, device=generator.device)
    scores = scores.masked_fill((slots < first) | (slots >= first + width[:, None]), -1)
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
