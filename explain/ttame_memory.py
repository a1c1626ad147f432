"""What a frozen classifier says of images that are shown alike each time, kept: a step's first forward pass is spared.

Features are kept in half precision in the machine's memory, logits in single.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from explain.layers import Layer, Reading, read
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier
from workbench.progress import progress


class Memory(NamedTuple):
    """Features of each layer, and logits, of all images."""

    features: list[Float[Tensor, "n _ _ _"]]
    logits: Float[Tensor, "n k"]

    def of(self, indices: Int64[Tensor, " b"], device: torch.device) -> Reading:
        """What the classifier said of some of the images."""
        chosen = indices.to(self.logits.device)
        return Reading([kept[chosen].to(device).float() for kept in self.features], self.logits[chosen].to(device))


@torch.no_grad()
def remember(
    classifier: PixelClassifier, layers: Sequence[Layer], images: UInt8[Tensor, "n c h w"], batch_size: int
) -> Memory:
    """Show the classifier all images. Raises UserError where its features do not fit in half precision."""
    readings = []
    with progress(len(images), "features to keep", unit="image") as bar:
        for part in images.split(batch_size):
            features, logits = read(classifier, layers, part.float() / 255)
            readings.append(Reading([feature.half().cpu() for feature in features], logits.float().cpu()))
            bar.update(len(part))
    features = [torch.cat(parts) for parts in zip(*(reading.features for reading in readings), strict=True)]
    if not all(kept.isfinite().all() for kept in features):
        raise UserError("the classifier's features do not fit in half precision; leave --cache-features out")
    return Memory(features, torch.cat([reading.logits for reading in readings]))


def megabytes(layers: Sequence[Layer], num_images: int) -> float:
    """Of the features of that many images, at the size that the layers were found with."""
    return num_images * sum(layer.channels * math.prod(layer.grid) for layer in layers) * 2 / 1e6
