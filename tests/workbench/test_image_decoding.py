"""From files to pixels: orientation, transparency, bit depth, colour, crop and resize, damaged and huge files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from workbench.datasets import LabelledImages, load_images
from workbench.errors import UserError
from workbench.image_files import PixelForm, centre_crop, decode_image, resize_images, without_enlarging


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A picture with structure at many scales, as photographs have."""
    row, column = np.mgrid[0:height, 0:width]
    waves = [np.sin(row / (5 + 7 * c)) * np.cos(column / (9 - 2 * c)) for c in range(channels)]
    pixels = np.round(127 + 120 * np.stack(waves, -1)).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def decoded(tmp_path: Path, image: Image.Image, kind: str = "png", **options: Any) -> np.ndarray:
    """One image through a file: (C, H, W)."""
    image.save(tmp_path / f"x.{kind}", **options)
    return load_images(tmp_path).images[0].numpy()


def stack(images: LabelledImages) -> Tensor:
    assert isinstance(images.images, Tensor)
    return images.images


# ------------------------------------------------------------------------------------------------ kinds of file


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 255  # top left is white
    upright[8:, 24:] = 128
    turned_back = {  # what a camera stores, by the EXIF definition of the tag
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned_back)).save(tmp_path / f"x.{kind}", exif=exif, quality=100)
    native = stack(load_images(tmp_path))[0, 0]
    assert native.shape == (16, 32)
    assert np.abs(native.numpy().astype(int) - upright).max() <= 8
    small = stack(load_images(tmp_path, resolution=(2, 4)))[0, 0]
    assert small[0, 0] > 200
    assert 100 < small[1, 3] < 160
    assert stack(load_images(tmp_path, resolution=(64, 128), upscale=False)).shape[2:] == (16, 32)


def test_transparency_is_white(tmp_path: Path) -> None:
    colour = np.zeros((4, 6, 4), np.uint8)
    colour[..., 0] = 200
    colour[:, 2:4, 3] = 255
    colour[:, 4:, 3] = 128
    pixels = decoded(tmp_path, Image.fromarray(colour))
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 0, 2].tolist() == [200, 0, 0]
    assert np.abs(pixels[:, 0, 5] - np.array([227, 127, 127])).max() <= 1


def test_transparent_gray_stays_gray(tmp_path: Path) -> None:
    gray = np.dstack([np.full((4, 6), 50, np.uint8), np.repeat([[0, 0, 0, 255, 255, 255]], 4, 0).astype(np.uint8)])
    pixels = decoded(tmp_path, Image.fromarray(gray, "LA"))
    assert pixels.shape == (1, 4, 6)
    assert pixels[0, 0].tolist() == [255, 255, 255, 50, 50, 50]


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]] * 2, np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    pixels = decoded(tmp_path, image, transparency=1)
    assert pixels[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


def test_sixteen_bits_span_the_full_range(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257, 65535], [128, 129, 40000, 65406]], np.uint16)
    pixels = decoded(tmp_path, Image.fromarray(values))
    assert pixels.tolist() == [np.round(values / 257).astype(int).tolist()]


def test_sixteen_bit_pgm(tmp_path: Path) -> None:
    values = np.array([[0, 30000, 65535]], ">u2")
    (tmp_path / "x.PGM").write_bytes(b"P5 3 1 65535\n" + values.tobytes())
    assert stack(load_images(tmp_path))[0, 0, 0].tolist() == [0, 117, 255]


def test_cmyk(tmp_path: Path) -> None:
    cmyk = np.zeros((16, 24, 4), np.uint8)
    cmyk[..., 0] = 255  # cyan ink absorbs red
    pixels = decoded(tmp_path, Image.fromarray(cmyk, "CMYK"), "jpg", quality=100)
    assert np.abs(pixels[:, 8, 8] - np.array([0, 255, 255])).max() <= 4


