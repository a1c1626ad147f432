"""What T-TAME's attention module is trained by: the masked image keeps its class, on a small and smooth mask.

Written from the paper (arXiv 2403.04523). Letters: b images, m maps of each, (h, w) the maps' grid.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from workbench.pixel_classifier import PixelClassifier

AREA_EPSILON = 5e-4  # keeps the slope of the power finite at 0
BORDER = 0.3
PAPER_BATCH = 32
MULTI_LABEL_THRESHOLD = 0.5


def own_prediction(
    classifier: PixelClassifier, logits: Float[Tensor, "b k"], choice: Float[Tensor, " b"]
) -> Int64[Tensor, " b"]:
    """The class that the classifier itself sees; of several in a multi-label one, that which `choice` in [0, 1) picks.

    A multi-label classifier sees the classes above one half, or the likeliest where none is.
    """
    if not classifier.multi_label:
        return logits.argmax(1)
    seen = classifier.probabilities(logits.float()) > MULTI_LABEL_THRESHOLD
    return _pick(seen | (logits == logits.amax(1, keepdim=True)), choice)


def _pick(seen: Bool[Tensor, "b k"], choice: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
    """The class at the place `choice` among those seen."""
    place = (choice * seen.sum(1)).long() + 1
    return ((seen.cumsum(1) == place[:, None]) & seen).int().argmax(1)


def confidence_loss(
    classifier: PixelClassifier, logits: Float[Tensor, "b k"], classes: Int64[Tensor, " b"]
) -> Float[Tensor, ""]:
    """How much of the classes the masked images have lost: cross-entropy, binary in a multi-label classifier."""
    if classifier.multi_label:
        own = logits.float().gather(1, classes[:, None])
        return F.binary_cross_entropy_with_logits(own, torch.ones_like(own))
    return F.cross_entropy(logits.float(), classes)


def area_loss(maps: Float[Tensor, "b m h w"], exponent: float) -> Float[Tensor, ""]:
    """Mean of (A + 5e-4)^exponent over all maps: a small exponent asks for few bright places."""
    return (maps + AREA_EPSILON).pow(exponent).mean()


def variation_loss(maps: Float[Tensor, "b m h w"]) -> Float[Tensor, ""]:
    """Half the sum of squared differences of neighbours, and of 0.3 A^2 on the border (corners twice), per map.

    A sum over a map's places and a mean over maps: the sum of a smooth map's squared slopes is the same on any grid.
    """
    down, right = maps.diff(dim=-2), maps.diff(dim=-1)
    rows, columns = maps[..., [0, -1], :], maps[..., [0, -1]]
    border = rows.square().sum((-2, -1)) + columns.square().sum((-2, -1))
    energy = down.square().sum((-2, -1)) + right.square().sum((-2, -1)) + BORDER * border
    return energy.mean() / 2


def variation_factor(regularise: str) -> int:
    """The paper sums over the maps of all the batch's classes, for each image, and divides by the batch once.

    So its weight grows with the batch; as a factor on the mean it is that of the paper's batch of 32, whatever ours is.
    """
    return PAPER_BATCH if regularise == "batch" else 1
