"""Six photographs of things that ImageNet has a class for, from inside the scikit-image package, for demonstration.

Each has the one ImageNet class that fits it best; that a classifier names a neighbouring one (a tiger cat, a motor
scooter) is no surprise.
"""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from workbench.image_sources import EncodedImages, Positions, Splits

NAME = "demo-photographs"
CLASSES = {
    "chelsea.png": "tabby",
    "coffee.png": "espresso",
    "rocket.jpg": "missile",
    "motorcycle_left.png": "moped",
    "camera.png": "tripod",
    "clock_motion.png": "wall clock",
}


def splits() -> Splits:
    """A test split alone: nobody should train on them."""
    return {"test": _open}


def _open() -> EncodedImages:
    folder = Path(str(files("skimage").joinpath("data")))
    names: Sequence[str] = list(CLASSES)

    def read(positions: Positions) -> Iterable[Path]:
        return [folder / names[number] for number in positions]

    return EncodedImages(names, np.arange(len(names)), tuple(CLASSES.values()), read)
