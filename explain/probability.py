"""How likely a classifier finds the targets: the one number that perturbation methods and measures look at."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from explain.workers import side_by_side
from workbench.pixel_classifier import PixelClassifier

# of a forward pass on a core of its own, as many as its caches hold: measured, twice and half as many take longer
CPU_PIXELS, CPU_IMAGES = 4 * 224**2, 16
UNLIMITED = 2**31


@torch.no_grad()
def target_probabilities(
    classifier: PixelClassifier,
    images: Float[Tensor, "n c h w"],
    targets: Int64[Tensor, "n ..."],
    batch_size: int = 64,
) -> Float[Tensor, "n ..."]:
    """Probability of the target (n,), or of each of several (n, t), for images in [0, 1], `batch_size` at a time."""
    logits = logits_in_parts(classifier, images, batch_size).float()
    return classifier.probabilities(logits).gather(1, targets.view(len(targets), -1)).view(targets.shape)


@torch.no_grad()
def logits_in_parts(
    classifier: PixelClassifier, images: Float[Tensor, "n c h w"], batch_size: int = UNLIMITED
) -> Float[Tensor, "n k"]:
    """Logits of many images, at most `batch_size` at a time; on a CPU as many as its caches hold, with the colours of a
    pixel beside each other, as it convolves fastest, and as many parts side by side as there are cores."""
    if images.device.type == "cpu":
        images = images.contiguous(memory_format=torch.channels_last)
    parts = images.split(at_once(images, batch_size))
    return torch.cat(side_by_side(classifier, parts, images.device))


def at_once(images: Float[Tensor, "n c h w"], batch_size: int = UNLIMITED) -> int:
    """How many images of this size a forward pass takes."""
    if images.device.type != "cpu":
        return batch_size
    return min(batch_size, CPU_IMAGES, max(1, CPU_PIXELS // images[0, 0].numel()))
