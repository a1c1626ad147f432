"""How good generated images of a labelled data set are, against its test images; label k is k modulo the classes."""

from functools import cache

import torch
from fashion_measures import told
from jaxtyping import UInt8
from torch import Tensor

from workbench.datasets import LabelledImages, load_images
from workbench.feature_network import FeatureNetwork, feature_network
from workbench.fidelity import measure


def measure_images(data: str, images: UInt8[Tensor, "n c h w"]) -> dict[str, float]:
    """Distances and agreement, by a small network that was trained on the real training images of this size."""
    names = real(data, "test", *images.shape[-2:]).label_names
    labels = torch.arange(len(images)) % len(names)
    return figures_of(data, LabelledImages(images, labels, names, "generated"))


def floor(data: str, size: int, count: int) -> dict[str, float]:
    """The same measures of as many real training images."""
    return figures_of(data, real(data, "train", size, size).select(range(count)))


def figures_of(data: str, images: LabelledImages) -> dict[str, float]:
    """The measures of the tables."""
    assert isinstance(images.images, Tensor)
    height, width = images.images.shape[-2:]
    return told(measure(images, real(data, "test", height, width), None, network(data, height, width)).figures)


@cache
def real(data: str, split: str, height: int, width: int) -> LabelledImages:
    """Real images."""
    return load_images(data, split, (height, width))


@cache
def network(data: str, height: int, width: int) -> FeatureNetwork:
    """Trained once and kept in the cache folder."""
    training, test = (real(data, split, height, width) for split in ("train", "test"))
    return feature_network(training, test, (height, width), "convnet")
