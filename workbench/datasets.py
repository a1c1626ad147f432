"""Labelled images from a name, a folder, a parquet file, WebDataset shards or the Hugging Face hub.

images = load_images("fashion-mnist", split="train", resolution=32)
images = load_images("photographs/", resolution=(48, 64), classes=["cat", "dog"])
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from workbench import fashion_mnist, photographs
from workbench.errors import UserError
from workbench.image_decoding import Pixels
from workbench.image_files import PixelForm, Size
from workbench.image_folders import METADATA_FILES, folder_splits, is_image, visible_files
from workbench.image_sources import SPLIT_WORDS, ImageSource, Positions, Splits, split_in_name, without_split
from workbench.image_tables import hub_splits, parquet_splits
from workbench.image_tars import tar_splits
from workbench.tokens import tokenize

_SHARDS = {".parquet": parquet_splits, ".tar": tar_splits}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True)
class LabelledImages:
    """Images of one split in memory, uint8 in [0, 255], with their class numbers (-1: unlabelled)."""

    images: Pixels  # (N, C, H, W); a list of (C, H, W) only where the sizes differ
    labels: Int64[Tensor, " n"]
    label_names: tuple[str, ...]
    name: str
    skipped: tuple[str, ...] = ()  # files that could not be read
    notes: tuple[str, ...] = ()  # sentences the user must see
    file_names: tuple[str, ...] | None = None
    tokens: tuple[tuple[str, ...], ...] | None = None  # of each image's caption; None: captions were not asked for

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """1 where all images are gray, else 3."""
        return self.images[0].shape[0] if isinstance(self.images, list) else self.images.shape[1]

    def select(self, indices: Sequence[int] | np.ndarray | Tensor) -> "LabelledImages":
        """The images at the given positions, in that order, or where a mask of bool is True."""
        chosen = torch.arange(len(self))[torch.as_tensor(indices, dtype=None if len(indices) else torch.int64)]
        images = self.images
        return replace(
            self,
            images=[images[i] for i in chosen] if isinstance(images, list) else images[chosen],
            labels=self.labels[chosen],
            file_names=None if self.file_names is None else tuple(self.file_names[i] for i in chosen),
            tokens=None if self.tokens is None else tuple(self.tokens[i] for i in chosen),
        )


def load_images(
    name_or_path: str | Path,
    split: str = "train",
    resolution: int | Size | None = None,
    classes: Sequence[str] | None = None,
    *,
    channels: int | None = None,
    upscale: bool = True,
    crop: bool = True,
    max_pixels: int = 64_000_000,
    caption_column: str | None = None,
) -> LabelledImages:
    """Load one split of a labelled image collection, each image decoded once, upright, on white.

    `name_or_path` is one of
    - `fashion-mnist` (the full set from Debian's folder or `$WORKBENCH_FASHION_MNIST`, else the built-in extract,
      with a note), `fashion-mnist:extract`, or `fashion-mnist:full`, which downloads where the folder is missing;
    - `demo-photographs`: six pictures for demonstration, with ImageNet's class names;
    - a folder: ROOT/CLASS/*.png, ROOT/train/CLASS/*.png, `metadata.jsonl` (.csv, .parquet) with `file_name` and
      `label` or `label_name`, a data set of ours, or bare images (labels -1); parquet or tar shards;
    - a parquet file with a column of encoded images, or a WebDataset tar: of X-train.parquet and X-test.parquet,
      `split` picks the one;
    - `owner/name` or `owner/name:config` on the Hugging Face hub.

    `resolution` R or (height, width): centre-crop to the aspect, antialiased bicubic resize; None keeps each
    image's size. `crop=False` squeezes the whole image instead. With `upscale=False` the result is no larger than
    the largest centre crop in the set. `classes` selects classes and numbers them in that order. Gray and colour:
    1 channel where every file is gray, else 3; `channels` 1 or 3 forces it. 16-bit gray is scaled by its full range.
    `caption_column` names the column (of the metadata file, the parquet file, the hub data set, or the WebDataset's
    json) that holds each image's caption or list of attributes, which become its `tokens`; no value is no tokens.

    An unreadable file is left out and named in `skipped`. Raises UserError where more than 1 % is unreadable, for
    an image above `max_pixels`, a missing or empty collection, and an unknown split, class or column.
    """
    form = PixelForm(_checked_size(resolution), _checked_channels(channels), upscale, crop, max_pixels)
    opened = open_split(name_or_path, split, classes)
    tokens = None if caption_column is None else opened.tokens(caption_column)
    decoded = opened.source.pixels(opened.positions, form)
    return LabelledImages(
        images=decoded.images,
        labels=torch.from_numpy(opened.labels[decoded.kept]),
        label_names=opened.label_names,
        name=str(name_or_path),
        skipped=tuple(name for name, _ in decoded.failures),
        notes=(*opened.notes, *skip_notes(decoded.failures)),
        file_names=opened.source.file_names(opened.positions[decoded.kept]),
        tokens=None if tokens is None else tuple(tokens[i] for i in decoded.kept),
    )


class OpenSplit(NamedTuple):
    """A split of which no image is read yet: what to take of its source, and what is known of it."""

    source: ImageSource
    positions: Positions  # in the source, increasing
    labels: Positions  # class numbers at these positions; -1: unlabelled
    label_names: tuple[str, ...]
    notes: tuple[str, ...]

    def tokens(self, caption_column: str) -> tuple[tuple[str, ...], ...]:
        """The tokens of each image's caption; UserError for an unknown column, or one that holds no texts."""
        return tuple(map(tokenize, self.source.column(caption_column, self.positions)))


def open_split(name_or_path: str | Path, split: str = "train", classes: Sequence[str] | None = None) -> OpenSplit:
    """Find the images and labels of one split; names and errors are those of `load_images`, which reads them too."""
    source = _pick(_splits(name_or_path), split, name_or_path)()
    positions, labels, label_names = _choose(source, classes)
    if len(positions) == 0:
        wanted = f" of the classes {', '.join(classes)}" if classes else ""
        raise UserError(f"{name_or_path} holds no images{wanted} in its split {split!r}.")
    notes = (*source.notes, *_sibling_notes(name_or_path, split))
    return OpenSplit(source, positions, labels, label_names, notes)


def available_splits(name_or_path: str | Path) -> list[str]:
    """The splits that `load_images` can give, among train, validation and test (hub data may have others)."""
    return list(_splits(name_or_path))


def require_classes(images: LabelledImages, minimum: int = 2, per_class: int = 2) -> None:
    """Raise UserError unless every image is labelled, in `minimum` classes or more of `per_class` images or more."""
    unlabelled = int((images.labels < 0).sum())
    if unlabelled:
        raise UserError(
            f"{unlabelled} of {len(images)} images in {images.name} have no label: put each class in a folder "
            "of its name, or list file_name and label in metadata.jsonl."
        )
    counts = torch.bincount(images.labels, minlength=len(images.label_names)).tolist()
    if len(counts) < minimum:
        found = ", ".join(images.label_names) or "none"
        raise UserError(
            f"{images.name} has {len(counts)} class ({found}), at least {minimum} are needed: add images of another "
            "class, or, where no labels are needed, give a flat folder without class folders."
        )
    small = [f"{name} ({n})" for name, n in zip(images.label_names, counts, strict=True) if n < per_class]
    if small:
        raise UserError(
            f"{images.name} has too few images of {', '.join(small)}: add some, to {per_class} or more, "
            "or leave the class out by listing the others in classes."
        )


# ------------------------------------------------------------------------------------------------ where to look


def _splits(name_or_path: str | Path) -> Splits:
    name = str(name_or_path)
    if name in fashion_mnist.NAMES:
        return fashion_mnist.splits(name)
    if name == photographs.NAME:
        return photographs.splits()
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path)
    except PermissionError as error:
        raise UserError(f"{path} may not be read by this user: change its permissions and try again.") from error
    if isinstance(name_or_path, str) and _HUB_NAME.fullmatch(name) and not Path(name).parent.exists():
        return hub_splits(name)
    raise UserError(
        f"There is no file or folder {name}: give the path of an image folder, a parquet or tar file, "
        f"a hub name (owner/name), or one of {', '.join((*fashion_mnist.NAMES, photographs.NAME))}."
    )


def _folder(root: Path) -> Splits:
    """Image files in folders or listed; else shards, beside which a picture or two may lie; else bare images."""
    files = visible_files(root)
    has_images = any(map(is_image, files))
    in_folders = any((is_image(file) and len(file.parts) > 1) or file.name in METADATA_FILES for file in files)
    for suffix, open_shards in _SHARDS.items():
        shards = [file for file in files if file.suffix.lower() == suffix and file.name not in METADATA_FILES]
        if shards and (not in_folders or any(split_in_name(Path(file.name)) for file in shards)):
            return open_shards(root, _by_split(root, shards))
    if not has_images:
        raise UserError(
            f"The folder {root} holds no images: put them in one folder per class, or beside a metadata.jsonl, "
            "or as parquet or tar shards."
        )
    return folder_splits(root, files)


def _file(path: Path) -> Splits:
    """A shard and its siblings of other splits: X-test.parquet beside X-train.parquet."""
    open_shards = _SHARDS.get(path.suffix.lower())
    if open_shards is None:
        raise UserError(f"{path} is not a data set: give a folder of images, a .parquet or a .tar file.")
    root = path.parent
    family = [Path(path.name)]
    if split_in_name(family[0]):
        blank = without_split(path.name)
        family = sorted(Path(f.name) for f in root.iterdir() if without_split(f.name) == blank)
    return open_shards(root, _by_split(root, family))


def _by_split(root: Path, shards: Sequence[Path]) -> dict[str, list[Path]]:
    """Shards grouped by the split their names speak of; those that speak of none are training data."""
    groups: dict[str, list[Path]] = {}
    for shard in shards:
        groups.setdefault(split_in_name(shard) or "train", []).append(root / shard)
    return {split: groups[split] for split in dict.fromkeys(SPLIT_WORDS.values()) if split in groups}


def _pick(splits: Splits, split: str, name: str | Path) -> Callable[[], ImageSource]:
    opener = splits.get(split) or splits.get(SPLIT_WORDS.get(split.lower(), split))
    if opener is None:
        raise UserError(
            f"{name} has no split {split!r}, only {', '.join(splits)}: ask for one of these, or add a folder "
            f"or file named {split} beside it."
        )
    return opener


# ------------------------------------------------------------------------------------------------ what to take


def _checked_size(resolution: int | Size | None) -> Size | None:
    if resolution is None:
        return None
    size = tuple(resolution) if isinstance(resolution, tuple | list) else (resolution, resolution)
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise UserError(f"The resolution {resolution!r} is not a size: give one number, or (height, width).")
    return size[0], size[1]


def _checked_channels(channels: int | None) -> int | None:
    if channels not in (None, 1, 3):
        raise UserError(f"Images have 1 channel (gray) or 3 (colour), not {channels!r}.")
    return channels


def _choose(source: ImageSource, classes: Sequence[str] | None) -> tuple[Positions, Positions, tuple[str, ...]]:
    """Positions to load, their class numbers, and the class names."""
    labels = source.labels
    if classes is None:
        return np.arange(len(labels)), labels, source.label_names
    number = {_known(name, source.label_names): i for i, name in enumerate(classes)}
    if len(number) < len(classes):
        raise UserError(f"A class is named twice in {', '.join(classes)}: name each once.")
    renumbered = np.array([number.get(name, -1) for name in source.label_names] + [-1])[labels]
    positions = np.flatnonzero(renumbered >= 0)  # the last entry is for the unlabelled, whose number is -1
    return positions, renumbered[positions], tuple(classes)


def _known(name: str, label_names: Sequence[str]) -> str:
    if name not in label_names:
        near = difflib.get_close_matches(name, label_names, n=3) or list(label_names[:10])
        choice = f"the nearest are {', '.join(near)}" if near else "the images are unlabelled"
        raise UserError(f"There is no class {name!r} among the {len(label_names)} of this data set: {choice}.")
    return name


def _sibling_notes(name_or_path: str | Path, split: str) -> list[str]:
    """Of a file that is itself another split, the user must know that its sibling was read."""
    file = Path(name_or_path).name
    own = split_in_name(Path(file)) if Path(file).suffix.lower() in _SHARDS else None
    if own in (None, SPLIT_WORDS.get(split.lower())):
        return []
    return [f"{file} is the {own} split: the {split} images are those of the file beside it."]


def skip_notes(failures: Sequence[tuple[str, str]]) -> list[str]:
    """What the user must know of images that could not be read, given the name of each and why."""
    if not failures:
        return []
    first = "; ".join(f"{name} ({reason})" for name, reason in failures[:3])
    return [f"{len(failures)} unreadable images are left out: {first}."]
