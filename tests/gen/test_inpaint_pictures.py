"""Pictures and masks of all the kinds that people have."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from gen.inpaint.pictures import as_image, read_mask, read_picture
from workbench.errors import UserError

SIZE = (12, 20)
COLOURS = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
GRAYS = COLOURS[..., 0]


def saved(image, path, **options):
    image.save(path, **options)
    return path


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_plain_pictures_keep_every_pixel(tmp_path):
    colour = read_picture(saved(Image.fromarray(COLOURS), tmp_path / "a.png"))
    np.testing.assert_array_equal(colour.pixels, COLOURS.transpose(2, 0, 1))
    gray = read_picture(saved(Image.fromarray(GRAYS), tmp_path / "b.png"))
    np.testing.assert_array_equal(gray.pixels, GRAYS[None])
    assert colour.notes == gray.notes == ()
    assert gray.size == SIZE


@pytest.mark.parametrize("given", [COLOURS, COLOURS.transpose(2, 0, 1), torch.from_numpy(COLOURS)], ids=type)
def test_arrays_may_be_in_either_order(given):
    np.testing.assert_array_equal(read_picture(given).pixels, COLOURS.transpose(2, 0, 1))


@pytest.mark.parametrize("given", [COLOURS / 255.0, COLOURS[..., :2], np.zeros((3, 4, 5, 6), np.uint8)])
def test_other_arrays_are_refused(given):
    with pytest.raises(UserError, match="give uint8 pixels"):
        read_picture(given)


def test_a_turned_photograph_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.png", exif=exif)
    assert read_picture(path).size == SIZE[::-1]
    np.testing.assert_array_equal(read_picture(path).pixels, np.rot90(COLOURS, -1).transpose(2, 0, 1))


def test_transparent_parts_are_white_and_it_is_said():
    layered = np.dstack([COLOURS, np.full(SIZE, 255, np.uint8)])
    layered[0, 0, 3] = 0
    picture = read_picture(Image.fromarray(layered))
    assert picture.pixels[:, 0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(picture.pixels[:, 1:], COLOURS.transpose(2, 0, 1)[:, 1:])
    assert picture.notes == ("its transparent parts are white",)


def test_gray_of_sixteen_bits_keeps_them(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, SIZE, dtype=np.uint16)
    picture = read_picture(saved(Image.fromarray(deep), tmp_path / "a.png"))
    np.testing.assert_array_equal(picture.pixels[0], deep)
    path = saved(as_image(picture.pixels), tmp_path / "b.png")
    np.testing.assert_array_equal(read_picture(path).pixels, picture.pixels)
    assert picture.notes == ()


def png_of_deep_colour():
    """Pillow cannot write sixteen bits a channel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + (COLOURS[y].astype(">u2") * 257).tobytes() for y in range(SIZE[0]))
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_what_is_lost_is_said(tmp_path):
    (tmp_path / "deep.png").write_bytes(png_of_deep_colour())
    deep = read_picture(tmp_path / "deep.png")
    np.testing.assert_array_equal(deep.pixels, COLOURS.transpose(2, 0, 1))
    assert "upper eight" in deep.notes[0]
    printed = read_picture(saved(Image.fromarray(COLOURS).convert("CMYK"), tmp_path / "a.tiff"))
    np.testing.assert_allclose(printed.pixels.astype(int), COLOURS.transpose(2, 0, 1), atol=1)
    assert "from CMYK into RGB" in printed.notes[0]
    frames = [Image.fromarray(GRAYS), Image.fromarray(255 - GRAYS)]
    film = read_picture(saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:]))
    assert "first frame" in " ".join(film.notes)


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "YCbCr", "I"])
def test_other_modes_are_understood(mode):
    picture = read_picture(Image.fromarray(COLOURS).convert(mode))
    assert picture.size == SIZE
    assert picture.pixels.dtype == np.uint8


def test_what_is_no_picture_is_a_sentence(tmp_path):
    (tmp_path / "notes.png").write_text("no picture")
    cut_short = io.BytesIO()
    Image.fromarray(COLOURS).save(cut_short, "png")
    (tmp_path / "short.png").write_bytes(cut_short.getvalue()[:200])
    for name in ("notes.png", "short.png", "nowhere.png"):
        with pytest.raises(UserError, match=rf"{name} cannot be read: .*; give an image file"):
            read_picture(tmp_path / name)
    with pytest.raises(UserError, match="floating-point"):
        read_picture(Image.fromarray(GRAYS).convert("F"))


def test_large_files_are_refused(tmp_path):
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.png")
    with pytest.raises(UserError, match="20 x 12 pixels, more than the 239 allowed"):
        read_picture(path, max_pixels=239)
    assert read_picture(path, max_pixels=240).size == SIZE


# ---- masks -----------------------------------------------------------------------------------------------------------

HOLE = np.zeros(SIZE, bool)
HOLE[2:5, 3:11] = True
WHITE = HOLE.astype(np.uint8) * 255


@pytest.mark.parametrize(
    "given",
    [
        HOLE, HOLE.astype(np.uint8), WHITE, HOLE.astype(np.float32), torch.from_numpy(HOLE), HOLE[None],
        WHITE[..., None],
        Image.fromarray(WHITE), Image.fromarray(HOLE), Image.fromarray(WHITE).convert("RGB"),
        Image.fromarray(WHITE.astype(np.uint16) * 257),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'dtype', getattr(value, 'mode', ''))}",
)  # fmt: skip
def test_white_or_one_is_the_hole(given):
    np.testing.assert_array_equal(read_mask(given, SIZE), HOLE)


def test_black_may_be_the_hole():
    np.testing.assert_array_equal(read_mask(255 - WHITE, SIZE, invert=True), HOLE)


def test_strokes_on_a_transparent_ground_are_the_hole():
    layered = np.dstack([np.full((*SIZE, 3), 255, np.uint8), WHITE])
    np.testing.assert_array_equal(read_mask(Image.fromarray(layered), SIZE), HOLE)


def test_soft_masks_are_cut_at_half(tmp_path):
    soft = np.where(HOLE, 200, 60).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(saved(Image.fromarray(soft), tmp_path / "a.png"), SIZE), HOLE)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (WHITE[:, :-1], "the mask is 12x19 pixels .*, the image 12x20"),
        (WHITE * 0, "no hole: make white what is to be filled"),
        (WHITE * 0 + 255, "covers the whole image"),
        (np.zeros((3, *SIZE)), "the mask has shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        read_mask(given, SIZE)


def test_a_turned_mask_fits_its_photograph(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Image.fromarray(WHITE), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_mask(path, SIZE[::-1]), np.rot90(HOLE, -1))
