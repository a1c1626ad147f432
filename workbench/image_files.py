"""One encoded image to uint8 pixels: orientation, transparency, bit depth, centre crop, antialiased resize."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from workbench.errors import UserError

Encoded = bytes | Path
Size = tuple[int, int]  # height, width

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

_GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"})
_EXIF_ORIENTATION = 0x0112
_DRAFT_GAP = 2  # a JPEG is decoded at a fraction of its size only while it stays this many times the target
_RESIZE_BATCH = 4096


@dataclass(frozen=True)
class PixelForm:
    """What the pixels of a data set should be: None keeps each image's own size, or channels by its kind."""

    size: Size | None = None
    channels: int | None = None
    upscale: bool = True
    crop: bool = True  # False: squeeze the whole image into the size
    max_pixels: int = 64_000_000


# ------------------------------------------------------------------------------------------------ geometry


def centre_crop(height: int, width: int, size: Size) -> tuple[int, int, int, int]:
    """Largest centred box (top, left, height, width) of the aspect of `size` inside an image."""
    scale = min(height / size[0], width / size[1])
    crop_height = min(height, max(1, round(size[0] * scale)))
    crop_width = min(width, max(1, round(size[1] * scale)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def source_box(height: int, width: int, size: Size, crop: bool) -> tuple[int, int, int, int]:
    """What of an image becomes `size`: its largest centred box of that aspect, or without `crop` all of it."""
    return centre_crop(height, width, size) if crop else (0, 0, height, width)


def without_enlarging(size: Size, source_sizes: Iterable[Size]) -> Size:
    """`size`, made smaller at the same aspect where no source's centre crop reaches it."""
    largest = max((min(h / size[0], w / size[1]) for h, w in source_sizes), default=1.0)
    shrink = min(1.0, largest)
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def resize_images(images: UInt8[Tensor, "n c h w"], size: Size, crop: bool = True) -> UInt8[Tensor, "n c new_h new_w"]:
    """Centre-crop to the aspect of `size` and resize by antialiased bicubic, as Pillow does, in batches."""
    top, left, height, width = source_box(images.shape[2], images.shape[3], size, crop)
    cropped = images[:, :, top : top + height, left : left + width]
    if (height, width) == size:
        return cropped.contiguous()
    resized = images.new_empty(*images.shape[:2], *size)
    for part, source in zip(resized.split(_RESIZE_BATCH), cropped.split(_RESIZE_BATCH), strict=True):
        part.copy_(F.interpolate(source, size, mode="bicubic", antialias=True))
    return resized


# ------------------------------------------------------------------------------------------------ one image


def decode_image(encoded: Encoded, name: str, form: PixelForm) -> UInt8[np.ndarray, "c h w"]:
    """Upright pixels of one image on white: 1 channel for a gray file, 3 for others, unless the form says.

    16-bit gray is scaled by its full range; of an animation the first frame is taken.
    Raises UserError above `max_pixels`, and whatever the decoder raises for a damaged file.
    """
    with open_limited(encoded, name, form.max_pixels) as image:
        if form.size is not None:
            _decode_smaller(image, form.size, form.crop)
        ImageOps.exif_transpose(image, in_place=True)
        flat = flatten(image)
        if form.channels is not None:
            flat = flat.convert("L" if form.channels == 1 else "RGB")
        if form.size is not None:
            flat = _crop_resize(flat, form.size, form.crop)
        pixels = np.asarray(flat)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def upright_size(encoded: Encoded, name: str, max_pixels: int) -> Size:
    """Height and width of an image as it is shown, read from its header."""
    with open_limited(encoded, name, max_pixels) as image:
        width, height = image.size
        return (width, height) if _lies_on_its_side(image) else (height, width)


def open_limited(encoded: Encoded, name: str, max_pixels: int) -> Image.Image:
    """An image file, not yet decoded. Raises UserError above `max_pixels`, or where it may not be read."""
    try:
        image = Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
    except Image.DecompressionBombError as error:
        raise UserError(_too_large(name, "far more", max_pixels)) from error
    except PermissionError as error:
        raise UserError(f"{name} may not be read by this user: change its permissions and try again.") from error
    if image.width * image.height > max_pixels:
        pixels = f"{image.width} x {image.height}"
        image.close()
        raise UserError(_too_large(name, pixels, max_pixels))
    return image


def _too_large(name: str, pixels: str, max_pixels: int) -> str:
    return (
        f"{name} has {pixels} pixels, more than the {max_pixels:,} allowed: "
        "remove it, or allow more (--max-image-pixels, max_pixels in Python) if you trust the file."
    )


def _lies_on_its_side(image: Image.Image) -> bool:
    return image.getexif().get(_EXIF_ORIENTATION, 1) >= 5


def _decode_smaller(image: Image.Image, size: Size, crop: bool) -> None:
    """Let a large JPEG be decoded at 1/2, 1/4 or 1/8: many times faster for photographs."""
    if image.format not in ("JPEG", "MPO"):
        return
    height, width = size[::-1] if _lies_on_its_side(image) else size
    _, _, crop_height, crop_width = source_box(image.height, image.width, (height, width), crop)
    wanted_width = _DRAFT_GAP * width * image.width / crop_width
    wanted_height = _DRAFT_GAP * height * image.height / crop_height
    if wanted_width <= image.width and wanted_height <= image.height:
        image.draft(None, (int(np.ceil(wanted_width)), int(np.ceil(wanted_height))))


def flatten(image: Image.Image) -> Image.Image:
    """Any Pillow mode as "L" or "RGB", on white where transparent."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        full_range = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((full_range + 128) // 257).astype(np.uint8))
    flat_mode = "L" if image.mode in _GRAY_MODES else "RGB"
    if not image.has_transparency_data:
        return image.convert(flat_mode)
    layered = image.convert("LA" if flat_mode == "L" else "RGBA")
    white = Image.new(flat_mode, image.size, "white")
    return Image.composite(layered.convert(flat_mode), white, layered.getchannel("A"))


def _crop_resize(image: Image.Image, size: Size, crop: bool) -> Image.Image:
    top, left, height, width = source_box(image.height, image.width, size, crop)
    cropped = image.crop((left, top, left + width, top + height))  # `resize(box=)` would look beyond the box
    return cropped.resize((size[1], size[0]), Image.Resampling.BICUBIC, reducing_gap=3.0)
