"""Pixels to PNG files and back, without loss."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from workbench.errors import UserError

Picture: TypeAlias = np.ndarray | Tensor


def is_picture(value: Any) -> bool:
    """Whether a row's value is an array of two or more axes."""
    return getattr(value, "ndim", 0) > 1


def to_pixels(image: Picture) -> UInt8[np.ndarray, "h w *channels"]:
    """An image as PNG encoders want it: uint8 (H, W) or (H, W, 3).

    `image`: uint8 or bool, (H, W), (1, H, W) or (3, H, W); truth values become 0 and 255. `UserError` for any
    other.
    """
    pixels = image.cpu().numpy() if isinstance(image, Tensor) else image
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    gray, colour = pixels.ndim == 2 or pixels.shape[:-2] == (1,), pixels.shape[:-2] == (3,)
    if pixels.dtype != np.uint8 or 0 in pixels.shape or not (gray or colour):
        raise UserError(
            f"An image is {pixels.dtype} of shape {tuple(pixels.shape)}: "
            "give uint8 pixels of shape (H, W), (1, H, W) or (3, H, W)."
        )
    return pixels.reshape(pixels.shape[-2:]) if gray else np.ascontiguousarray(pixels.transpose(1, 2, 0))


def write_png(path: Path, pixels: UInt8[np.ndarray, "h w *channels"]) -> str:
    """Write a PNG file and return the SHA-256 of its bytes."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    path.write_bytes(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def open_image(folder: str | Path, file_name: str, split: str = "train") -> Image.Image:
    """A picture of a data set in folder form by the name that its row gives, decoded."""
    with Image.open(Path(folder) / split / file_name) as image:
        image.load()
        return image
