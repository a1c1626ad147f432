"""From signed values of pixels to prompts for a segmenter: points on the evidence, points on what speaks against it,
and a box around it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import UserError

PromptKind = Literal["point", "points", "points+box"]
Box = tuple[float, float, float, float]

LARGEST = 512  # places along a side at which peaks are sought: values of blocks have no finer detail
SMOOTHING, SEPARATION = 1 / 24, 1 / 8  # of the shorter side
PEAK_SHARE, VALLEY_SHARE = 0.5, 0.1  # of the largest value
MOST_PEAKS, MOST_VALLEYS = 3, 2
BOX_GROWTH = 0.1  # of its height and of its width
NO_EVIDENCE = 1e-4  # all that speaks for the class together, as a probability


@dataclass(frozen=True)
class Prompts:
    """Where a segmenter is told to look: points (x, y) in pixels of the image, each with the sign +1 (the object) or -1
    (not the object), and a box from its first to its last column and row.

    `peak_values` are the smoothed values at the points. `evidence` is the region {value >= half the largest} itself, as
    lengths of runs, row by row, of pixels outside and inside in turn; empty where a person placed the points.
    """

    points: tuple[tuple[float, float], ...]
    signs: tuple[int, ...]
    box: Box | None
    peak_values: tuple[float, ...]
    evidence: tuple[int, ...] = ()


def prompts_of(values: Float[Tensor, "h w"], kind: str = "points+box") -> Prompts | None:
    """Prompts from signed values (one number a pixel); None where nothing speaks for the class, or nowhere more.

    Up to 3 maxima of the smoothed values, and up to 2 minima where they speak against the class. "point": the highest
    alone. Raises `UserError` for an unknown kind, and values that are not finite.
    """
    if kind not in get_args(PromptKind):
        raise UserError(f"there are no prompts of the kind {kind!r}; choose {', '.join(get_args(PromptKind))}")
    if not values.isfinite().all():
        raise UserError("the values of the explanation are not finite numbers; run the classifier in float32")
    values = values.detach().double().cpu()
    smooth = _smoothed(values)
    top, spread = smooth.max(), smooth.max() - smooth.min()
    if values.clamp(min=0).sum() < NO_EVIDENCE or top <= 0 or spread <= 1e-6 * top:
        return None
    places = _maxima(smooth, PEAK_SHARE * top, MOST_PEAKS if kind != "point" else 1)
    signs = [1] * len(places)
    if kind != "point":
        valleys = _maxima(-smooth, VALLEY_SHARE * top, MOST_VALLEYS)
        places, signs = np.concatenate([places, valleys]), signs + [-1] * len(valleys)
    scale = np.array(values.shape) / np.array(smooth.shape)
    centres = (places + 0.5) * scale - 0.5
    return Prompts(
        points=tuple((float(x), float(y)) for y, x in centres),
        signs=tuple(signs),
        box=_box(smooth >= PEAK_SHARE * top, scale, values.shape) if kind == "points+box" else None,
        peak_values=tuple(float(smooth[y, x]) for y, x in places),
        evidence=_runs(evidence_region(values)),
    )


def evidence_region(values: Float[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Where the values are at least half of the largest: what a mask has to be better than."""
    return (values > 0) & (values >= PEAK_SHARE * values.max())


def region_of(prompts: Prompts, size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """The evidence that the prompts were made from. Raises `UserError` where a person placed them."""
    if sum(prompts.evidence) != size[0] * size[1]:
        raise UserError("these points come without an explanation of this image, so there is no evidence to show")
    inside = np.arange(len(prompts.evidence)) % 2 == 1
    return torch.from_numpy(np.repeat(inside, prompts.evidence).reshape(size))


def _smoothed(values: Float[Tensor, "h w"]) -> Float[np.ndarray, "_ _"]:
    from scipy.ndimage import gaussian_filter

    size = (min(values.shape[0], LARGEST), min(values.shape[1], LARGEST))
    small = F.adaptive_avg_pool2d(values[None, None], size)[0, 0].numpy()
    sigma = [SMOOTHING * min(values.shape) * have / side for have, side in zip(size, values.shape, strict=True)]
    return gaussian_filter(small, sigma)


def _maxima(smooth: Float[np.ndarray, "h w"], least: float, most: int) -> np.ndarray:
    """Rows and columns of the highest maxima, apart from each other, the highest first."""
    from skimage.feature import peak_local_max

    apart = max(1, round(SEPARATION * min(smooth.shape)))
    return peak_local_max(smooth, min_distance=apart, threshold_abs=least, num_peaks=most, exclude_border=False)


def _box(region: Bool[np.ndarray, "h w"], scale: np.ndarray, size: torch.Size) -> Box:
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    edges = [(line[0] * step, (line[-1] + 1) * step) for line, step in zip((rows, columns), scale, strict=True)]
    (y0, y1), (x0, x1) = (
        (max(0.0, first - grown), min(side, last + grown) - 1)
        for (first, last), side in zip(edges, size, strict=True)
        for grown in [BOX_GROWTH / 2 * (last - first)]
    )
    return float(x0), float(y0), float(x1), float(y1)


def _runs(region: Bool[Tensor, "h w"]) -> tuple[int, ...]:
    flat = region.numpy().ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=False))
    return tuple(np.diff(np.concatenate([[0], starts, [flat.size]])).tolist())
