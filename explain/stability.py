"""Does a region hang on one point of its prompt?"""

from dataclasses import replace
from statistics import fmean
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from explain.prompts import Prompts
from explain.segment import Segmenter


def prompt_stability(
    segmenter: Segmenter, embedding: Any, prompts: Prompts, region: Bool[Tensor, "h w"]
) -> float | None:
    """Mean IoU of a region and the nearest mask that the segmenter cuts with one of the positive points left out; None
    where there is one point only. The image is embedded already: each point costs a run of the mask decoder."""
    positive = [number for number, sign in enumerate(prompts.signs) if sign > 0]
    if len(positive) < 2:
        return None
    return fmean(
        max(iou(mask, region) for mask in segmenter.masks(embedding, without(prompts, number))[0])
        for number in positive
    )


def without(prompts: Prompts, number: int) -> Prompts:
    """All but one of the points."""
    kept = [k for k in range(len(prompts.points)) if k != number]
    return replace(
        prompts,
        points=tuple(prompts.points[k] for k in kept),
        signs=tuple(prompts.signs[k] for k in kept),
        peak_values=tuple(prompts.peak_values[k] for k in kept),
    )


def iou(first: Bool[Tensor, "h w"], second: Bool[Tensor, "h w"]) -> float:
    """Intersection over union; 1 of two empty masks."""
    first, second = first.cpu(), second.cpu()
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 1.0
