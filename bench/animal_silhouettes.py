"""Silhouettes of animals from the wheel of `animal-mnist` 0.4 (MIT): 28x28, white on black, ten kinds of 1000.

    pip download --no-deps animal-mnist==0.4

Its arrays are pickled, one in each file. Nothing is unpickled: the longest byte string of the pickle is the array.
"""

import gzip
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import torch

from workbench.datasets import LabelledImages
from workbench.errors import UserError

NAMES = ("Bear", "Bird", "Cat", "Cow", "Dog", "Elephant", "Giraffe", "Horse", "Sheep", "Zebra")
SIDE = 28
FOLDER = "animal_mnist/data/Animal_MNIST"


def animals(wheel: Path) -> LabelledImages:
    """The distinct silhouettes, in their order. Raises UserError where the wheel is not there or another one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            pixels, numbers = (
                _array(archive.read(f"{FOLDER}/animal_{part}_version_3.gz")) for part in ("data", "label")
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{wheel} is not the wheel of animal-mnist 0.4 ({error}); get it with: pip download --no-deps "
            "animal-mnist==0.4"
        ) from error
    images, labels = np.frombuffer(pixels, np.uint8).reshape(-1, SIDE, SIDE), np.frombuffer(numbers, "<i8")
    numbered: dict[bytes, int] = {}
    for number, image in enumerate(images):
        numbered.setdefault(image.tobytes(), number)
    first = list(numbered.values())
    return LabelledImages(
        torch.from_numpy(images[first].copy())[:, None], torch.from_numpy(labels[first].copy()), NAMES, "animals"
    )


def _array(packed: bytes) -> bytes:
    """The bytes of the one array in a compressed pickle."""
    parts = [part for _, part, _ in pickletools.genops(gzip.decompress(packed)) if isinstance(part, bytes)]
    return max(parts, key=len)
