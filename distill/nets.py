"""The networks of data set distillation: instance norm throughout, so that a network is its parameters and no more."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.config import NetworkName
from workbench.errors import UserError
from workbench.networks import ConvNet

VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


@dataclass(frozen=True)
class NetworkSpec:
    """Which network, and for which images: equal specs have parameters of equal names, shapes and order."""

    name: NetworkName
    num_classes: int
    channels: int
    size: tuple[int, int]  # height, width
    width: int = 128  # of the ConvNet
    depth: int = 3  # of the ConvNet

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> "NetworkSpec":
        """The spec that `dataclasses.asdict` and JSON have written."""
        return cls(**{**values, "size": tuple(values["size"])})

    def to_mapping(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


class Classifier(nn.Module):
    """A convolutional body, whose output is flattened to features, and a linear head."""

    def __init__(self, body: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        self.body = body
        with torch.no_grad():
            width = body(_two_images(spec)).flatten(1).shape[1]
        self.head = nn.Linear(width, spec.num_classes)

    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """What the linear head sees."""
        return self.body(images).flatten(1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.head(self.features(images))


def build_network(spec: NetworkSpec) -> nn.Module:
    """The network of a spec, with `.features(images)` and `.head`; the global random stream is left as it was.

    Raises UserError where the images are too small for it.
    """
    with torch.random.fork_rng(devices=[]):
        network = NETWORKS[spec.name](spec)
    _check_norms(network, spec)
    return network


def convnet(spec: NetworkSpec) -> nn.Module:
    """`depth` blocks of Conv3x3, instance norm, ReLU, AvgPool2; `width` channels (arXiv 2006.05929)."""
    network = ConvNet(spec.num_classes, spec.channels, spec.size, width=spec.width, depth=spec.depth)
    for block in network.blocks:
        assert isinstance(block, nn.Sequential)
        block[-1] = MeanPool()
    return network


def resnet18(spec: NetworkSpec) -> nn.Module:
    """ResNet-18 for small images, with a 3x3 stem, and instance norm where the textbook has batch norm."""
    from torchvision.models import resnet18

    body = resnet18(weights=None, norm_layer=instance_norm)
    body.conv1 = nn.Conv2d(spec.channels, 64, 3, padding=1, bias=False)
    body.maxpool, body.fc = nn.Identity(), nn.Identity()
    for module in body.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return Classifier(body, spec)


def vgg11(spec: NetworkSpec) -> nn.Module:
    """VGG-11 with instance norm; the pools round up, so that odd sizes lose no pixels."""
    layers: list[nn.Module] = []
    channels = spec.channels
    for width in VGG11:
        if isinstance(width, int):
            layers += [nn.Conv2d(channels, width, 3, padding=1), instance_norm(width), nn.ReLU()]
            channels = width
        else:
            layers.append(max_pool())
    return Classifier(nn.Sequential(*layers), spec)


def alexnet(spec: NetworkSpec) -> nn.Module:
    """AlexNet for small images, without a norm."""
    convolution = partial(nn.Conv2d, padding="same")
    body = nn.Sequential(
        convolution(spec.channels, 128, 5), nn.ReLU(), max_pool(),
        convolution(128, 192, 5), nn.ReLU(), max_pool(),
        convolution(192, 256, 3), nn.ReLU(),
        convolution(256, 192, 3), nn.ReLU(),
        convolution(192, 192, 3), nn.ReLU(), max_pool(),
    )  # fmt: skip
    return Classifier(body, spec)


NETWORKS: dict[NetworkName, Callable[[NetworkSpec], nn.Module]] = {
    "convnet": convnet,
    "resnet18": resnet18,
    "vgg11": vgg11,
    "alexnet": alexnet,
}


def instance_norm(channels: int) -> nn.GroupNorm:
    """A norm over each channel of each image, with a scale and a shift."""
    return nn.GroupNorm(channels, channels)


class MeanPool(nn.Module):
    """AvgPool2d(2, ceil_mode=True) from sums of slices: torch's own goes pixel by pixel on a CPU, a fifth of a step."""

    def forward(self, x: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h2 w2"]:
        if x.device.type != "cpu":
            return F.avg_pool2d(x, 2, ceil_mode=True)
        odd = (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)
        x = F.pad(x, odd, mode="replicate") if any(odd) else x
        rows = x[..., 0::2, :] + x[..., 1::2, :]
        return (rows[..., 0::2] + rows[..., 1::2]) / 4


def max_pool() -> nn.MaxPool2d:
    """Halves each side, rounding up."""
    return nn.MaxPool2d(2, ceil_mode=True)


def _check_norms(network: nn.Module, spec: NetworkSpec) -> None:
    """An instance norm over a single pixel erases its input: refuse images that come to that."""

    def check(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if inputs[0][0, 0].numel() == 1:
            height, width = spec.size
            raise UserError(
                f"images of {height}x{width} are too small for {spec.name}: its deepest norm would see one pixel; "
                + (
                    "give a lower --depth"
                    if spec.name == "convnet"
                    else "give --network convnet or a larger --resolution"
                )
            )

    hooks = [m.register_forward_hook(check) for m in network.modules() if isinstance(m, nn.GroupNorm)]
    with torch.no_grad():
        network(_two_images(spec))
    for hook in hooks:
        hook.remove()


def _two_images(spec: NetworkSpec) -> Float[Tensor, "2 c h w"]:
    """Of zeros: torch's norm refuses a single one that comes to a single pixel, before we can say why."""
    return torch.zeros(2, spec.channels, *spec.size)
