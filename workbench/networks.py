"""The small reference networks: the ConvNet of data set distillation, and ResNet-18 for small images."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import UserError


class ConvNet(nn.Module):
    """The standard network of data set distillation: blocks of Conv3x3, norm, ReLU, AvgPool2, then linear.

    320,010 weights for 10 classes of 32x32 colour images (Zhao et al., "Dataset Condensation with Gradient
    Matching", arXiv 2006.05929). The pools round up, so that odd sizes lose no pixels. `pooling="flatten"` is
    the standard and takes images of `image_size` (h, w) alone; "mean" takes any size.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        image_size: tuple[int, int] | None = None,
        *,
        width: int = 128,
        depth: int = 3,
        normalisation: Literal["instance", "batch"] = "instance",
        pooling: Literal["flatten", "mean"] = "flatten",
    ) -> None:
        super().__init__()
        if pooling == "flatten" and image_size is None:
            raise UserError("a flattening ConvNet needs image_size=(height, width): give it, or pooling='mean'")
        self.arguments = {
            "num_classes": num_classes,
            "channels": channels,
            "image_size": image_size,
            "width": width,
            "depth": depth,
            "normalisation": normalisation,
            "pooling": pooling,
        }
        self.image_size = tuple(image_size) if image_size and pooling == "flatten" else None
        cells = math.prod(math.ceil(side / 2**depth) for side in self.image_size or ())
        inputs = [channels] + [width] * (depth - 1)
        self.blocks = nn.Sequential(*[_convnet_block(size, width, normalisation) for size in inputs])
        self.head = nn.Linear(width * cells, num_classes)

    def features(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """What the linear head sees: `width` numbers for each of the last cells, or their mean over cells."""
        if self.image_size is None:
            return self.blocks(pixels).mean((2, 3))
        if tuple(pixels.shape[-2:]) != self.image_size:
            height, width = self.image_size
            raise UserError(
                f"this ConvNet takes {height}x{width} images, not {pixels.shape[-2]}x{pixels.shape[-1]}: "
                "resize them, or build it with pooling='mean'"
            )
        return self.blocks(pixels).flatten(1)

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.head(self.features(pixels))


def _convnet_block(channels: int, width: int, normalisation: str) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.GroupNorm(width, width) if normalisation == "instance" else nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AvgPool2d(2, ceil_mode=True),
    )


class ResNet18(nn.Module):
    """ResNet-18 for small images: torchvision's, with a 3x3 stem of stride 1 and no max-pool; any image size.

    The CIFAR form of He et al., "Deep Residual Learning", arXiv 1512.03385.
    """

    def __init__(self, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        from torchvision.models import resnet18

        self.arguments = {"num_classes": num_classes, "channels": channels}
        self.trunk = resnet18(weights=None, num_classes=num_classes)
        self.trunk.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.trunk.maxpool = nn.Identity()
        self.head = self.trunk.fc
        self.trunk.fc = nn.Identity()

    def features(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 512"]:
        """The 512 channel means that the linear head sees."""
        return self.trunk(pixels)

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.head(self.features(pixels))


ARCHITECTURES: dict[str, Callable[..., ConvNet | ResNet18]] = {"convnet": ConvNet, "resnet18": ResNet18}


def build_classifier(
    name: str,
    num_classes: int,
    channels: int = 3,
    image_size: tuple[int, int] | None = None,
    *,
    seed: int = 0,
    **options: Any,
) -> ConvNet | ResNet18:
    """A fresh network `convnet` or `resnet18`, with `.features(x) -> (B, D)`; equal seeds, equal weights.

    `image_size` (h, w) is what a flattening ConvNet is bound to; the ResNet takes any size. `options` are
    those of `ConvNet`. The global random stream is left as it was. Raises `UserError` for an unknown name.
    """
    if name not in ARCHITECTURES:
        raise UserError(f"there is no network {name!r}: choose one of {', '.join(ARCHITECTURES)}")
    if name == "convnet":
        options = {"image_size": image_size, **options}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ARCHITECTURES[name](num_classes=num_classes, channels=channels, **options)
