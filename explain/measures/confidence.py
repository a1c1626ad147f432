"""Average Drop and Increase in Confidence: what is left of the target's probability under the map as a soft mask.

Chattopadhay et al., "Grad-CAM++", 2017, arXiv 1710.11063; with thresholds as T-TAME (arXiv 2403.04523) reports them.
Both reward bright maps, and are nearly what T-TAME is trained for: read them beside the mean of the mask.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from explain.maps import Maps
from explain.probability import target_probabilities
from workbench.pixel_classifier import PixelClassifier


@dataclass(frozen=True)
class Confidence:
    """For each of n maps: the share of the probability that is lost, whether it rose, and the mean of the mask."""

    drop: Float[Tensor, " n"]
    increase: Float[Tensor, " n"]
    mask_mean: Float[Tensor, " n"]


def confidence(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    maps: Maps,
    keep: float = 1.0,
    batch_size: int = 64,
) -> Confidence:
    """AD is 100 times the mean of `drop`, IC 100 times the mean of `increase`.

    The map is stretched to [0, 1]; of its pixels the share `keep` with the highest values stays, the rest is 0; the
    image is multiplied by it, which at `keep` 1 too dims all but the brightest pixels.
    """
    images = maps.repeated(images)
    masks = strongest(maps.normalised().values, keep)
    before = target_probabilities(classifier, images, maps.targets, batch_size)
    after = target_probabilities(classifier, images * masks[:, None], maps.targets, batch_size)
    return Confidence((before - after).clamp(min=0) / before, (after > before).float(), masks.mean((1, 2)))


def strongest(values: Float[Tensor, "n h w"], keep: float) -> Float[Tensor, "n h w"]:
    """The maps with all below the quantile `1 - keep` set to 0; pixels that equal the quantile stay."""
    quantiles = torch.stack([one.quantile(1 - keep) for one in values])
    return values.where(values >= quantiles[:, None, None], 0)
