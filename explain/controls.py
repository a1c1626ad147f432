"""Maps that know nothing of the classifier: what every explanation has to beat."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from explain.maps import Maps
from workbench import seeds
from workbench.pixel_classifier import PixelClassifier

NOISE = 21  # stream of randomness
CENTRE_WIDTH = 0.25  # standard deviation of the centre prior, as a share of the height and of the width


def random(
    classifier: PixelClassifier, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, "b t"], *, seed: int = 0
) -> Maps:
    """Uniform noise; the map of an image depends on the seed and its place in the batch."""
    size = images.shape[-2:]
    noise = [torch.rand(size, generator=seeds.generator(seed, NOISE, number)) for number in range(len(images))]
    return _control(torch.stack(noise).to(images), targets)


def centre(classifier: PixelClassifier, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, "b t"]) -> Maps:
    """A Gaussian in the middle: photographers put things there."""
    rows, columns = (torch.linspace(-0.5, 0.5, side, device=images.device) / CENTRE_WIDTH for side in images.shape[-2:])
    values = torch.exp(-(rows[:, None] ** 2 + columns**2) / 2).to(images.dtype)
    return _control(values.expand(len(images), -1, -1), targets)


def edges(classifier: PixelClassifier, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, "b t"]) -> Maps:
    """Magnitude of the Sobel gradient of the mean over channels."""
    gray = F.pad(images.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    smooth, slope = images.new_tensor([1.0, 2.0, 1.0]), images.new_tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(slope, smooth), torch.outer(smooth, slope)])[:, None]
    return _control(F.conv2d(gray, kernels).square().sum(1).sqrt(), targets)


def uniform(classifier: PixelClassifier, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, "b t"]) -> Maps:
    """One everywhere: the whole image."""
    return _control(torch.ones_like(images[:, 0]), targets)


def _control(values: Float[Tensor, "b h w"], targets: Int64[Tensor, "b t"]) -> Maps:
    """The same map for every target, for no passes."""
    return Maps(values.repeat_interleave(targets.shape[1], 0), targets.flatten(), 0, 0, 0.0)
