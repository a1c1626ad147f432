"""A distilled set in memory: what matching and its rivals make, export stores, and evaluation measures."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from distill.preprocess import Transform


@dataclass(frozen=True)
class Distilled:
    """A few images, the step size to train on them with, and the transform that real images need beside them."""

    images: Float[Tensor, "n c h w"]  # in training space
    labels: Int64[Tensor, " n"] | Float[Tensor, "n k"]  # class numbers, or logits of soft labels
    step_size: float  # learned with the images: the learning rate to train on them with
    transform: Transform
    label_names: tuple[str, ...]
    settings: dict[str, Any]  # how it was made: network, augmentation, experts, figures

    @property
    def classes(self) -> Int64[Tensor, " n"]:
        """The class number of each image; of soft labels the likeliest."""
        return self.labels.argmax(1) if self.labels.is_floating_point() else self.labels

    @property
    def pixels(self) -> UInt8[Tensor, "n c h w"]:
        """The images as people see them: 8 bits, and what lies outside [0, 1] clipped."""
        return (self.transform.invert(self.images.detach()).clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    @property
    def images_per_class(self) -> int:
        """Images divided by classes."""
        return len(self.images) // len(self.label_names)

    def to(self, device: torch.device) -> "Distilled":
        """The same with images and labels on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))
