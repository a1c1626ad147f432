"""What every explainer returns: one map for each image and target, and what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Maps:
    """Saliency of n maps at the images' size, larger where the method sees more evidence for the target.

    With k targets for each of b images, n = b * k, and the maps of one image follow one another. `raw` is what the
    method computed before it was enlarged and normalised (signed where the method is), None where that is `values`.
    `forward_passes` counts images shown to the classifier, all together, and `backward_passes` logits differentiated;
    `seconds` is wall time; `figures` are what the method itself says of each map.
    """

    values: Float[Tensor, "n h w"]
    targets: Int64[Tensor, " n"]
    forward_passes: int
    backward_passes: int
    seconds: float
    raw: Float[Tensor, "n raw_h raw_w"] | None = None
    figures: Mapping[str, Float[Tensor, " n"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def normalised(self) -> "Maps":
        """The same maps with `values` stretched to [0, 1], each by itself."""
        return replace(self, values=stretched(self.values))

    def repeated(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "n c h w"]:
        """The image that each map explains."""
        return images.repeat_interleave(len(self) // len(images), 0)


def stretched(values: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Each map by its own least and greatest value to [0, 1]; a constant map becomes 0."""
    low, high = values.amin((-2, -1), keepdim=True), values.amax((-2, -1), keepdim=True)
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)
