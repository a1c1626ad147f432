"""What the benchmark of explanations explains: scenes with exact object masks, and classifiers that know them.

Scenes are 32 x 64 pixels with one object anywhere; pairs have one object in each half, of two classes. Letters: n
images, m pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64, UInt8
from safetensors.torch import load_file, save
from torch import Tensor, nn

from workbench import seeds
from workbench.datasets import load_images
from workbench.devices import autocast
from workbench.files import write_atomic
from workbench.networks import build_classifier
from workbench.pixel_classifier import PixelClassifier
from workbench.planted import planted
from workbench.progress import progress
from workbench.scenes import Scenes, shapes

SIZE = (32, 64)
DATA_SIZE = 64  # of the images of data sets without masks
PLANTED_CLASSES = ("Trouser", "Bag", "Ankle boot", "Pullover")
SPLIT_SEEDS = {"train": 10, "validation": 11, "test": 12, "left": 13, "right": 14}
INITIAL, ORDER = 60, 61  # streams of randomness
ACCURATE = 0.95  # below, localisation says little


@dataclass(frozen=True)
class Images:
    """Images with their classes, and where it is known which pixels show the object."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    masks: Bool[Tensor, "n h w"] | None = None


@dataclass(frozen=True)
class Pairs:
    """Images of two objects, each with its class and mask."""

    images: UInt8[Tensor, "m 3 h w"]
    labels: Int64[Tensor, "m 2"]
    masks: Bool[Tensor, "m 2 h w"]


@dataclass(frozen=True)
class Task:
    """Images to learn from, to choose thresholds on, and to measure on."""

    label_names: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    pairs: Pairs | None


# ---- images ----------------------------------------------------------------------------------------------------------


def load_task(name: str, num_train: int, num_test: int) -> Task:
    """`shapes`, `planted`, or the images of a data set, which have no masks. Half as many are for validation."""
    scenes = {"shapes": _shapes, "planted": _planted}
    if name not in scenes:
        return _data_task(name, num_train, num_test)
    counts = {"train": num_train, "validation": num_test // 2, "test": num_test}
    parts = {split: scenes[name](np.arange(count), SIZE, split) for split, count in counts.items()}
    train, validation, test = (Images(part.images, part.labels, part.masks) for part in parts.values())
    return Task(parts["train"].label_names, train, validation, test, _pairs(scenes[name], num_test // 2))


def _shapes(indices: np.ndarray, size: tuple[int, int], split: str) -> Scenes:
    return shapes(indices, size, seed=SPLIT_SEEDS[split])


def _planted(indices: np.ndarray, size: tuple[int, int], split: str) -> Scenes:
    items = split if split in ("train", "validation") else "test"
    return planted(indices, size, seed=SPLIT_SEEDS[split], split=items, plant="none", classes=PLANTED_CLASSES)


def _pairs(scenes: Callable[[np.ndarray, tuple[int, int], str], Scenes], count: int) -> Pairs:
    """Scene i has label i modulo 4: the right half is of each other class in turn."""
    number, half = np.arange(count), (SIZE[0], SIZE[1] // 2)
    left = scenes(number, half, "left")
    right = scenes(4 * number + (number + 1 + number // 4 % 3) % 4, half, "right")
    nothing = torch.zeros_like(left.masks)
    masks = [torch.cat([left.masks, nothing], 2), torch.cat([nothing, right.masks], 2)]
    labels = torch.stack([left.labels, right.labels], 1)
    return Pairs(torch.cat([left.images, right.images], 3), labels, torch.stack(masks, 1))


def _data_task(name: str, num_train: int, num_test: int) -> Task:
    train, test = (load_images(name, split, DATA_SIZE, channels=3, crop=False) for split in ("train", "test"))
    order = torch.randperm(len(train), generator=seeds.generator(0, ORDER))
    kept, held = order[: len(train) - len(train) // 10][:num_train], order[len(train) - len(train) // 10 :]
    shown = torch.randperm(len(test), generator=seeds.generator(1, ORDER))[:num_test]
    pixels = [torch.as_tensor(part.images) for part in (train, train, test)]
    chosen = zip(pixels, (train, train, test), (kept, held[: num_test // 2], shown), strict=True)
    first, second, third = (Images(images[of], part.labels[of]) for images, part, of in chosen)
    return Task(train.label_names, first, second, third, None)


# ---- classifiers -----------------------------------------------------------------------------------------------------

STEPS = {"convnet": 800, "resnet18": 800, "vit": 4000}


def load_classifier(name: str, task: Task, folder: Path, device: str) -> tuple[PixelClassifier, float]:
    """The trained classifier in `folder`, trained now where there is none, and its accuracy on the test images."""
    classifier = _untrained(name, task)
    path = folder / "classifier.safetensors"
    if path.exists():
        classifier.network.load_state_dict(load_file(path))
    else:
        _train(classifier.to(device), task.train, STEPS[name])
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save({key: value.cpu() for key, value in classifier.network.state_dict().items()}))
    classifier.to(device).eval().requires_grad_(False)
    return classifier, accuracy(classifier, task.test)


def _untrained(name: str, task: Task) -> PixelClassifier:
    count, size = len(task.label_names), (task.train.images.shape[2], task.train.images.shape[3])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeds.generator(0, INITIAL).initial_seed())
        network = NETWORKS[name](count, size)
    return PixelClassifier.wrap(network, mean=(0.45,) * 3, std=(0.25,) * 3, class_names=task.label_names, size=size)


def _convnet(count: int, size: tuple[int, int]) -> nn.Module:
    return build_classifier("convnet", count, 3, width=32, depth=4, normalisation="batch", pooling="mean")


def _resnet18(count: int, size: tuple[int, int]) -> nn.Module:
    """torchvision's without the max-pool and with a small stem: grids of 1/2, 1/4, 1/8 and 1/16."""
    from torchvision.models import resnet18

    network = resnet18(num_classes=count)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False), nn.Identity()
    return network


def _vit(count: int, size: tuple[int, int]) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    patch = size[0] // 8
    return VisionTransformer(size, patch, embed_dim=96, depth=6, num_heads=3, num_classes=count)


NETWORKS = {"convnet": _convnet, "resnet18": _resnet18, "vit": _vit}


def _train(classifier: PixelClassifier, data: Images, steps: int, batch_size: int = 64) -> None:
    """Cross-entropy on mirrored images; AdamW, one cycle."""
    device = classifier.mean.device
    images, labels = data.images.to(device), data.labels.to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    classifier.train()
    with progress(steps, "training the classifier", unit="step") as bar:
        for step in range(steps):
            draws = seeds.generator(0, ORDER, step + 2)
            chosen = torch.randint(len(images), (batch_size,), generator=draws).to(device)
            flip = (torch.rand(batch_size, 1, 1, 1, generator=draws) < 0.5).to(device)
            pixels = images[chosen].float() / 255
            with autocast("auto", device):
                logits = classifier(torch.where(flip, pixels.flip(3), pixels))
            loss = F.cross_entropy(logits.float(), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.update()


@torch.no_grad()
def accuracy(classifier: PixelClassifier, data: Images) -> float:
    """Share of images whose class is the most likely."""
    device = classifier.mean.device
    parts = zip(data.images.split(256), data.labels.split(256), strict=True)
    right = [(classifier(images.to(device).float() / 255).argmax(1).cpu() == labels) for images, labels in parts]
    return float(torch.cat(right).float().mean())
