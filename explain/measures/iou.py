"""IoU-threshold curve: how well {map >= threshold} is the object, over all 256 thresholds.

After Zhang et al., "Rethinking Localization Map", 2020, arXiv 2006.05220; the mean over images is our choice. The best
threshold of the test images is one that nobody would have known: choose it on other images (`held_out_iou`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from workbench.errors import UserError

LEVELS = 256


@dataclass(frozen=True)
class IoUCurve:
    """The mean curve over thresholds 0, 1/255, ..., 1, and what it says."""

    mean: Float[Tensor, " thresholds"]
    peak: float
    peak_threshold: float  # the largest that reaches it: a high one means high contrast
    area: float
    mean_of_peaks: float  # each image at its own best threshold


def iou_curves(
    values: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"], ignored: Bool[Tensor, "n h w"] | None = None
) -> Float[Tensor, "n thresholds"]:
    """IoU of {map >= threshold} and the mask, for each map in [0, 1] and threshold; `ignored` pixels are in neither.

    Raises `UserError` for other values, and for a mask without a pixel.
    """
    counted = torch.ones_like(masks) if ignored is None else ~ignored
    objects, others = histograms(values, masks & counted, counted, LEVELS)
    above, false = (histogram.flip(1).cumsum(1).flip(1).double() for histogram in (objects, others))
    if not bool((above[:, 0] > 0).all()):
        raise UserError("an object mask is empty: leave out images without an object")
    return (above / (above[:, :1] + false)).float()


def summarised(curves: Float[Tensor, "n thresholds"]) -> IoUCurve:
    """Peak, place of the peak and area of the mean curve."""
    mean = curves.mean(0)
    best = int((mean == mean.max()).nonzero().max())
    return IoUCurve(
        mean, float(mean[best]), best / (curves.shape[1] - 1), float(mean.mean()), float(curves.amax(1).mean())
    )


def held_out_iou(validation: Float[Tensor, "n thresholds"], test: Float[Tensor, "m thresholds"]) -> Float[Tensor, " m"]:
    """IoU of each test image at the threshold that is best on the validation images."""
    mean = validation.mean(0)
    return test[:, int((mean == mean.max()).nonzero().max())]


def histograms(
    values: Float[Tensor, "n h w"], objects: Bool[Tensor, "n h w"], counted: Bool[Tensor, "n h w"], levels: int
) -> tuple[Int64[Tensor, "n levels"], Int64[Tensor, "n levels"]]:
    """How many pixels of the object, and of the rest, have each of `levels` values between 0 and 1, rounded.

    Raises `UserError` for values outside [0, 1].
    """
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise UserError("maps are compared with masks in [0, 1], and these have other values: stretch them first")
    number = torch.arange(len(values), device=values.device)[:, None, None]
    place = (values * (levels - 1)).round().long() + levels * number
    parts = (objects, counted & ~objects)
    inside, outside = (torch.bincount(place[part], minlength=levels * len(values)) for part in parts)
    return inside.view(len(values), levels), outside.view(len(values), levels)
