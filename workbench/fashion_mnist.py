"""Fashion-MNIST: the full set where it is on disk, else the class-balanced extract that ships here.

Xiao, Rasul, Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms", 2017.
"""

import gzip
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from workbench.errors import UserError
from workbench.image_sources import ArrayImages, EncodedImages, ImageSource, Splits
from workbench.image_tables import hub_splits, parquet_splits

NAMES = ("fashion-mnist", "fashion-mnist:extract", "fashion-mnist:full")
LABEL_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FOLDER_VARIABLE = "WORKBENCH_FASHION_MNIST"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
HUB_NAME = "zalando-datasets/fashion_mnist"

_STEMS = {"train": "train", "test": "t10k"}
_EXTRACT_NOTE = (
    "The full Fashion-MNIST is not on this machine: the built-in extract of 6,000 train and 1,000 test images "
    "is used; install Debian's dataset-fashion-mnist, set {variable} to a folder with its four .gz files, "
    "or ask for fashion-mnist:full to download it."
)


def splits(name: str) -> Splits:
    """Train and test of the variant a name asks for.

    `fashion-mnist`: the full set (60,000 and 10,000 images) where its folder is found, else the extract, with a
    note. `fashion-mnist:extract`: always the extract (6,000 and 1,000). `fashion-mnist:full`: the full set, from
    the Hugging Face hub where the folder is not found; the only one that uses the network.
    """
    folder = None if name == "fashion-mnist:extract" else _folder()
    if folder is not None:
        return {split: partial(_open_folder, folder, split) for split in _STEMS}
    if name == "fashion-mnist:full":
        return {split: partial(_named, opener) for split, opener in _download().items()}
    notes = (_EXTRACT_NOTE.format(variable=FOLDER_VARIABLE),) if name == "fashion-mnist" else ()
    return {split: partial(_open_extract, split, notes) for split in _STEMS}


def _folder() -> Path | None:
    """The folder of the full set: the one the environment names, else the system's, if it is there."""
    named = os.environ.get(FOLDER_VARIABLE)
    folder = Path(named).expanduser() if named else SYSTEM_FOLDER
    if (folder / "train-images-idx3-ubyte.gz").is_file():
        return folder
    if named:
        raise UserError(f"{FOLDER_VARIABLE}={named} holds no train-images-idx3-ubyte.gz: correct or unset it.")
    return None


def _open_folder(folder: Path, split: str) -> ArrayImages:
    images = read_idx(folder / f"{_STEMS[split]}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{_STEMS[split]}-labels-idx1-ubyte.gz")
    return ArrayImages(torch.from_numpy(images).unsqueeze(1), labels.astype(np.int64), LABEL_NAMES)


def read_idx(file: Path) -> np.ndarray:
    """The uint8 array of a gzipped IDX file (http://yann.lecun.com/exdb/mnist), read straight into place.

    Raises UserError for a missing or damaged file.
    """
    try:
        with gzip.open(file) as stream:
            zero, kind, axes = struct.unpack(">HBB", stream.read(4))
            array = np.empty(struct.unpack(f">{axes}I", stream.read(4 * axes)), np.uint8)
            filled = stream.readinto(array.data.cast("B"))
    except (OSError, EOFError, struct.error) as error:
        raise UserError(f"{file} cannot be read: {error}; install it again.") from error
    if (zero, kind, filled) != (0, 8, array.size):
        raise UserError(f"{file} is not a whole IDX file of bytes; install it again.")
    return array


def _open_extract(split: str, notes: tuple[str, ...]) -> EncodedImages:
    folder = Path(str(files("workbench") / "data"))
    by_split = {name: [folder / f"fashion-mnist-extract-{name}.parquet"] for name in _STEMS}
    source = parquet_splits(folder, by_split)[split]()
    assert isinstance(source, EncodedImages)
    return replace(source, notes=notes)


def _download() -> Splits:
    try:
        return hub_splits(HUB_NAME)
    except UserError as error:
        raise UserError(
            f"The full Fashion-MNIST is not in {SYSTEM_FOLDER} and cannot be downloaded: "
            f"ask for fashion-mnist:extract, or make the hub reachable. {error}"
        ) from error


def _named(opener: Callable[[], ImageSource]) -> ImageSource:
    """The hub spells the same ten classes otherwise."""
    source = opener()
    assert isinstance(source, EncodedImages)
    return replace(source, label_names=LABEL_NAMES)
