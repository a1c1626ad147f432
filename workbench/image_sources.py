"""What every kind of image collection offers: a labelled, still undecoded sequence of images per split."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from workbench.errors import UserError
from workbench.image_decoding import Decoded, decode_images
from workbench.image_files import Encoded, PixelForm, resize_images, without_enlarging

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_SPLIT_IN_NAME = re.compile(rf"(?<![a-z0-9])({'|'.join(SPLIT_WORDS)})(?![a-z0-9])", re.IGNORECASE)

Positions = Int[np.ndarray, " n"]
Label = tuple[int, str] | None  # the number that orders the class, and its name; None: unlabelled


def no_columns(name: str) -> Sequence[object]:
    """Raise the UserError of a collection that has nothing but images and labels."""
    raise UserError(
        f"These images have no columns, so none is called {name!r}: list file_name, label and {name} of each "
        "in a metadata.jsonl, or give a data set that has captions."
    )


@dataclass(frozen=True)
class EncodedImages:
    """The images of one split in files or shards; `read` yields those at the increasing positions asked for."""

    names: Sequence[str]
    labels: Positions
    label_names: tuple[str, ...]
    read: Callable[[Positions], Iterable[Encoded]]
    notes: tuple[str, ...] = ()
    read_column: Callable[[str], Sequence[object]] = no_columns  # a further column, None where an image has no value

    def pixels(self, positions: Positions, form: PixelForm) -> Decoded:
        """Decode the images at increasing positions."""

        def items() -> Iterator[tuple[str, Encoded]]:
            return zip((self.names[i] for i in positions), self.read(positions), strict=True)

        return decode_images(items, len(positions), form)

    def file_names(self, positions: Positions) -> tuple[str, ...]:
        """What a person finds the images by."""
        return tuple(self.names[i] for i in positions)

    def column(self, name: str, positions: Positions) -> list[object]:
        """The values of a further column, None where there is none; a column nobody knows raises UserError."""
        cells = self.read_column(name)
        return [cells[i] for i in positions]


@dataclass(frozen=True)
class ArrayImages:
    """The images of one split where they are an array already."""

    images: UInt8[Tensor, "n c h w"]
    labels: Positions
    label_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def pixels(self, positions: Positions, form: PixelForm) -> Decoded:
        """The images at the positions, cropped, resized and repeated over channels as the form says."""
        images = self.images if len(positions) == len(self.images) else self.images[positions]
        if form.size is not None:
            own = (images.shape[2], images.shape[3])
            size = form.size if form.upscale else without_enlarging(form.size, [own])
            images = resize_images(images, size, form.crop)
        if form.channels is not None:
            images = images.expand(-1, form.channels, -1, -1).contiguous()
        return Decoded(images, np.arange(len(images)), [])

    def file_names(self, positions: Positions) -> None:
        """An array has none."""
        return None

    def column(self, name: str, positions: Positions) -> list[object]:
        """Raises UserError: an array has none."""
        return list(no_columns(name))


ImageSource = EncodedImages | ArrayImages
Splits = dict[str, Callable[[], ImageSource]]  # what opens each split


def require_column(name: str, columns: Iterable[str], origin: str) -> None:
    """Raise UserError unless a table has the column."""
    columns = list(columns)
    if name not in columns:
        raise UserError(f"{origin} has no column {name!r}: its columns are {', '.join(columns) or 'none at all'}.")


def column_of(records: Iterable[Mapping[str, object]], name: str, origin: str) -> list[object]:
    """One column of a table given row by row, None where a row has no value; UserError where no row has one."""
    columns: dict[str, None] = {}
    cells = []
    for record in records:
        columns.update(dict.fromkeys(record))
        cells.append(record.get(name))
    require_column(name, columns, origin)
    return cells


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sorting key by which image-2 comes before image-10."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), "") if i % 2 else (1, 0, part.lower()) for i, part in enumerate(parts)] + [(2, 0, text)]


def split_in_name(path: Path) -> str | None:
    """The split that a file's name, or failing that its folder, speaks of: train, validation or test."""
    words = _SPLIT_IN_NAME.findall(path.as_posix())
    return SPLIT_WORDS[words[-1].lower()] if words else None


def without_split(name: str) -> str:
    """A file name with its split word blanked, equal for the files of one family."""
    return _SPLIT_IN_NAME.sub("*", name)


def number_or_name(text: str) -> int | str:
    """A label that was written as text: digits are a class number."""
    return int(text) if text.removeprefix("-").isdecimal() else text


def as_label(label: object, label_name: object = None, declared: Sequence[str] | None = None) -> Label:
    """One image's label from a class number, a class name or both; None, "" and negative numbers: no label.

    Raises UserError for a number outside the declared classes and for anything else.
    """
    if isinstance(label, int):
        return None if label < 0 else (label, str(label_name or _declared_name(label, declared)))
    name = label_name or label
    if name is None or name == "":
        return None
    if isinstance(name, str):
        return 0, name
    raise UserError(f"The label {label!r} is neither a class number nor a class name: one class per image.")


def _declared_name(label: int, declared: Sequence[str] | None) -> str:
    if not declared:
        return str(label)
    if label >= len(declared):
        raise UserError(f"Label {label} is outside the {len(declared)} classes the data set declares.")
    return declared[label]


def number_labels(
    labels_of: Callable[[str], Sequence[Label]],
    split: str,
    splits: Iterable[str],
    declared: Sequence[str] | None,
) -> tuple[Positions, tuple[str, ...]]:
    """Class numbers of a split (-1: unlabelled) and the class names they index.

    Undeclared class names are gathered over all splits, so that a number means the same class in each.
    Raises UserError for a class name that is not among the declared ones.
    """
    own = labels_of(split)
    if declared is None:
        others = [label for other in splits if other != split for label in labels_of(other)]
        present = {label for label in (*own, *others) if label is not None}
        ordered = sorted(present, key=lambda label: (label[0], natural(label[1])))
        declared = list(dict.fromkeys(name for _, name in ordered))
    number = {name: i for i, name in enumerate(declared)}
    try:
        numbers = [-1 if label is None else number[label[1]] for label in own]
    except KeyError as error:
        raise UserError(f"Class {error} is not among the declared ones: {', '.join(declared)}.") from error
    return np.array(numbers, dtype=np.int64), tuple(declared)
