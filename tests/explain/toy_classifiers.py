"""Classifiers of which the right explanation is known, and tiny ones of each kind."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.pixel_classifier import PixelClassifier


def pixels(*shape: int, seed: int = 0) -> Tensor:
    """Uniform values in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class Linear(nn.Module):
    """Logits that are weighted sums of the pixels' mean over channels."""

    def __init__(self, weights: Float[Tensor, "k h w"]) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return torch.einsum("bhw,khw->bk", x.mean(1), self.weights)


def linear(weights: Float[Tensor, "k h w"]) -> PixelClassifier:
    """A `Linear` on pixels as they are."""
    return PixelClassifier.wrap(Linear(weights), mean=(0.0,) * 3, std=(1.0,) * 3)


def quadrants(height: int = 24, width: int = 32, strength: float = 8.0) -> PixelClassifier:
    """Four classes: which quarter of the image is bright."""
    weights = torch.zeros(4, height, width)
    for k in range(4):
        rows, columns = divmod(k, 2)
        weights[k, rows * height // 2 : (rows + 1) * height // 2, columns * width // 2 : (columns + 1) * width // 2] = (
            strength * 4 / (height * width)
        )
    return linear(weights)


def small_cnn(num_classes: int = 4, seed: int = 0) -> PixelClassifier:
    """Two convolutions with in-place ReLUs, mean, linear."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, num_classes),
        )
    return PixelClassifier.wrap(network, mean=0.5, std=0.25)


def tiny_vit(library: str, size: tuple[int, int] = (24, 32)) -> PixelClassifier:
    """Two blocks over patches of 8 pixels, of timm, transformers or torchvision."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return PixelClassifier.wrap(_vit(library, size), mean=0.5, std=0.25, size=size)


def _vit(library: str, size: tuple[int, int]) -> Any:
    if library == "timm":
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(size, 8, embed_dim=16, depth=2, num_heads=2, num_classes=4)
    if library == "torchvision":
        from torchvision.models.vision_transformer import VisionTransformer as TorchvisionTransformer

        return TorchvisionTransformer(size[0], 8, 2, 2, 16, 32, num_classes=4)
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=size, patch_size=8,
        num_labels=4,
    )  # fmt: skip
    return ViTForImageClassification(config)
