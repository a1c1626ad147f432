"""Images as people see them: resized, laid out in a grid, encoded as PNG."""

import io
from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

from workbench.errors import UserError

Images = UInt8[Tensor, "n c h w"] | Sequence[UInt8[Tensor, "_ _ _"]]


def resize_images(images: Images, size: tuple[int, int]) -> UInt8[Tensor, "n c height width"]:
    """All images at `size` (height, width) in pixels, bilinear with antialiasing; those of that size stay as they are.

    Images of several sizes may be given as a sequence of (C, H, W), all with the same number of channels.
    """
    if not isinstance(images, Tensor):
        return torch.stack([resize_images(image[None], size)[0] for image in images])
    if tuple(images.shape[-2:]) == size:
        return images
    resized = functional.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def as_colour(image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "3 h w"]:
    """A gray (1, H, W) or colour (3, H, W) image with three channels; any other number is a `UserError`."""
    if image.shape[0] not in (1, 3):
        raise UserError(f"An image has {image.shape[0]} channels; give gray (1) or colour (3), without transparency.")
    return image.expand(3, -1, -1)


def image_grid(
    images: Images, columns: int | None = None, padding: int = 2, background: int = 255
) -> UInt8[Tensor, "3 height width"]:
    """One picture of all images, row by row; gray and colour and several sizes may be mixed.

    Every cell is as large as the largest image, and smaller ones lie in its centre: no pixel is resampled. `columns`
    is at most 10 unless given, `padding` is in pixels, `background` in [0, 255]. Raises `UserError` without images.
    """
    if len(images) == 0:
        raise UserError("A grid of no images was asked for; give at least one image.")
    columns = min(len(images), columns or 10)
    rows = -(-len(images) // columns)
    cell_height, cell_width = (max(image.shape[axis] for image in images) + padding for axis in (1, 2))
    grid = torch.full((3, rows * cell_height + padding, columns * cell_width + padding), background, dtype=torch.uint8)
    for index, image in enumerate(images):
        height, width = image.shape[1:]
        top = padding + index // columns * cell_height + (cell_height - padding - height) // 2
        left = padding + index % columns * cell_width + (cell_width - padding - width) // 2
        grid[:, top : top + height, left : left + width] = as_colour(image)
    return grid


def encode_png(image: UInt8[Tensor, "c h w"]) -> bytes:
    """The bytes of a lossless PNG file: gray for one channel, RGB for three."""
    from PIL import Image

    pixels = image.cpu()[0] if image.shape[0] == 1 else as_colour(image).cpu().permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(file, "PNG", optimize=True)
    return file.getvalue()
