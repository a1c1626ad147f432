"""How likely a classifier finds the targets: the one number that perturbation methods and measures look at."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from workbench.pixel_classifier import PixelClassifier


@torch.no_grad()
def target_probabilities(
    classifier: PixelClassifier,
    images: Float[Tensor, "n c h w"],
    targets: Int64[Tensor, "n ..."],
    batch_size: int = 64,
) -> Float[Tensor, "n ..."]:
    """Probability of the target (n,), or of each of several (n, t), for images in [0, 1], `batch_size` at a time."""
    columns = targets.view(len(targets), -1)
    parts = zip(images.split(batch_size), columns.split(batch_size), strict=True)
    found = [classifier.probabilities(classifier(part).float()).gather(1, chosen) for part, chosen in parts]
    return torch.cat(found).view(targets.shape)
