"""Boxes around holes: whatever the picture's size, all of the hole is painted and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.inpaint.regions import cut, find_regions, paste, resized

NATIVE = (16, 24)


def rectangle(size, *box):
    mask = np.zeros(size, bool)
    top, left, height, width = box
    mask[top : top + height, left : left + width] = True
    return mask


def noise(size, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (channels, *size), dtype=np.uint8)


@st.composite
def masks(draw):
    size = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    mask = np.zeros(size, bool)
    for _ in range(draw(st.integers(1, 4))):
        top, left = draw(st.integers(0, size[0] - 1)), draw(st.integers(0, size[1] - 1))
        mask |= rectangle(size, top, left, draw(st.integers(1, size[0])), draw(st.integers(1, size[1])))
    return mask


@settings(deadline=None, max_examples=60)
@given(masks(), st.sampled_from([(16, 24), (8, 8), (32, 8)]))
def test_regions_share_out_the_hole_and_paint_nothing_else(mask, native):
    regions = find_regions(mask, native)
    pixels = noise(mask.shape, channels=3)
    painted = pixels.copy()
    counted = np.zeros(mask.shape, int)
    for region in regions:
        image, hole = cut(pixels, mask, region, native)
        assert image.shape == (3, *native)
        assert image.abs().max() <= 1 + 1e-5
        assert hole.max() == 1
        aspect = region.size[0] / region.size[1] * native[1] / native[0]
        assert aspect == pytest.approx(1, abs=2 / min(region.size))
        rows, columns = np.nonzero(region.hole)
        counted[rows + region.top, columns + region.left] += 1
        paste(painted, torch.full((3, *native), 2.0), region)
    assert (counted == mask).all()
    assert (painted[:, ~mask] == pixels[:, ~mask]).all()
    assert (painted[:, mask] == 255).all()


def test_a_small_hole_is_painted_pixel_for_pixel():
    pixels, mask = noise((100, 90)), rectangle((100, 90), 50, 40, 8, 12)
    (region,) = find_regions(mask, NATIVE)
    assert region.box == (46, 34, 16, 24)
    image, hole = cut(pixels, mask, region, NATIVE)
    np.testing.assert_allclose((image + 1) * 127.5, pixels[:, 46:62, 34:58], atol=1e-3)
    assert torch.equal(hole[0] > 0, torch.from_numpy(mask[46:62, 34:58]))
    again = np.zeros_like(pixels)
    paste(again, image, region)
    np.testing.assert_array_equal(again, np.where(mask, pixels, 0))


def test_boxes_stay_in_the_picture_where_they_fit():
    corner = find_regions(rectangle((100, 90), 98, 0, 2, 3), NATIVE)[0]
    assert corner.box == (84, 0, 16, 24)


@pytest.mark.parametrize("hole", [(20, 20), (10, 30), (40, 6)])
def test_half_of_each_side_is_known_around_a_large_hole(hole):
    (region,) = find_regions(rectangle((300, 300), 100, 120, *hole), NATIVE)
    for length, side in zip(hole, region.size, strict=True):
        assert side >= 2 * length
    assert any(side <= 2 * length + 1 for length, side in zip(hole, region.size, strict=True))


def test_a_picture_smaller_than_the_network_is_enlarged_as_a_whole():
    mask = rectangle((14, 21), 4, 5, 6, 8)
    (region,) = find_regions(mask, NATIVE)
    assert region.box == (0, 0, 14, 21)
    _, hole = cut(noise((14, 21)), mask, region, NATIVE)
    assert hole.mean() >= mask.mean()


def test_beyond_a_narrow_picture_it_is_mirrored():
    pixels, mask = noise((10, 60)), rectangle((10, 60), 3, 10, 5, 24)
    (region,) = find_regions(mask, NATIVE)
    assert region.size == (16, 24)
    assert (region.top, region.left) == (-3, 10)
    image, hole = cut(pixels, mask, region, NATIVE)
    values = (image[0] + 1) * 127.5
    np.testing.assert_allclose(values[:3], pixels[0, [2, 1, 0], 10:34], atol=1e-3)
    np.testing.assert_allclose(values[13:], pixels[0, [9, 8, 7], 10:34], atol=1e-3)
    assert hole[0, 15].all()  # row 7, mirrored
    assert not hole[0, 13:15].any()


def test_no_pixel_of_a_hole_is_taken_for_known():
    """However much a region is shrunk: pixels that the network takes for known do not depend on those in the hole."""
    mask = rectangle((97, 131), 31, 40, 37, 41)
    mask[30, 20] = True
    pixels = noise((97, 131))
    other = np.where(mask, 255 - pixels, pixels)
    for region in find_regions(mask, NATIVE):
        (first, hole), (second, _) = cut(pixels, mask, region, NATIVE), cut(other, mask, region, NATIVE)
        torch.testing.assert_close(first * (1 - hole), second * (1 - hole), atol=1e-5, rtol=0)
        assert not torch.allclose(first, second)


def test_neighbouring_holes_are_done_together_and_distant_ones_apart():
    near = rectangle((200, 200), 50, 50, 4, 4) | rectangle((200, 200), 50, 58, 3, 3)
    assert len(find_regions(near, NATIVE)) == 1
    far = near | rectangle((200, 200), 150, 150, 2, 2)
    regions = find_regions(far, NATIVE)
    assert len(regions) == 2
    assert regions[0].hole.sum() == 16 + 9  # that of the largest hole comes first


def test_diagonal_pixels_are_one_hole():
    assert len(find_regions(np.eye(200, dtype=bool), NATIVE)) == 1


def test_gray_of_sixteen_bits_keeps_its_range():
    pixels = np.random.default_rng(0).integers(0, 65536, (1, 40, 40), dtype=np.uint16)
    mask = rectangle((40, 40), 10, 10, 8, 8)
    (region,) = find_regions(mask, NATIVE)
    image, _ = cut(pixels, mask, region, NATIVE)
    again = pixels.copy()
    paste(again, image, region)
    assert abs(again.astype(int) - pixels).max() <= 1


def test_resizing_is_antialiased():
    stripes = (torch.arange(60) % 2).float().expand(1, 40, 60)
    small = resized(stripes, (16, 24))
    assert (small[:, :, 2:-2] - 0.5).abs().max() < 0.15
    assert resized(stripes, (40, 60)) is stripes