def test_two_level_and_animated(tmp_path: Path) -> None:
    assert decoded(tmp_path, Image.fromarray(np.eye(3, dtype=bool)))[0].tolist() == (np.eye(3) * 255).tolist()
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    (tmp_path / "x.png").unlink()
    pixels = decoded(tmp_path, frames[0], "gif", save_all=True, append_images=frames[1:])
    assert pixels[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_formats_give_back_their_pixels(tmp_path: Path, kind: str) -> None:
    pixels = smooth(7, 11)
    options = {"lossless": True} if kind == "webp" else {}
    assert np.array_equal(decoded(tmp_path, Image.fromarray(pixels), kind, **options), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("colour_at", [0, 40, 79])
def test_one_colour_image_makes_the_set_colour(tmp_path: Path, colour_at: int) -> None:
    gray, colour = smooth(5, 9, 1), smooth(5, 9)
    for i in range(80):
        Image.fromarray(colour if i == colour_at else gray).save(tmp_path / f"{i}.png")
    images = load_images(tmp_path)
    assert stack(images).shape == (80, 3, 5, 9)
    assert images.channels == 3
    for i in (0, 1, 41, 78, 79):
        expected = colour.transpose(2, 0, 1) if i == colour_at else np.stack([gray] * 3)
        assert np.array_equal(images.images[i].numpy(), expected)
    assert load_images(tmp_path, channels=1).channels == 1


def test_channels_can_be_forced(tmp_path: Path) -> None:
    Image.fromarray(smooth(5, 9, 1)).save(tmp_path / "x.png")
    assert load_images(tmp_path).channels == 1
    assert stack(load_images(tmp_path, channels=3)).shape == (1, 3, 5, 9)


# ------------------------------------------------------------------------------------------------ sizes


def test_different_sizes_are_a_list(tmp_path: Path) -> None:
    shapes = [(5, 9), (5, 9), (9, 5), (1, 1)]
    pictures = [smooth(*shape, 1) for shape in shapes]
    pictures[3] = smooth(1, 1, 3)
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    images = load_images(tmp_path)
    assert isinstance(images.images, list)
    assert [tuple(image.shape) for image in images.images] == [(3, 5, 9), (3, 5, 9), (3, 9, 5), (3, 1, 1)]
    assert np.array_equal(images.images[2][1].numpy(), pictures[2])
    assert stack(load_images(tmp_path, resolution=(4, 6))).shape == (4, 3, 4, 6)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (300, 40), (13, 17)])
@pytest.mark.parametrize("resolution", [(16, 16), (12, 20), (40, 24)])
def test_crop_and_resize_equal_torchvision(
    tmp_path: Path, height: int, width: int, resolution: tuple[int, int]
) -> None:
    pixels = smooth(height, width)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    ours = stack(load_images(tmp_path, resolution=resolution))
    scale = min(height / resolution[0], width / resolution[1])
    crop = [round(resolution[0] * scale), round(resolution[1] * scale)]
    corner = [(height - crop[0]) // 2, (width - crop[1]) // 2]
    whole = torch.from_numpy(pixels).permute(2, 0, 1).float()
    expected = reference.resized_crop(
        whole, *corner, *crop, size=list(resolution), interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    assert (ours[0].float() - expected.clamp(0, 255)).abs().max() < 1.5


def test_resizing_does_not_alias(tmp_path: Path) -> None:
    checks = (np.indices((64, 96)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "x.png")
    small = stack(load_images(tmp_path, resolution=(16, 24))).int()
    assert (small - 127).abs().max() <= 2


def test_large_photograph_equals_its_full_decode(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth(90, 140)).resize((1400, 900)).save(buffer, "JPEG", quality=95)
    form = PixelForm(size=(40, 70))
    with Image.open(buffer) as image:
        full = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]
    expected = resize_images(full, (40, 70))[0].int()
    ours = torch.from_numpy(decode_image(buffer.getvalue(), "x", form).copy()).int()
    assert (ours - expected).abs().float().mean() < 1.5


def test_photograph_on_its_side_is_decoded_small_and_upright() -> None:
    upright = np.asarray(Image.fromarray(smooth(120, 80)).resize((800, 1200)))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(upright, 1))).save(buffer, "JPEG", quality=95, exif=exif)
    ours = decode_image(buffer.getvalue(), "x", PixelForm(size=(60, 20))).astype(int)
    plain = io.BytesIO()
    Image.fromarray(upright).save(plain, "PNG")
    expected = decode_image(plain.getvalue(), "x", PixelForm(size=(60, 20))).astype(int)
    assert ours.shape == (3, 60, 20)
    assert np.abs(ours - expected).mean() < 2


