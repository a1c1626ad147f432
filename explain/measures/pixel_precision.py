"""PxAP: average precision of the pixels of all images together, as a detector of the object.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", 2020, arXiv 2001.07437.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from explain.measures.iou import histograms

LEVELS = 1001  # thresholds 0, 0.001, ..., 1


def pixel_average_precision(
    values: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"], ignored: Bool[Tensor, "n h w"] | None = None
) -> float:
    """Area under the precision-recall curve of maps in [0, 1], pooled over images without the `ignored` pixels."""
    counted = torch.ones_like(masks) if ignored is None else ~ignored
    objects, others = histograms(values, masks & counted, counted, LEVELS)
    return average_precision(objects.sum(0), others.sum(0))


def average_precision(positives: Tensor, negatives: Tensor) -> float:
    """Sum of precision times gain in recall over falling thresholds, from counts at rising values."""
    true, false = (counts.flip(0).cumsum(0).double() for counts in (positives, negatives))
    precision = true / (true + false).clamp(min=1)
    return float((precision * positives.flip(0)).sum() / true[-1])
