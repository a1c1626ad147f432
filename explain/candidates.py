"""Which of a segmenter's masks shows the evidence: its share of the Shapley mass, and what the classifier says of the
cut-out.

The segmenter's own score says how well a mask outlines a thing, not whether the classifier looks at that thing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from explain.hiding import hiding
from explain.probability import logits_in_parts
from explain.shapley import Attribution
from workbench.pixel_classifier import PixelClassifier

LEAST_AREA, MOST_AREA = 0.002, 0.9  # shares of the image
LEAST_EVIDENCE = 0.1


@dataclass(frozen=True)
class Candidate:
    """A mask and what speaks for it: `evidence` is its share of the positive values minus its share of the area (-1 to
    1), `quality` the IoU that the segmenter expects (NaN where it expects none), `confidence` the target's probability
    on the cut-out. `rejected` says why it will not do, and is empty where it will. `segmenter` is who cut it."""

    mask: Bool[Tensor, "h w"]
    evidence: float
    quality: float
    area: float
    confidence: float
    rejected: str
    segmenter: str


def choose(
    classifier: PixelClassifier,
    image: Float[Tensor, "c h w"],
    attribution: Attribution,
    masks: Bool[Tensor, "n h w"],
    qualities: Float[Tensor, " n"],
    segmenters: Sequence[str],
    *,
    quality_weight: float = 0.1,
    confidence_weight: float = 0.1,
) -> tuple[tuple[Candidate, ...], int | None]:
    """All masks as candidates, and the number of the best of those that will do: the largest evidence, with the
    quality and the confidence in small part. None where none will do.

    `image` is in [0, 1]; what is outside a mask is filled as the attribution filled what it hid.
    """
    confidences = cut_out_confidences(classifier, image, masks, attribution.target, attribution.fill)
    found = tuple(
        _candidate(mask, attribution.values, quality, confidence, name)
        for mask, quality, confidence, name in zip(masks, qualities.tolist(), confidences, segmenters, strict=True)
    )
    scores = {
        number: c.evidence + quality_weight * (0.0 if math.isnan(c.quality) else c.quality)
        + confidence_weight * c.confidence
        for number, c in enumerate(found) if not c.rejected
    }  # fmt: skip
    return found, max(scores, key=scores.__getitem__, default=None)


def without_effect(candidates: Sequence[Candidate], number: int) -> tuple[Candidate, ...]:
    """The candidates, of which one is rejected because forward passes do not bear it out."""
    reason = "alone and hidden it does no more for the class than regions of its shape elsewhere"
    return tuple(replace(one, rejected=reason) if n == number else one for n, one in enumerate(candidates))


def evidence_score(mask: Bool[Tensor, "h w"], values: Float[Tensor, "h w"]) -> float:
    """E of a mask: its share of the positive values minus its share of the area."""
    positive = values.clamp(min=0).double().cpu()
    total, area = float(positive.sum()), float(mask.float().mean())
    return (float(positive[mask.cpu()].sum()) / total if total > 0 else 0.0) - area


@torch.no_grad()
def cut_out_confidences(
    classifier: PixelClassifier, image: Float[Tensor, "c h w"], masks: Bool[Tensor, "n h w"], target: int, fill: str
) -> list[float]:
    """The target's probability on what each mask shows, by one forward pass each."""
    [seen] = classifier.shrink(image[None].to(classifier.mean))
    small = F.interpolate(masks[:, None].float(), seen.shape[1:], mode="area")[:, 0] >= 0.5
    logits = logits_in_parts(classifier, hiding(seen, fill)(small))
    return classifier.probabilities(logits.float())[:, target].tolist()


def _candidate(
    mask: Bool[Tensor, "h w"], values: Float[Tensor, "h w"], quality: float, confidence: float, segmenter: str
) -> Candidate:
    area = float(mask.float().mean())
    candidate = Candidate(mask, evidence_score(mask, values), quality, area, confidence, "", segmenter)
    return replace(candidate, rejected=_reason(candidate))


def _reason(candidate: Candidate) -> str:
    if candidate.area < LEAST_AREA:
        return f"it is empty or tiny ({candidate.area:.2%} of the image)"
    if candidate.area > MOST_AREA:
        return f"it is nearly the whole image ({candidate.area:.0%})"
    if candidate.evidence < LEAST_EVIDENCE:
        share = candidate.evidence + candidate.area
        return f"it holds {share:.0%} of the evidence in {candidate.area:.0%} of the picture"
    return ""
