"""How likely a classifier finds the targets: the one number that perturbation methods and measures look at."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from workbench.pixel_classifier import PixelClassifier

CPU_PIXELS = 4 * 224**2  # of a forward pass; measured: 4 images of 224 px are more than twice as fast as 48
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


def logits_in_parts(
    classifier: PixelClassifier, images: Float[Tensor, "n c h w"], batch_size: int = UNLIMITED
) -> Float[Tensor, "n k"]:
    """Logits of many images, at most `batch_size` at a time; on a CPU as many as its caches hold, with the colours of a
    pixel beside each other, as it convolves fastest."""
    if images.device.type == "cpu":
        batch_size = min(batch_size, max(1, CPU_PIXELS // images[0, 0].numel()))
        images = images.contiguous(memory_format=torch.channels_last)
    return torch.cat([classifier(part) for part in images.split(batch_size)])
