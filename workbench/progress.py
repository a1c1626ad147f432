"""Progress of long work: a live bar in a terminal, a line now and then elsewhere."""

import sys
from typing import Any

from tqdm import tqdm


def progress(total: int, description: str, *, initial: int = 0, disable: bool = False, unit: str = "it") -> "tqdm[Any]":
    """A tqdm bar for `total` units of work, quiet enough for a log file when the output is not a terminal."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(
        total=total, desc=description, initial=initial, disable=disable, unit=unit,
        mininterval=interval, maxinterval=interval, dynamic_ncols=True,
    )  # fmt: skip
