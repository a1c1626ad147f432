"""Training a classifier on the one loop, and measuring any classifier on labelled images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from workbench import seeds
from workbench.classification_config import ClassifyTrainConfig
from workbench.classifiers import save_classifier
from workbench.datasets import LabelledImages, available_splits, load_images, require_classes
from workbench.errors import UserError
from workbench.networks import build_classifier
from workbench.pictures import resize_images
from workbench.pixel_classifier import PixelClassifier
from workbench.progress import progress
from workbench.recipe import Draws, Recipe

INITIAL, HOLD_OUT = 4, 5  # streams of randomness
HELD_OUT_SHARE = 10  # one in so many images is kept for measuring, where there is no test split


class ClassifierRecipe(Recipe):
    """Cross-entropy on randomly moved images."""

    name = "classify"
    result = "classifier"
    config: ClassifyTrainConfig

    def __init__(self, config: ClassifyTrainConfig) -> None:
        config.check()
        self.config = config
        self.train_data, self.test_data = training_and_test(config)
        self.images, self.labels = _pixels(self.train_data), self.train_data.labels
        self.num_examples, self.notes = len(self.labels), self.train_data.notes
        self.model = fresh_classifier(config, self.images, self.train_data.label_names)

    def to(self, device: torch.device) -> None:
        """Keep the uint8 images beside the model."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Shifts and flips of one global batch."""
        return drawn_movement(self.config, batch_size, generator)

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Cross-entropy, and accuracy on the training batch."""
        indices = indices.to(self.images.device)
        images = moved(self.images[indices], draws["shift"], draws["flip"])
        logits, labels = model(images.float() / 255).float(), self.labels[indices]
        accuracy = (logits.detach().argmax(-1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "train_accuracy": accuracy}

    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Accuracy on the test images."""
        assert isinstance(model, PixelClassifier)
        figures = evaluate(model, self.test_data)
        return {"test_accuracy": figures["accuracy"], "test_images": figures["images"]}

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The classifier with its test figures."""
        assert isinstance(model, PixelClassifier)
        figures = evaluate(model, self.test_data)
        folder.rmdir()  # save_classifier makes its own
        save_classifier(model, folder, {**record, "test": figures})


def fresh_classifier(
    config: ClassifyTrainConfig, images: UInt8[Tensor, "n c h w"], label_names: Sequence[str], **options: Any
) -> PixelClassifier:
    """An untrained network that normalises pixels as these images ask for; `options` are those of a convnet."""
    network = build_classifier(
        config.network,
        len(label_names),
        images.shape[1],
        config.size,
        seed=seeds.generator(config.seed, INITIAL).initial_seed(),
        **({"width": config.width, **options} if config.network == "convnet" else {}),
    )
    sample = images[:: len(images) // 5000 + 1].float() / 255  # of all classes, in whatever order
    std = sample.std((0, 2, 3)).clamp(min=1e-3).tolist()
    mean = sample.mean((0, 2, 3)).tolist()
    return PixelClassifier.wrap(network, mean=mean, std=std, class_names=label_names, size=config.size)


def drawn_movement(config: ClassifyTrainConfig, batch_size: int, generator: torch.Generator) -> Draws:
    """For `moved`: a shift of each image, and whether it is mirrored."""
    device, reach = generator.device, config.random_shift
    shift = torch.randint(-reach, reach + 1, (batch_size, 2), generator=generator, device=device)
    flip = torch.rand(batch_size, generator=generator, device=device) < 0.5
    return {"shift": shift, "flip": flip & config.random_flip}


def training_and_test(config: ClassifyTrainConfig) -> tuple[LabelledImages, LabelledImages]:
    """Training images (of both data sets) and test images: the test split, else a tenth held out by the seed.

    Raises UserError when there are not at least two classes with two images each.
    """
    train = _load(config, config.data, "train", config.classes)
    require_classes(train)
    source = config.test_data or config.data
    splits = available_splits(source)
    name = next((split for split in ("test", "validation") if split in splits), "train" if config.test_data else None)
    if name:
        test = _load(config, source, name, train.label_names, train.channels)
    else:
        train, test = _held_out(train, config.seed)
    if config.extra_data:
        train = _joined(train, _load(config, config.extra_data, "train", train.label_names, train.channels))
    return _labelled(train), _labelled(test)


def _load(
    config: ClassifyTrainConfig, name: str, split: str, classes: Sequence[str] | None, channels: int | None = None
) -> LabelledImages:
    return load_images(
        name, split, config.size, classes, channels=channels, crop=False, max_pixels=config.max_image_pixels
    )


def _held_out(data: LabelledImages, seed: int) -> tuple[LabelledImages, LabelledImages]:
    order = torch.randperm(len(data), generator=seeds.generator(seed, HOLD_OUT))
    count = max(1, len(data) // HELD_OUT_SHARE)
    return data.select(order[count:].sort().values), data.select(order[:count].sort().values)


def _labelled(data: LabelledImages) -> LabelledImages:
    return data.select(data.labels >= 0)


def _joined(first: LabelledImages, second: LabelledImages) -> LabelledImages:
    return LabelledImages(
        torch.cat([_pixels(first), _pixels(second)]),
        torch.cat([first.labels, second.labels]),
        first.label_names,
        f"{first.name} + {second.name}",
        first.skipped + second.skipped,
        first.notes + second.notes,
    )


def _pixels(data: LabelledImages) -> UInt8[Tensor, "n c h w"]:
    assert isinstance(data.images, Tensor)  # one size was asked for
    return data.images


def moved(images: UInt8[Tensor, "b c h w"], shift: Int64[Tensor, "b 2"], flip: Tensor) -> UInt8[Tensor, "b c h w"]:
    """Each image moved down and right by its own whole pixels, the edge repeated, and mirrored where `flip`."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) - shift[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - shift[:, 1:]).clamp(0, width - 1)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    batch, channels = (torch.arange(size, device=images.device) for size in images.shape[:2])
    return images[
        batch[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


@torch.no_grad()
def evaluate(classifier: PixelClassifier, data: LabelledImages, batch_size: int = 256) -> dict[str, Any]:
    """Accuracy, overall and for each class, and the confusion counts (rows: truth, columns: prediction).

    Classes are matched by name where the classifier has names, else by number. Raises UserError when they do not match.
    """
    data = _labelled(data)
    if not len(data):
        raise UserError(f"{data.name} has no labelled images to measure on; give labelled data")
    truth, logits = _matched(classifier, data), predict(classifier, data, batch_size)
    if int(truth.max()) >= logits.shape[1]:
        raise UserError(
            f"{data.name} has {int(truth.max()) + 1} classes but the classifier tells only {logits.shape[1]} apart; "
            "give the classifier that was trained on these classes"
        )
    predictions = logits.argmax(-1)
    names = classifier.label_names or data.label_names
    size = max(len(names), int(predictions.max()) + 1)
    confusion = torch.bincount(truth * size + predictions, minlength=size**2).view(size, size)
    per_class = {
        name: float(confusion[k, k] / confusion[k].sum()) for k, name in enumerate(names) if confusion[k].sum()
    }
    return {
        "accuracy": float((truth == predictions).double().mean()),
        "images": len(truth),
        "per_class": per_class,
        "worst_class": min(per_class, key=lambda name: per_class[name]),
        "confusion": confusion[: len(names), : len(names)].tolist(),
    }


@torch.no_grad()
def predict(classifier: PixelClassifier, data: LabelledImages, batch_size: int = 256) -> Float[Tensor, "n k"]:
    """Logits of all images, on the CPU; images of several sizes are resized to the classifier's own."""
    classifier.eval()
    device = next(classifier.parameters()).device
    images = data.images
    if isinstance(images, list):
        images = resize_images(images, classifier.preprocessing.size or (images[0].shape[1], images[0].shape[2]))
    logits = []
    with progress(len(images), "classifying", unit="image") as bar:
        for batch in images.split(batch_size):
            logits.append(classifier(batch.to(device).float() / 255).float().cpu())
            bar.update(len(batch))
    return torch.cat(logits)


def _matched(classifier: PixelClassifier, data: LabelledImages) -> Int64[Tensor, " n"]:
    """The data's labels as the classifier numbers them."""
    names = classifier.label_names
    if not names:
        return data.labels
    used = [data.label_names[k] for k in data.labels.unique().tolist()]
    if missing := [name for name in used if name not in names]:
        raise UserError(
            f"the classifier does not know the class {missing[0]!r} of {data.name}; it knows {', '.join(names[:20])}"
            f"{' ...' if len(names) > 20 else ''}: rename the classes, or choose others"
        )
    numbers = torch.tensor([names.index(name) if name in names else -1 for name in data.label_names])
    return numbers[data.labels]
