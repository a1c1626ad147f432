"""Pictures and masks as people have them: upright, opaque, without a pixel changed that need not be.

A mask says what to fill: 1 (in files white) in the hole, 0 (black) where pixels are known. Other programs mean the
opposite by theirs; here it is turned round once, on reading.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, UInt
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from workbench.errors import UserError
from workbench.image_decoding import pixel_limit
from workbench.image_files import flatten, open_limited

Source: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class Picture:
    """Pixels to be completed, gray or colour, and what a person must know of how they were read."""

    pixels: UInt[np.ndarray, "c h w"]  # uint8, or uint16 for gray of 16 bits
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]


def read_picture(source: Source, max_pixels: int = MAX_PIXELS) -> Picture:
    """A picture from a file, a Pillow image, or uint8 pixels (h, w), (h, w, 1 or 3) or (1 or 3, h, w).

    Turned upright by its EXIF entry; on white where transparent; gray of 16 bits keeps them. Raises UserError for
    what cannot be read, and above `max_pixels`.
    """
    if isinstance(source, np.ndarray | Tensor):
        return Picture(_pixels_of_array(np.asarray(source)))
    with _opened(source, max_pixels) as image:
        notes = _notes(image)
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return Picture(np.asarray(upright).astype(np.uint16)[None], notes)
        pixels = np.asarray(flatten(upright))
        return Picture(np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), notes)


def read_mask(
    source: Source, size: tuple[int, int], invert: bool = False, max_pixels: int = MAX_PIXELS
) -> Bool[np.ndarray, "h w"]:
    """True in the hole, for a picture of `size` (height, width).

    White, or more than half, is hole, and with `invert` what is not; transparent parts of a file are not. Arrays may be
    bool, of zeros and ones, or in [0, 255]. Raises UserError for another size, no hole, or nothing but a hole.
    """
    hole = _half_or_more(source, max_pixels) ^ invert
    if hole.shape != size:
        found, wanted = ("x".join(map(str, shape)) for shape in (hole.shape, size))
        raise UserError(f"the mask is {found} pixels (height x width), the image {wanted}; give a mask of its size")
    if not hole.any():
        raise UserError("the mask has no hole: make white what is to be filled, or say that black is (--invert-mask)")
    if hole.all():
        raise UserError("the mask covers the whole image: leave something known, or say that black is the hole "
                        "(--invert-mask)")  # fmt: skip
    return hole


def as_image(pixels: UInt[np.ndarray, "c h w"]) -> Image.Image:
    """Pixels as a Pillow image: gray, colour, or gray of 16 bits."""
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def _half_or_more(source: Source, max_pixels: int) -> Bool[np.ndarray, "h w"]:
    if isinstance(source, np.ndarray | Tensor):
        values = np.squeeze(np.asarray(source))
        if values.ndim != 2:
            raise UserError(f"the mask has shape {np.asarray(source).shape}; give (height, width)")
        return np.asarray(values > values.dtype.type(127 if values.max() > 1 else 0))
    with _opened(source, max_pixels) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            return np.asarray(upright) > 32767
        layered = upright.convert("LA")
        black = Image.new("L", layered.size)
        return np.asarray(Image.composite(layered.convert("L"), black, layered.getchannel("A"))) > 127


@contextmanager
def _opened(source: str | Path | Image.Image, max_pixels: int) -> Iterator[Image.Image]:
    """The image, not yet decoded; what a decoder may say of a file meanwhile becomes a sentence."""
    name = "the image" if isinstance(source, Image.Image) else str(source)
    try:
        if isinstance(source, Image.Image):
            yield source
        else:
            with pixel_limit(max_pixels), open_limited(Path(source), name, max_pixels) as image:
                yield image
    except UserError:
        raise
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else error
        raise UserError(f"{name} cannot be read: {reason}; give an image file such as PNG or JPEG") from error


def _notes(image: Image.Image) -> tuple[str, ...]:
    """What is not as in the file."""
    notes = {
        f"its colours were turned from {image.mode} into RGB": image.mode in ("CMYK", "YCbCr", "LAB", "HSV"),
        "its transparent parts are white": image.has_transparency_data,
        "only its first frame is used": getattr(image, "n_frames", 1) > 1,
        "of the bits of its numbers the upper eight are used": _is_deep(image),
    }
    return tuple(note for note, holds in notes.items() if holds)


def _is_deep(image: Image.Image) -> bool:
    """Whether a file had more than eight bits for a channel, and Pillow or `flatten` keeps eight."""
    stored = [str(tile[3]) for tile in getattr(image, "tile", [])]  # such as RGB;16B
    return image.mode == "I" or (image.mode in ("RGB", "RGBA", "LA") and any(";16" in kind for kind in stored))


def _pixels_of_array(values: np.ndarray) -> UInt[np.ndarray, "c h w"]:
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[0] not in (1, 3) and values.shape[2] in (1, 3):
        values = values.transpose(2, 0, 1)
    if values.ndim != 3 or values.shape[0] not in (1, 3) or values.dtype != np.uint8:
        raise UserError(
            f"the image is {values.dtype} of shape {values.shape}; give uint8 pixels (height, width) or "
            "(height, width, 3)"
        )
    return np.ascontiguousarray(values)
