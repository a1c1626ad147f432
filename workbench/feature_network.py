"""The network through which fidelity is measured: images in, features out.

A small convolutional network, trained once on the real training images and kept in a cache folder, takes the place
that Inception has in the papers; Inception itself is used where its weights and torch-fidelity are on disk. Distances
seen through different networks cannot be compared, so every network has a name that says which one it is.
"""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from workbench.datasets import LabelledImages
from workbench.errors import UserError
from workbench.feature_training import (
    ConvFeatures,
    Examples,
    FeatureSettings,
    network_size,
    train_features,
    training_examples,
)
from workbench.files import sha256_file, write_atomic
from workbench.pictures import Images, resize_images
from workbench.progress import progress

CACHE_VERSION = 1  # part of the key: raise it when the network or its training changes
INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"

logger = logging.getLogger(__name__)


class FeatureNetwork:
    """A frozen network with a name.

    `label_names` are the classes that `logits` speaks of: empty where the network was not trained on labels.
    `accuracy` is the share of real images held out from its training that it gets right. `size` is the (height, width)
    to which images are resized before the network sees them; None where it does that itself.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        channels: int,
        size: tuple[int, int] | None = None,
        label_names: tuple[str, ...] = (),
        accuracy: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.module: Any = module.to(device).eval().requires_grad_(False)
        self.name, self.channels, self.size = name, channels, size
        self.label_names, self.accuracy, self.device = label_names, accuracy, device

    @torch.no_grad()
    def features(self, images: Images, batch_size: int = 256) -> Float[Tensor, "n d"]:
        """Features (float32, on the CPU) of uint8 images, which may be of any size.

        Gray images are shown to a colour network as colour; any other difference in channels is a `UserError`.
        """
        batches = []
        with progress(len(images), "features", disable=len(images) <= 20 * batch_size, unit="image") as bar:
            for start in range(0, len(images), batch_size):
                batch = self._prepare(images[start : start + batch_size])
                batches.append(self.module(batch).float().cpu())
                bar.update(len(batch))
        return torch.cat(batches)

    @torch.no_grad()
    def classify(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Class scores, in the order of `label_names`, from features that are already there."""
        if not self.label_names:
            raise UserError(f"{self.name} was not trained on labels: it has features, but no class scores.")
        return self.module.head(features.to(self.device)).cpu()

    def logits(self, images: Images) -> Float[Tensor, "n k"]:
        """Class scores of uint8 images."""
        return self.classify(self.features(images))

    def _prepare(self, images: Images) -> UInt8[Tensor, "n channels height width"]:
        channels = images[0].shape[0]
        if channels not in (1, self.channels):
            raise UserError(
                f"The images have {channels} channels and the feature network expects {self.channels}; "
                f"load them with channels={self.channels}."
            )
        height, width = self.size or images[0].shape[1:]
        return resize_images(images, (height, width)).to(self.device).expand(-1, self.channels, -1, -1)


def feature_network(
    training: LabelledImages,
    held_out: LabelledImages | None = None,
    resolution: int | tuple[int, int] | None = None,
    kind: str = "auto",
    settings: FeatureSettings | None = None,
    device: str | torch.device = "cpu",
) -> FeatureNetwork:
    """The network for a data set: trained once on the real `training` images, later read from the cache.

    `held_out` images (a test split) only measure its accuracy; without them a tenth of the training images is held
    out. `resolution` is what the network sees; unless given it is the size of the images, at most 64 pixels a side.
    Images without labels, or of one class only, train it to tell by how much an image is turned.
    The `kind` is convnet (ours), inception, or auto: inception where its weights and torch-fidelity are on disk, and
    convnet elsewhere; nothing is ever downloaded. The cache is the folder `features` in `$WORKBENCH_CACHE`, or in
    `~/.cache/workbench`.
    """
    if kind not in ("auto", "convnet", "inception"):
        raise UserError(f"No feature network is called {kind!r}; choose auto, convnet or inception.")
    inception = inception_weights()
    if kind == "inception" or (kind == "auto" and inception is not None):
        return _inception_network(inception, device)
    if len(training) == 0:
        raise UserError(f"{training.name} has no images to train a feature network on; give at least one.")
    size = network_size(training, resolution)
    examples = training_examples(training, size)
    tests = None if held_out is None else training_examples(held_out, size, examples.label_names)
    weights, accuracy = _trained_once(examples, tests, settings or FeatureSettings(), device)
    return _named_network(training.name, examples, held_out is not None, weights, accuracy, device)


