"""One split of an image collection batch by batch, for sets whose pixels do not fit in memory.

stream = open_stream("photographs/", "train", size=(256, 256))
for batch in stream.read(np.array_split(np.arange(len(stream)), 100)):
    batch.positions, batch.images, batch.labels
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from workbench.datasets import OpenSplit, open_split
from workbench.files import map_in_threads
from workbench.image_decoding import Decoded, outcome_of, pixel_limit, reason_of, tolerate
from workbench.image_files import Encoded, PixelForm, Size, decode_image, upright_size, without_enlarging
from workbench.image_sources import ArrayImages, EncodedImages, ImageSource, Positions

Batches = Sequence[Int[np.ndarray, " _"]]  # positions
Outcome = UInt8[np.ndarray, "c h w"] | Exception


class ImageBatch(NamedTuple):
    """Images that could be read, where they are in the stream, and the name of each other one with the reason."""

    positions: Int[np.ndarray, " b"]
    images: UInt8[Tensor, "b c h w"]
    labels: Int64[Tensor, " b"]  # -1: unlabelled
    failures: list[tuple[str, str]]


@dataclass(frozen=True)
class ImageStream:
    """A split that is read when asked, each image at the same size; its length and labels are known before."""

    split: OpenSplit
    size: Size
    form: PixelForm
    name: str

    def __len__(self) -> int:
        return len(self.split.positions)

    def tolerate(self, failures: list[tuple[str, str]]) -> None:
        """Raise UserError where these unreadable images are more than 1 % of the split."""
        tolerate(failures, len(self))

    def read(self, batches: Batches) -> Iterator[ImageBatch]:
        """The images at the given positions (0 to len - 1, rising from batch to batch), in one pass over the source.

        Besides the batch in use, no more images are in memory than the largest batch has. An unreadable file is left
        out. Raises UserError where more than 1 % of the split cannot be read, and for an image above `max_pixels`.
        """
        sources = [self.split.positions[batch] for batch in batches]
        assert (np.diff(np.concatenate([np.empty(0, np.int64), *sources])) > 0).all(), "positions must rise"
        failures: list[tuple[str, str]] = []
        for positions, decoded in zip(batches, _decode(self.split.source, sources, self.form), strict=True):
            failures += decoded.failures
            self.tolerate(failures)
            kept = positions[decoded.kept]
            assert isinstance(decoded.images, Tensor)  # all have one size
            yield ImageBatch(kept, decoded.images, torch.from_numpy(self.split.labels[kept]), decoded.failures)


def open_stream(
    name_or_path: str | Path,
    split: str,
    size: Size,
    classes: Sequence[str] | None = None,
    *,
    channels: int = 3,
    upscale: bool = True,
    max_pixels: int = 64_000_000,
) -> ImageStream:
    """Open one split of any collection that `datasets.load_images` reads; the options mean the same there.

    With `upscale=False` headers are read until a centre crop reaches `size` (height, width), all of them where none
    does. Raises UserError for a missing or empty collection, and an unknown split or class.
    """
    opened = open_split(name_or_path, split, classes)
    form = PixelForm(size, channels, upscale, max_pixels=max_pixels)
    if not upscale:
        with pixel_limit(max_pixels):
            size = without_enlarging(size, _sizes_until(opened, size, max_pixels))
    return ImageStream(opened, size, replace(form, size=size, upscale=True), str(name_or_path))


def _sizes_until(opened: OpenSplit, wanted: Size, max_pixels: int) -> Iterator[Size]:
    """Heights and widths of the sources, up to the first that has all of the wanted pixels."""
    source, positions = opened.source, opened.positions
    if isinstance(source, ArrayImages):
        yield source.images.shape[2], source.images.shape[3]
        return
    for name, encoded in _items(source, positions):
        size = outcome_of(partial(upright_size, max_pixels=max_pixels), encoded, name)
        if not isinstance(size, Exception):
            yield size
            if size[0] >= wanted[0] and size[1] >= wanted[1]:
                return


def _items(source: EncodedImages, positions: Positions) -> Iterator[tuple[str, Encoded]]:
    return zip((source.names[i] for i in positions), source.read(positions), strict=True)


def _decode(source: ImageSource, batches: Batches, form: PixelForm) -> Iterator[Decoded]:
    if isinstance(source, ArrayImages):
        return (source.pixels(batch, form) for batch in batches)
    return _decode_ahead(source, batches, form)


def _decode_ahead(source: EncodedImages, batches: Batches, form: PixelForm) -> Iterator[Decoded]:
    """Decoded in threads, which go on by one batch while the caller works on the last one."""

    def attempt(item: tuple[str, Encoded]) -> tuple[str, Outcome]:
        return item[0], outcome_of(partial(decode_image, form=form), item[1], item[0])

    items = _items(source, np.concatenate([np.empty(0, np.int64), *batches]))
    ahead = max(map(len, batches), default=0)
    with pixel_limit(form.max_pixels):
        outcomes = map_in_threads(attempt, items, torch.get_num_threads(), ahead)
        for batch in batches:
            yield _collect(islice(outcomes, len(batch)), len(batch), form)


def _collect(outcomes: Iterable[tuple[str, Outcome]], count: int, form: PixelForm) -> Decoded:
    assert form.size is not None
    assert form.channels is not None
    images = np.empty((count, form.channels, *form.size), np.uint8)
    kept: list[int] = []
    failures = []
    for position, (name, outcome) in enumerate(outcomes):
        if isinstance(outcome, Exception):
            failures.append((name, reason_of(outcome)))
        else:
            images[len(kept)] = outcome
            kept.append(position)
    return Decoded(torch.from_numpy(images[: len(kept)]), np.array(kept, np.int64), failures)
