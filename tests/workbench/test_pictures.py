"""Resizing, grids and PNG files, with heights that differ from widths."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from workbench.errors import UserError
from workbench.pictures import encode_png, image_grid, resize_images
from workbench.seeds import generator


def noise(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (channels, height, width), generator=generator(seed), dtype=torch.uint8)


def test_a_grid_shows_every_pixel_at_its_place() -> None:
    images = torch.stack([noise(3, 5, 4, seed) for seed in range(7)])
    grid = image_grid(images, columns=3, padding=1, background=9)
    assert grid.shape == (3, 3 * 6 + 1, 3 * 5 + 1)
    for index, image in enumerate(images):
        top, left = 1 + index // 3 * 6, 1 + index % 3 * 5
        assert torch.equal(grid[:, top : top + 5, left : left + 4], image)
        grid[:, top : top + 5, left : left + 4] = 9
    assert (grid == 9).all()


def test_gray_and_colour_and_several_sizes_share_a_grid() -> None:
    gray, colour = noise(1, 3, 8), noise(3, 7, 2)
    grid = image_grid([gray, colour], padding=2)
    assert grid.shape == (3, 7 + 4, 2 * 8 + 6)
    assert torch.equal(grid[:, 4:7, 2:10], gray.expand(3, -1, -1))
    assert torch.equal(grid[:, 2:9, 15:17], colour)


def test_grids_are_ten_wide_unless_told() -> None:
    images = torch.zeros(23, 1, 2, 3, dtype=torch.uint8)
    assert image_grid(images, padding=0).shape == (3, 3 * 2, 10 * 3)
    assert image_grid(images[:4], columns=50, padding=0).shape == (3, 2, 4 * 3)


def test_impossible_grids_are_refused() -> None:
    with pytest.raises(UserError, match="at least one image"):
        image_grid([])
    with pytest.raises(UserError, match="4 channels"):
        image_grid([noise(4, 2, 2)])


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_lossless(channels: int) -> None:
    image = noise(channels, 6, 9)
    with Image.open(io.BytesIO(encode_png(image))) as picture:
        assert picture.mode == ("L" if channels == 1 else "RGB")
        pixels = torch.from_numpy(np.array(picture))
    assert torch.equal(pixels, image[0] if channels == 1 else image.permute(1, 2, 0))


def test_resizing_averages_and_leaves_the_right_size_alone() -> None:
    stripes = torch.tensor([0, 200], dtype=torch.uint8).repeat(8).expand(1, 1, 32, 16)
    small = resize_images(stripes, (8, 4))
    assert small.shape == (1, 1, 8, 4)
    assert (small.int() - 100).abs().max() <= 10  # a nearest neighbour would give 0 or 200
    assert resize_images(stripes, (32, 16)) is stripes
    both = resize_images([stripes[0], noise(1, 5, 5)], (8, 4))
    assert torch.equal(both[0], small[0])