def test_upscale_false_stops_at_the_largest_source(tmp_path: Path) -> None:
    for i, shape in enumerate([(10, 40), (24, 20), (8, 8)]):
        Image.fromarray(smooth(*shape)).save(tmp_path / f"{i}.png")
    assert stack(load_images(tmp_path, resolution=32)).shape == (3, 3, 32, 32)
    assert stack(load_images(tmp_path, resolution=32, upscale=False)).shape == (3, 3, 20, 20)
    assert stack(load_images(tmp_path, resolution=16, upscale=False)).shape == (3, 3, 16, 16)
    assert stack(load_images(tmp_path, resolution=(64, 32), upscale=False)).shape == (3, 3, 24, 12)


sides = st.integers(1, 400)


@given(sides, sides, st.tuples(sides, sides))
@settings(max_examples=200, deadline=None)
def test_centre_crop_is_the_largest_centred_box_of_the_aspect(height: int, width: int, size: tuple[int, int]) -> None:
    top, left, crop_height, crop_width = centre_crop(height, width, size)
    assert 0 <= top <= height - crop_height - top <= top + 1
    assert 0 <= left <= width - crop_width - left <= left + 1
    assert crop_height == height or crop_width == width
    assert abs(crop_height * size[1] - crop_width * size[0]) <= max(size)
    assert without_enlarging((crop_height, crop_width), [(height, width)]) == (crop_height, crop_width)


# ------------------------------------------------------------------------------------------------ bad files


def with_damaged(tmp_path: Path, good: int, bad: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(smooth(30, 40)).save(buffer, "PNG")
    for i in range(good):
        (tmp_path / f"{i:03}.png").write_bytes(buffer.getvalue())
    for i in range(bad):
        damaged = b"no image" if i == 0 else buffer.getvalue()[: -300 * i]
        (tmp_path / f"{i:03}-bad.png").write_bytes(damaged)


def test_a_few_damaged_files_are_named_and_left_out(tmp_path: Path) -> None:
    with_damaged(tmp_path, good=198, bad=2)
    for options in ({}, {"resolution": (8, 6)}, {"resolution": 100, "upscale": False}):
        images = load_images(tmp_path, **options)
        assert images.skipped == ("000-bad.png", "001-bad.png")
        assert images.file_names == tuple(f"{i:03}.png" for i in range(198))
        assert len(images) == len(images.images) == 198
        assert "2 unreadable images are left out: 000-bad.png (not an image); 001-bad.png" in images.notes[0]


def test_labels_stay_with_their_images_past_a_damaged_file(tmp_path: Path) -> None:
    for i in range(120):
        (tmp_path / f"c{i % 4}").mkdir(exist_ok=True)
        Image.fromarray(np.full((3, 5), 60 * (i % 4), np.uint8)).save(tmp_path / f"c{i % 4}" / f"{i}.png")
    (tmp_path / "c1" / "1.png").write_bytes(b"")
    images = load_images(tmp_path)
    assert stack(images)[:, 0, 0, 0].tolist() == (60 * images.labels).tolist()
    assert len(images) == 119


def test_more_than_one_in_a_hundred_damaged_is_an_error(tmp_path: Path) -> None:
    with_damaged(tmp_path, good=195, bad=4)
    with pytest.raises(UserError, match=r"4 of 199 images cannot be read, more than 1%: 000-bad.png \(not an image\)"):
        load_images(tmp_path)


def test_decompression_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UserError, match=r"bomb.png has .* more than the 64,000,000 allowed: .*max_pixels"):
        load_images(tmp_path, resolution=8)
    assert before == Image.MAX_IMAGE_PIXELS


def test_pixel_limit_is_an_option(tmp_path: Path) -> None:
    Image.fromarray(smooth(10, 20)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png has 20 x 10 pixels, more than the 199 allowed"):
        load_images(tmp_path, max_pixels=199)
    assert len(load_images(tmp_path, max_pixels=200)) == 1


def test_limit_above_that_of_pillow(tmp_path: Path) -> None:
    Image.new("1", (20000, 10000)).save(tmp_path / "x.png")
    assert stack(load_images(tmp_path, resolution=(1, 2), max_pixels=200_000_000)).shape == (1, 1, 1, 2)
