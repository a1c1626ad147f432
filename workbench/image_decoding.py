"""Many encoded images at once: decoded in threads, in order, into one block of memory."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from workbench.errors import UserError
from workbench.image_files import Encoded, PixelForm, decode_image, upright_size, without_enlarging

Pixels = UInt8[Tensor, "n c h w"] | list[UInt8[Tensor, "c _h _w"]]
Outcome = TypeVar("Outcome")

TOLERATED_FAILURES = 0.01  # share of unreadable images above which the data set itself is at fault

_CHUNK_IMAGES, _CHUNK_BYTES = 32, 4_000_000  # what one thread takes at a time


class Decoded(NamedTuple):
    """Images that could be read, their positions among those asked for, and why each other one could not."""

    images: Pixels
    kept: Int[np.ndarray, " kept"]
    failures: list[tuple[str, str]]


def decode_images(items: Callable[[], Iterable[tuple[str, Encoded]]], count: int, form: PixelForm) -> Decoded:
    """Decode `count` named images once each, in order, straight into one block of memory where sizes agree.

    `items` is called for a fresh pass (twice when nothing may be enlarged: the headers are read first).
    Raises UserError where more than 1 % cannot be read, where none can, and above `max_pixels`.
    """
    failures: list[tuple[str, str]] = []
    kept = []
    stack = _Stack(count)
    with pixel_limit(form.max_pixels), _progress(count) as progress:
        form = _without_enlarging(items, form)
        for position, (name, outcome) in enumerate(_in_threads(items(), partial(decode_image, form=form))):
            progress.update()
            if isinstance(outcome, Exception):
                failures.append((name, reason_of(outcome)))
            else:
                stack.add(outcome)
                kept.append(position)
    tolerate(failures, count)
    return Decoded(stack.result(), np.array(kept, dtype=np.int64), failures)


def _progress(count: int) -> "tqdm[Any]":
    return tqdm(total=count, desc="decoding images", unit="image", mininterval=1.0, delay=1.0)


def _without_enlarging(items: Callable[[], Iterable[tuple[str, Encoded]]], form: PixelForm) -> PixelForm:
    if form.size is None or form.upscale:
        return form
    measure = partial(upright_size, max_pixels=form.max_pixels)
    sizes = [outcome for _, outcome in _in_threads(items(), measure) if not isinstance(outcome, Exception)]
    return replace(form, size=without_enlarging(form.size, sizes))


def reason_of(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def tolerate(failures: list[tuple[str, str]], count: int) -> None:
    if len(failures) > TOLERATED_FAILURES * count:
        first = "; ".join(f"{name} ({reason})" for name, reason in failures[:3])
        raise UserError(
            f"{len(failures)} of {count} images cannot be read, more than {TOLERATED_FAILURES:.0%}: "
            f"{first}{' ...' if len(failures) > 3 else ''}; repair or remove them."
        )


@contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Pillow's own limit is process-wide: raise it, for one load only, where the caller allows more."""
    before = Image.MAX_IMAGE_PIXELS
    if before is not None:
        Image.MAX_IMAGE_PIXELS = max(before, max_pixels)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _in_threads(
    items: Iterable[tuple[str, Encoded]], work: Callable[[Encoded, str], Outcome]
) -> Iterator[tuple[str, Outcome | Exception]]:
    """Each name with its outcome or the decoder's complaint, in order; Pillow decodes without the GIL.

    As many threads as torch uses, so that OMP_NUM_THREADS bounds both.
    """

    def attempt(chunk: list[tuple[str, Encoded]]) -> list[tuple[str, Outcome | Exception]]:
        return [(name, outcome_of(work, encoded, name)) for name, encoded in chunk]

    workers = torch.get_num_threads()
    pending: deque[Future[list[tuple[str, Outcome | Exception]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for chunk in _chunks(items):
            pending.append(pool.submit(attempt, chunk))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def outcome_of(work: Callable[[Encoded, str], Outcome], encoded: Encoded, name: str) -> Outcome | Exception:
    try:
        return work(encoded, name)
    except UserError:
        raise
    except Exception as error:  # damaged files make decoders raise nearly anything
        return error


def _chunks(items: Iterable[tuple[str, Encoded]]) -> Iterator[list[tuple[str, Encoded]]]:
    chunk: list[tuple[str, Encoded]] = []
    weight = 0
    for name, encoded in items:
        chunk.append((name, encoded))
        weight += len(encoded) if isinstance(encoded, bytes) else 0
        if len(chunk) >= _CHUNK_IMAGES or weight >= _CHUNK_BYTES:
            yield chunk
            chunk, weight = [], 0
    if chunk:
        yield chunk


class _Stack:
    """One preallocated (N, C, H, W) block, widened when colour appears; a list once two sizes differ."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.filled = 0
        self.block: np.ndarray | None = None
        self.loose: list[np.ndarray] | None = None

    def add(self, pixels: UInt8[np.ndarray, "c h w"]) -> None:
        if self.block is None and self.loose is None:
            self._allocate(pixels.shape)
        if self.block is not None and pixels.shape[1:] != self.block.shape[2:]:
            self.loose, self.block = list(self.block[: self.filled]), None
        if self.block is None:
            assert self.loose is not None
            self.loose.append(np.array(pixels, order="C"))
        else:
            if len(pixels) > self.block.shape[1]:
                self._widen()
            self.block[self.filled] = pixels  # a gray image is repeated in a colour block
        self.filled += 1

    def _allocate(self, shape: tuple[int, ...]) -> None:
        try:  # pages are taken only when written
            self.block = np.empty((self.count, *shape), np.uint8)
        except MemoryError:  # a first image far larger than the others
            self.loose = []

    def _widen(self) -> None:
        assert self.block is not None
        gray = self.block
        self.block = np.empty((self.count, 3, *gray.shape[2:]), np.uint8)
        self.block[: self.filled] = gray[: self.filled]

    def result(self) -> Pixels:
        if self.block is not None:
            return torch.from_numpy(self.block[: self.filled])
        loose = self.loose or []
        channels = max(len(pixels) for pixels in loose)
        same = [torch.from_numpy(pixels).expand(channels, -1, -1).contiguous() for pixels in loose]
        return torch.stack(same) if len({pixels.shape for pixels in same}) == 1 else same
