"""SAM's loss: focal and dice of a mask, and the squared error of its predicted IoU.

Kirillov et al., 2023, arXiv 2304.02643, appendix A. Letters: n masks, s pixels along a side.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss: the weight of the object, and how little sure pixels count

Logits = Float[Tensor, "*#n s s"]
Masks = Bool[Tensor, "*#n s s"]


def focal_loss(logits: Logits, masks: Masks) -> Float[Tensor, "..."]:
    """Mean over pixels of the cross-entropy, less where it is small. Lin et al., 2017, arXiv 1708.02002."""
    target = masks.to(logits.dtype).expand_as(logits)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    surprise = (probability - target).abs() ** GAMMA
    weight = ALPHA * target + (1 - ALPHA) * (1 - target)
    return (weight * surprise * entropy).mean((-2, -1))


def dice_loss(logits: Logits, masks: Masks) -> Float[Tensor, "..."]:
    """One minus twice the overlap over both areas; one pixel is added to each. Milletari et al., 2016, 1606.04797."""
    probability = logits.sigmoid()
    overlap = (probability * masks).sum((-2, -1))
    return 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + masks.sum((-2, -1)) + 1)


@torch.no_grad()
def mask_iou(logits: Logits, masks: Masks) -> Float[Tensor, "..."]:
    """Intersection over union of the predicted and the true mask."""
    found = logits > 0
    return (found & masks).sum((-2, -1)) / (found | masks).sum((-2, -1)).clamp(min=1)
