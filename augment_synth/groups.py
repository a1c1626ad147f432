"""Images that belong to groups, such as class and background, and a classifier's accuracy in each group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from workbench.classification import predict
from workbench.datasets import LabelledImages
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

SYNTHETIC = "synthetic"  # the group of images whose attribute nobody knows


@dataclass(frozen=True)
class GroupedImages:
    """Images of one size, uint8 in [0, 255], with class, group and origin.

    `groups` is None where nobody knows them. A synthetic image has the group of its edit's target, or the group
    `SYNTHETIC`. Raises UserError when the parts do not fit each other.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    label_names: tuple[str, ...]
    groups: Int64[Tensor, " n"] | None
    group_names: tuple[str, ...]
    synthetic: Bool[Tensor, " n"]

    def __post_init__(self) -> None:
        _check_numbers("labels", self.labels, len(self.images), len(self.label_names))
        if self.groups is not None:
            _check_numbers("groups", self.groups, len(self.images), len(self.group_names))
        if len(self.synthetic) != len(self.images):
            raise UserError(f"synthetic says {len(self.synthetic)} times whether, of {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: Tensor) -> "GroupedImages":
        """The images at the given positions, or where a mask is True."""
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            groups=None if self.groups is None else self.groups[chosen],
            synthetic=self.synthetic[chosen],
        )

    def labelled(self, name: str = "the images") -> LabelledImages:
        """The images and labels alone."""
        return LabelledImages(self.images, self.labels, self.label_names, name)

    def known_groups(self) -> Int64[Tensor, " n"]:
        """The groups; raises UserError where nobody knows them."""
        if self.groups is None:
            raise UserError("the images come without groups: give them, or choose a method that needs none")
        return self.groups

    def group_counts(self) -> dict[str, int]:
        """Images of each group, real and synthetic, by its name."""
        counts = self.known_groups().bincount(minlength=len(self.group_names)).tolist()
        return dict(zip(self.group_names, counts, strict=True))


def _check_numbers(what: str, numbers: Int64[Tensor, " _"], images: int, names: int) -> None:
    if len(numbers) != images:
        raise UserError(f"{len(numbers)} {what} were given for {images} images; give one each")
    if images and not 0 <= int(numbers.min()) <= int(numbers.max()) < names:
        raise UserError(f"the {what} run from {int(numbers.min())} to {int(numbers.max())} but {names} have names")


def grouped(
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    label_names: Sequence[str],
    attributes: Int64[Tensor, " n"],
    attribute_names: Sequence[str],
    synthetic: Bool[Tensor, " n"] | None = None,
) -> GroupedImages:
    """Groups from an attribute: one for each pair, in the order label * attributes + attribute.

    A synthetic image whose attribute nobody knows has -1 and goes to the group `SYNTHETIC`, which comes last.
    """
    synthetic = torch.zeros(len(labels), dtype=torch.bool) if synthetic is None else synthetic
    unknown = attributes < 0
    if bool((unknown & ~synthetic).any()):
        raise UserError("a real image has no attribute; give each one, or leave out those without")
    count = len(attribute_names)
    names = [f"{label}, {attribute}" for label in label_names for attribute in attribute_names]
    groups = torch.where(unknown, len(names), labels * count + attributes)
    names += [SYNTHETIC] * bool(unknown.any())
    return GroupedImages(images, labels, tuple(label_names), groups, tuple(names), synthetic)


@dataclass(frozen=True)
class GroupRow:
    """A group, its images, the share that is classified right, and how many training images it has where known."""

    group: str
    n: int
    accuracy: float
    train_n: int | None = None


@dataclass(frozen=True)
class GroupTable:
    """Accuracy of each group that has images."""

    rows: tuple[GroupRow, ...]

    @property
    def worst(self) -> float:
        """Of the group with the lowest accuracy, whichever it is."""
        return min(row.accuracy for row in self.rows)

    @property
    def average(self) -> float:
        """Over all images."""
        return sum(row.n * row.accuracy for row in self.rows) / sum(row.n for row in self.rows)

    @property
    def weighted(self) -> float | None:
        """Groups weighted as they are in training, as papers quote it for Waterbirds; None where nobody said."""
        total = sum(row.train_n or 0 for row in self.rows)
        return sum((row.train_n or 0) * row.accuracy for row in self.rows) / total if total else None

    def figures(self) -> dict[str, object]:
        """As JSON."""
        rows = [{"group": row.group, "n": row.n, "accuracy": row.accuracy, "train_n": row.train_n} for row in self.rows]
        return {"worst": self.worst, "average": self.average, "weighted": self.weighted, "groups": rows}


def group_table(
    classifier: PixelClassifier,
    data: GroupedImages,
    batch_size: int = 256,
    train_counts: Mapping[str, int] | None = None,
) -> GroupTable:
    """Accuracy in each group of `data`; the classes are the groups where nobody knows better.

    `train_counts` are the training images of each group by its name. Raises UserError when there is no image.
    """
    if not len(data):
        raise UserError("there are no images to measure groups on; give some")
    right = (predict(classifier, data.labelled(), batch_size).argmax(1) == data.labels).double()
    groups, names = (data.labels, data.label_names) if data.groups is None else (data.groups, data.group_names)
    rows = []
    for number in groups.unique().tolist():
        members, name = groups == number, names[number]
        counted = None if train_counts is None else train_counts.get(name, 0)
        rows.append(GroupRow(name, int(members.sum()), float(right[members].mean()), counted))
    return GroupTable(tuple(rows))
