"""Small real images for tests: scikit-learn's handwritten digits, and a network that learns them in a second."""

from functools import cache
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from distill.data import as_float
from distill.distilled import Distilled
from distill.flat import FlatNetwork
from distill.nets import NetworkSpec, build_network
from distill.preprocess import Standard
from workbench import seeds
from workbench.datasets import LabelledImages
from workbench.records import DatasetWriter

SPEC = NetworkSpec("convnet", 3, 1, (8, 6), width=8, depth=2)


@cache
def digits(part: str = "train") -> LabelledImages:
    """Threes of ten: the digits 0, 1 and 2 of 8x6 pixels; 300 to train on, the rest to test."""
    data = load_digits()
    images = torch.from_numpy(data.images[:, :, 1:7] * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target)
    known = labels < 3
    chosen = slice(0, 300) if part == "train" else slice(300, None)
    return LabelledImages(images[known][chosen], labels[known][chosen], ("nought", "one", "two"), "digits")


def network(spec: NetworkSpec = SPEC) -> FlatNetwork:
    """A ConvNet of a thousand weights."""
    return FlatNetwork(build_network(spec))


def real_subset(images_per_class: int = 2, seed: int = 0, step_size: float = 0.05) -> Distilled:
    """A few real images as if they were distilled."""
    data = digits()
    transform = Standard.fit(as_float(data))
    order = torch.randperm(len(data), generator=seeds.generator(seed))
    rows = torch.cat([order[data.labels[order] == k][:images_per_class] for k in range(3)])
    settings = {"network": SPEC.to_mapping(), "augmentation": "crop_scale"}
    images = transform.apply(as_float(data)[rows])
    return Distilled(images, data.labels[rows], step_size, transform, data.label_names, settings)


def write_digits(folder: Path) -> Path:
    """The digits as a data set on disk, with its test split."""
    writer = DatasetWriter(folder, digits().label_names, {})
    for split in ("train", "test"):
        data = digits(split)
        assert writer.missing_shards(len(data), split) == [0]
        rows = [{"label": int(label), "source": "real"} for label in data.labels]
        writer.write_shard(0, list(data.images), rows, split)
    return writer.finish()