def _named_network(
    data_name: str,
    examples: Examples,
    tested: bool,
    weights: dict[str, Tensor],
    accuracy: float | None,
    device: str | torch.device,
) -> FeatureNetwork:
    count, channels, height, width = examples.images.shape
    module = ConvFeatures(channels, len(examples.label_names))
    module.load_state_dict(weights)
    purpose = "trained on" if examples.labels is not None else "trained to tell rotations of"
    measured = "" if accuracy is None else f", {'test' if tested else 'held-out'} accuracy {accuracy:.2f}"
    pixels = f"{height} px" if height == width else f"{height}x{width} px"
    name = (
        f"convnet-{module.head.in_features} {purpose} {data_name} ({count} images, {pixels}{measured}), "
        f"sha256 {_weights_sha256(weights)[:8]}"
    )
    label_names = examples.label_names if examples.labels is not None else ()
    return FeatureNetwork(module, name, channels, (height, width), label_names, accuracy, device)


# The cache


def cache_folder() -> Path:
    """Where trained feature networks are kept."""
    return Path(os.environ.get("WORKBENCH_CACHE") or "~/.cache/workbench").expanduser() / "features"


def _trained_once(
    examples: Examples, tests: Examples | None, settings: FeatureSettings, device: str | torch.device
) -> tuple[dict[str, Tensor], float | None]:
    path = cache_folder() / f"{_cache_key(examples, tests, settings)}.safetensors"
    stored = _read(path)
    if stored is None:
        stored = train_features(examples, tests, settings, device)
        _write(path, *stored)
    return stored


def _cache_key(examples: Examples, tests: Examples | None, settings: FeatureSettings) -> str:
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, asdict(settings)]).encode())
    for part in (examples, tests):
        for content in _contents(part):
            digest.update(content)
    return digest.hexdigest()[:32]


def _contents(examples: Examples | None) -> Iterator[bytes | memoryview]:
    if examples is not None:
        yield json.dumps([list(examples.images.shape), examples.label_names]).encode()
        yield examples.images.contiguous().numpy().data
        yield b"" if examples.labels is None else examples.labels.numpy().tobytes()


def _weights_sha256(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], float | None] | None:
    """Weights and accuracy from the cache; None where there are none, or not those that were written."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    if metadata.get("sha256") != _weights_sha256(weights):
        return None
    return weights, json.loads(metadata["accuracy"])


def _write(path: Path, weights: dict[str, Tensor], accuracy: float | None) -> None:
    metadata = {"format": "pt", "sha256": _weights_sha256(weights), "accuracy": json.dumps(accuracy)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save(weights, metadata))
    except OSError as error:  # the network is there all the same; the next run will train it again
        logger.warning("The feature network could not be kept in %s: %s", path.parent, error)


# Inception


def inception_weights() -> Path | None:
    """The weights of the Inception network of the papers, where it can be used without a download; else None."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS
    return path if path.is_file() and importlib.util.find_spec("torch_fidelity") else None


def _inception_network(weights: Path | None, device: str | torch.device) -> FeatureNetwork:
    """2048 features of images that it resizes to 299x299 itself (Heusel et al. 2017, arXiv 1706.08500)."""
    if weights is None:
        raise UserError(
            f"Inception was asked for, but torch-fidelity or {INCEPTION_WEIGHTS} is not on disk: install the one and "
            f"put the other into {torch.hub.get_dir()}/checkpoints, or choose convnet."
        )
    from torchmetrics.image.fid import NoTrainInceptionV3

    module = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))
    name = f"inception-2048 (ImageNet, 2015), sha256 {sha256_file(weights)[:8]}"
    return FeatureNetwork(module, name, channels=3, device=device)
