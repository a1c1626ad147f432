"""Positions of the patches on the grid, at training and at inference.

Training draws an ordered random subset of a range that is larger than the training grid, independently per axis and
per sample, so that every position a larger grid needs has been trained [Hou et al. 2025, arXiv 2503.18719; ordered
subsets: Ruoss et al. 2023, arXiv 2305.16843]. Inference places the grid deterministically in the same range.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gen.rpe2d.modes import PositionMode, PositionSampling
from workbench.errors import UserError


def sample_positions(
    batch_size: int,
    length: int,
    max_positions: int,
    generator: torch.Generator,
    sampling: PositionSampling = "uniform",
) -> Int64[Tensor, "b n"]:
    """Draw `length` distinct positions of `0 .. max_positions - 1` in increasing order, for each sample.

    `uniform`: any ordered subset, all as likely. `stratified`: one in each of `length` equal parts of the range, so
    that a patch's position says where it is to within a part; a choice of this project, not of the paper. Runs on the
    generator's device without a Python loop. Raises UserError when the range is too small.
    """
    check_range(length, max_positions)
    first = torch.zeros(batch_size, dtype=torch.int64, device=generator.device)
    return _SAMPLED[sampling](first, first + max_positions, length, max_positions, generator)


def crop_aligned_positions(
    start: Float[Tensor, " b"],
    extent: Float[Tensor, " b"],
    length: int,
    max_positions: int,
    generator: torch.Generator,
    sampling: PositionSampling = "uniform",
) -> Int64[Tensor, "b n"]:
    """`sample_positions` inside each sample's crop's part of the range; `start` and `extent` of the crop are fractions
    of the whole image.

    A patch of a close crop then has the spacing that patches of a large image have. The part is widened around its
    middle to `length` positions where it has fewer. An experiment of this project, not of the paper.
    """
    check_range(length, max_positions)
    width = (extent * max_positions).round().clamp(length, max_positions)
    first = ((start + extent / 2) * max_positions - width / 2).round()
    first = torch.minimum(first.clamp(min=0), max_positions - width)
    return _SAMPLED[sampling](first.long(), width.long(), length, max_positions, generator)


def _uniform(
    first: Int64[Tensor, " b"], width: Int64[Tensor, " b"], length: int, max_positions: int, generator: torch.Generator
) -> Int64[Tensor, "b n"]:
    slots = torch.arange(max_positions, device=first.device)
    scores = torch.rand(len(first), max_positions, generator=generator, device=generator.device)
    outside = (slots < first[:, None]) | (slots >= (first + width)[:, None])
    return scores.masked_fill(outside, -1).topk(length, dim=-1).indices.sort(dim=-1).values


def _stratified(
    first: Int64[Tensor, " b"], width: Int64[Tensor, " b"], length: int, max_positions: int, generator: torch.Generator
) -> Int64[Tensor, "b n"]:
    edges = width[:, None] * torch.arange(length + 1, device=first.device) // length
    parts = edges.diff(dim=-1)
    drawn = torch.rand(parts.shape, generator=generator, device=generator.device) * parts
    return first[:, None] + edges[:, :-1] + torch.minimum(drawn.long(), parts - 1)


_SAMPLED = {"uniform": _uniform, "stratified": _stratified}


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
