"""How good generated Fashion-MNIST items are, against the real test images at the same size."""

from functools import cache

import torch
from jaxtyping import UInt8
from torch import Tensor

from workbench.datasets import LabelledImages, load_images
from workbench.feature_network import FeatureNetwork, feature_network
from workbench.fidelity import Figures, measure

MEASURES = ("class_agreement", "kernel_distance", "frechet_distance", "precision", "recall")
Size = tuple[int, int]


def measure_fashion(images: UInt8[Tensor, "n 1 h w"], size: Size) -> dict[str, float]:
    """Distances and agreement by a network trained on real images of this size; label k is k modulo 10."""
    labels = torch.arange(len(images)) % 10
    found = measure(LabelledImages(images, labels, real("test", size).label_names, "generated"), *against(size))
    return told(found.figures)


def fashion_floor(size: Size, count: int) -> dict[str, float]:
    """The same measures of as many real training images."""
    floor = measure(real("train", size).select(range(count)), *against(size)).figures
    return told(floor)


def against(size: Size) -> tuple[LabelledImages, None, FeatureNetwork]:
    """What `measure` compares with."""
    return real("test", size), None, network(size)


def told(figures: Figures) -> dict[str, float]:
    """The measures of the table."""
    return {name: float(getattr(figures, name)) for name in MEASURES}


@cache
def real(split: str, size: Size) -> LabelledImages:
    """Real images."""
    return load_images("fashion-mnist", split, size)


@cache
def network(size: Size) -> FeatureNetwork:
    """Trained once and kept in the cache folder."""
    return feature_network(real("train", size), real("test", size), size, "convnet")
