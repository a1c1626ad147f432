"""The small network that learns the features of a data set in half a minute: what it learns from, and how."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from workbench.datasets import LabelledImages
from workbench.pictures import resize_images
from workbench.progress import progress
from workbench.seeds import generator

LARGEST_SIDE = 64  # of the images that the network sees, so that training takes minutes at most on a CPU
ROTATIONS = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")
WEIGHTS, BATCHES, HOLD_OUT, TURNS = range(4)  # what a random stream is for


@dataclass(frozen=True)
class FeatureSettings:
    """How the network is trained; its file in the cache is found by these and by the images."""

    max_train_steps: int = 600
    train_batch_size: int = 128
    learning_rate: float = 4e-3
    seed: int = 0


class ConvFeatures(nn.Module):
    """Four convolutions with batch normalisation and a global average: 128 features of images of any size."""

    def __init__(self, channels: int, num_classes: int, widths: tuple[int, ...] = (32, 64, 128, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out, stride in zip((channels, *widths[:-1]), widths, (2, 2, 1, 2), strict=True):
            convolution = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.head = nn.Linear(widths[-1], num_classes)

    def initialise(self, draws: torch.Generator) -> None:
        """He initialisation of all matrices, from an explicit generator; the biases start at zero."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, generator=draws)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        pixels = images.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        return self.layers(pixels).mean((2, 3))


@dataclass(frozen=True)
class Examples:
    """Images of one size with their classes; or, with `labels` None, square images that the network sees turned."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"] | None
    label_names: tuple[str, ...]

    def select(self, indices: Int[Tensor, " m"]) -> "Examples":
        """Some of the examples."""
        labels = None if self.labels is None else self.labels[indices]
        return Examples(self.images[indices], labels, self.label_names)

    def batch(
        self, indices: Int[Tensor, " b"], draws: torch.Generator
    ) -> tuple[UInt8[Tensor, "b c h w"], Int[Tensor, " b"]]:
        """Images and classes; or turned images and by how much (RotNet: Gidaris et al. 2018, arXiv 1803.07728)."""
        images = self.images[indices]
        if self.labels is not None:
            return images, self.labels[indices]
        turns = torch.randint(len(ROTATIONS), (len(indices),), generator=draws)
        for turn in range(1, len(ROTATIONS)):
            images[turns == turn] = images[turns == turn].rot90(turn, (2, 3))
        return images, turns


def training_examples(
    data: LabelledImages, size: tuple[int, int], label_names: tuple[str, ...] | None = None
) -> Examples:
    """The labelled images at `size` (height, width); or, where fewer than two classes are labelled, all of them
    cropped to squares and without classes.

    `label_names` are those of the set that the network is trained on: images of any other class are left out.
    """
    names = data.label_names if label_names is None else label_names
    position = {name: index for index, name in enumerate(names)}
    numbers = torch.tensor([position.get(name, -1) for name in data.label_names] + [-1])
    labels = numbers[data.labels]  # a label of -1 reads the last entry
    images = resize_images(data.images, size)
    if names == ROTATIONS or (label_names is None and len(labels[labels >= 0].unique()) < 2):
        return Examples(_centre_square(images), None, ROTATIONS)
    return Examples(images[labels >= 0], labels[labels >= 0], names)


def _centre_square(images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c s s"]:
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, :, top : top + side, left : left + side]


def network_size(training: LabelledImages, resolution: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that the network sees: as asked, or the median of the images, at most 64 pixels a side."""
    if resolution is not None:
        return (resolution, resolution) if isinstance(resolution, int) else resolution
    images = training.images[:1] if isinstance(training.images, Tensor) else training.images
    height, width = torch.tensor([image.shape[1:] for image in images]).median(dim=0).values.tolist()
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def train_features(
    examples: Examples, tests: Examples | None, settings: FeatureSettings, device: str | torch.device
) -> tuple[dict[str, Tensor], float | None]:
    """Trains from scratch; returns the weights and the accuracy on `tests`, or on a tenth of `examples` held out.

    600 steps of 128 gray images at 32x32 take half a minute on one CPU core.
    """
    if tests is None:
        order = torch.randperm(len(examples.images), generator=generator(settings.seed, HOLD_OUT))
        tests, examples = examples.select(order[: len(order) // 10]), examples.select(order[len(order) // 10 :])
    module = ConvFeatures(examples.images.shape[1], len(examples.label_names))
    module.initialise(generator(settings.seed, WEIGHTS))
    _optimise(module.to(device), examples, settings)
    weights = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    return weights, _accuracy(module.eval(), tests, settings.seed)


def _optimise(module: ConvFeatures, examples: Examples, settings: FeatureSettings) -> None:
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=0.02)
    steps = max(2, settings.max_train_steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    for images, targets in _batches(examples, settings):
        features = module(images.to(module.head.weight.device))
        loss = functional.cross_entropy(module.head(features), targets.to(features.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _batches(examples: Examples, settings: FeatureSettings) -> Iterator[tuple[Tensor, Tensor]]:
    with progress(settings.max_train_steps, "training the feature network", unit="step") as bar:
        for step in range(settings.max_train_steps):
            draws = generator(settings.seed, BATCHES, step)
            indices = torch.randint(len(examples.images), (settings.train_batch_size,), generator=draws)
            images, targets = examples.batch(indices, draws)
            yield _shift(images, draws), targets
            bar.update()


def _shift(images: UInt8[Tensor, "n c h w"], draws: torch.Generator) -> UInt8[Tensor, "n c h w"]:
    """The batch moved by up to a sixteenth of its sides, the edge pixels repeated."""
    height, width = images.shape[-2:]
    down, right = height // 16, width // 16
    top, left = (int(torch.randint(2 * most + 1, (), generator=draws)) for most in (down, right))
    rows = (torch.arange(height) + top - down).clamp(0, height - 1)
    columns = (torch.arange(width) + left - right).clamp(0, width - 1)
    return images[:, :, rows[:, None], columns]


@torch.no_grad()
def _accuracy(module: ConvFeatures, tests: Examples, seed: int) -> float | None:
    draws, device = generator(seed, TURNS), module.head.weight.device
    hits = []
    for indices in torch.arange(len(tests.images)).split(256):
        images, targets = tests.batch(indices, draws)
        hits.append(module.head(module(images.to(device))).argmax(1).cpu() == targets)
    return float(torch.cat(hits).double().mean()) if len(tests.images) else None
