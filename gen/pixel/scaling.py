"""How pixels become what a network sees: each channel with mean 0 and standard deviation 0.5, and back.

The noise levels are made for images of that deviation (sigma_data). The values that the training images take become a
range that every estimate of a clean image is clamped to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

CHUNK = 4096  # images that are counted at once


@dataclass(frozen=True)
class DataScaling:
    """Scales images by channel; single values stand for all channels.

    Args:
        mean, std: of the pixels, in [0, 1].
        low, high: least and greatest value of the scaled images.
    """

    mean: Sequence[float] = (0.5,)
    std: Sequence[float] = (0.25,)
    low: Sequence[float] = (-1.0,)
    high: Sequence[float] = (1.0,)

    @classmethod
    def of(cls, images: UInt8[Tensor, "n c h w"]) -> "DataScaling":
        """The scaling that suits these images; a channel of one value keeps it."""
        counts = sum(_value_counts(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK))
        assert isinstance(counts, Tensor)
        values = torch.arange(256, dtype=torch.float64) / 255
        share = counts / counts.sum(1, keepdim=True)
        mean = share @ values
        std = (share @ values.square() - mean.square()).clamp(min=0).sqrt().clamp(min=1 / 255)
        taken = (counts > 0).int()
        low, high = values[taken.argmax(1)], values[255 - taken.flip(1).argmax(1)]
        return cls(*(part.tolist() for part in (mean, std, (low - mean) / (2 * std), (high - mean) / (2 * std))))

    def scale(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Pixels of 0 to 255 as the network sees them."""
        return self.normalise(images / 255)

    def normalise(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Pixels of 0 to 1 as the network sees them."""
        mean, std = self._on(pixels, self.mean, self.std)
        return (pixels - mean) / (2 * std)

    def clamp(self, scaled: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scaled images without values that no image has."""
        low, high = self._on(scaled, self.low, self.high)
        return scaled.clamp(low, high)

    def restore(self, scaled: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Pixels from 0 to 1."""
        mean, std = self._on(scaled, self.mean, self.std)
        return (scaled * (2 * std) + mean).clamp(0, 1)

    def _on(self, images: Tensor, *values: Sequence[float]) -> tuple[Float[Tensor, "_ 1 1"], ...]:
        """Values by channel, made where they are used: no step waits for a copy."""
        return tuple(torch.stack([torch.full((1, 1), v, device=images.device) for v in one]) for one in values)


def _value_counts(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "c 256"]:
    """How often each channel takes each value."""
    channels = images.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in channels]).double().cpu()
