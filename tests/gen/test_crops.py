import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from gen.crops import draw_boxes, flip_boxes, resize_and_crop

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
KEEP, FLIP = torch.tensor([False]), torch.tensor([True])
SIZES = [(5, 7), (18, 11), (40, 33), (12, 40)]  # of a 18 x 22 source: smaller, partly equal, larger, one of each
TOLERANCE = 1e-5


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise_images(count=1, channels=1, size=(18, 22)):
    return torch.randint(0, 256, (count, channels, *size), generator=seeded(), dtype=torch.uint8)


def by_pillow(images, box, size):
    """Pillow's resize of a part of each image, in floating point; `box` in fractions."""
    height, width = images.shape[-2:]
    top, left, tall, wide = (float(v) for v in box)
    region = (left * width, top * height, (left + wide) * width, (top + tall) * height)
    parts = [
        np.asarray(Image.fromarray(plane.float().numpy()).resize(size[::-1], Image.Resampling.BILINEAR, region))
        for plane in images.flatten(0, 1)
    ]
    return torch.from_numpy(np.stack(parts)).unflatten(0, images.shape[:2]) / 127.5 - 1


# ------------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_image_is_resized_as_torch_does(size):
    images = noise_images(2, 3)
    result = resize_and_crop(images, WHOLE.expand(2, 4), KEEP.expand(2), size)
    expected = F.interpolate(images / 127.5 - 1, size, mode="bilinear", antialias=True)
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("box", [(0.2, 0.1, 0.55, 0.8), (0.0, 0.4, 0.5, 0.6), (0.437, 0.0, 0.563, 0.21)])
def test_a_crop_is_resized_as_pillow_does(size, box):
    images = noise_images(2, 3)
    result = resize_and_crop(images, torch.tensor([box]).expand(2, 4), KEEP.expand(2), size)
    torch.testing.assert_close(result, by_pillow(images, box, size), atol=1e-4, rtol=0)


def test_the_same_size_leaves_the_pixels_alone():
    images = noise_images(2, 3)
    result = resize_and_crop(images, WHOLE.expand(2, 4), KEEP.expand(2), (18, 22))
    torch.testing.assert_close(result, images / 127.5 - 1, atol=1e-6, rtol=0)


def test_a_crop_on_whole_pixels_is_a_slice():
    images = noise_images()
    box = torch.tensor([[3 / 18, 4 / 22, 9 / 18, 11 / 22]])
    part = images[..., 3:12, 4:15] / 127.5 - 1
    same = resize_and_crop(images, box, KEEP, (9, 11))
    torch.testing.assert_close(same, part, atol=TOLERANCE, rtol=0)
    larger = resize_and_crop(images, box, KEEP, (27, 33))
    inside = (..., slice(2, -2), slice(2, -2))  # at its border a crop sees the pixels beyond, a slice does not
    torch.testing.assert_close(
        larger[inside], F.interpolate(part, (27, 33), mode="bilinear")[inside], atol=1e-5, rtol=0
    )


def test_each_image_has_its_own_crop_and_flip():
    images, boxes = noise_images(6), draw_boxes(6, 0.7, 3.0, seeded())
    flip = torch.tensor([True, False, False, True, True, False])
    together = resize_and_crop(images, boxes, flip, (8, 10))
    for k in range(6):
        alone = resize_and_crop(images[k : k + 1], boxes[k : k + 1], flip[k : k + 1], (8, 10))
        torch.testing.assert_close(together[k : k + 1], alone, atol=TOLERANCE, rtol=0)


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_values_stay_between_black_and_white(seed, height, width):
    images = noise_images(3, 1, (7, 9)).where(torch.rand(3, 1, 7, 9, generator=seeded(seed)) < 0.5, 255)
    result = resize_and_crop(images, draw_boxes(3, 0.9, 4.0, seeded(seed)), KEEP.expand(3), (height, width))
    assert result.shape == (3, 1, height, width)
    assert result.isfinite().all()
    assert result.abs().max() <= 1 + TOLERANCE


# ------------------------------------------------------------------------------------------- mirrors


@pytest.mark.parametrize("size", SIZES)
def test_a_flip_mirrors_the_crop(size):
    images, box = noise_images(1, 3), torch.tensor([[0.1, 0.3, 0.5, 0.6]])
    flipped = resize_and_crop(images, box, FLIP, size)
    torch.testing.assert_close(flipped, resize_and_crop(images, box, KEEP, size).flip(-1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_a_flipped_box_is_the_same_crop_of_the_mirrored_image(size):
    images, boxes = noise_images(8, 1), draw_boxes(8, 1.0, 2.5, seeded())
    flip = torch.arange(8) % 2 == 0
    mirrored = images.where(~flip[:, None, None, None], images.flip(-1))
    told = flip_boxes(boxes, flip)
    seen = resize_and_crop(images, boxes, flip, size)
    torch.testing.assert_close(seen, resize_and_crop(mirrored, told, torch.zeros_like(flip), size), atol=1e-4, rtol=0)


def test_boxes_are_mirrored_where_the_image_is():
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.5, 0.6]])
    flipped = flip_boxes(boxes, torch.tensor([True, True, False]))
    torch.testing.assert_close(
        flipped, torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.5, 0.6]])
    )
    boxes = torch.tensor([[0.1, 0.0, 0.5, 0.25]])
    torch.testing.assert_close(flip_boxes(boxes, FLIP), torch.tensor([[0.1, 0.75, 0.5, 0.25]]))


# ------------------------------------------------------------------------------------------- distribution


def test_without_crops_the_box_is_exactly_the_whole_image():
    assert torch.equal(draw_boxes(50, 0.0, 2.0, seeded()), WHOLE.expand(50, 4))
    assert torch.equal(draw_boxes(50, 1.0, 1.0, seeded()), WHOLE.expand(50, 4))


def test_the_asked_share_of_images_is_cropped():
    boxes = draw_boxes(5000, 0.3, 2.0, seeded())
    cropped = (boxes[:, 2] < 1).sum().item()
    assert stats.binomtest(cropped, 5000, 0.3).pvalue > 0.01
    assert torch.equal(boxes[boxes[:, 2] == 1], WHOLE.expand(5000 - cropped, 4))
    assert (draw_boxes(100, 1.0, 2.0, seeded())[:, 2] < 1).all()


def test_crops_lie_inside_and_have_the_documented_distribution():
    max_scale = 3.0
    top, left, height, width = draw_boxes(5000, 1.0, max_scale, seeded()).unbind(-1)
    assert torch.equal(height, width)
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6
    scale = -height.log() / np.log(max_scale)
    for uniform in (scale, top / (1 - height), left / (1 - width)):
        assert stats.kstest(uniform.numpy(), "uniform").pvalue > 0.01
    for first, second in ((scale, top / (1 - height)), (top / (1 - height), left / (1 - width))):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_the_seed_decides():
    assert torch.equal(draw_boxes(9, 0.5, 2.0, seeded(1)), draw_boxes(9, 0.5, 2.0, seeded(1)))
    assert not torch.equal(draw_boxes(9, 0.5, 2.0, seeded(1)), draw_boxes(9, 0.5, 2.0, seeded(2)))
