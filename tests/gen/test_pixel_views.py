import cmath
import colorsys
import math

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gen.pixel.views import (
    IMAGENET,
    VIEWS,
    ViewSettings,
    blur,
    colour_map,
    draw_boxes,
    draw_view,
    jitter,
    make_view,
    view_settings,
)

SIZE = (10, 14)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(count=3, channels=3, size=SIZE):
    return torch.rand(count, channels, *size, generator=seeded())


def draws_of(count, **changes):
    """Those of views that are their images."""
    still = {
        "box": torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(count, 4), "flip": torch.zeros(count, dtype=torch.bool),
        "brightness": torch.ones(count), "contrast": torch.ones(count), "saturation": torch.ones(count),
        "hue": torch.zeros(count), "blur": torch.zeros(count), "solarize": torch.zeros(count, dtype=torch.bool),
    }  # fmt: skip
    return still | {name: torch.tensor(value) for name, value in changes.items()}


# ------------------------------------------------------------------------------------------- colours


def test_colours_are_those_of_torchvision():
    """One after the other: it cuts to [0, 1] after each, so with pixels that stay inside."""
    images, factors = 0.3 + 0.3 * pixels(), [0.7, 1.1, 1.25]
    for name in ("brightness", "contrast", "saturation"):
        expected = [
            getattr(reference, f"adjust_{name}")(image, factor) for image, factor in zip(images, factors, strict=True)
        ]
        made = jitter(images, draws_of(3, **{name: factors}))
        torch.testing.assert_close(made, torch.stack(expected), atol=1e-3, rtol=0)  # its luma has three digits


def test_gray_images_change_like_gray_colour_images():
    gray = pixels(channels=1)
    draws = draws_of(3, brightness=[0.7, 1.1, 1.3], contrast=[0.8, 1.0, 1.2], saturation=[0.0, 1.0, 2.0])
    made = jitter(gray.expand(-1, 3, -1, -1), draws)
    torch.testing.assert_close(made, jitter(gray, draws).expand(-1, 3, -1, -1), atol=1e-4, rtol=0)


def test_no_saturation_is_gray():
    images = 0.2 + 0.6 * pixels()
    made = jitter(images, draws_of(3, saturation=[0.0] * 3, hue=[0.1] * 3))
    expected = torch.stack([reference.rgb_to_grayscale(image, 3) for image in images])
    torch.testing.assert_close(made, expected, atol=1e-3, rtol=0)


@given(st.floats(-0.5, 0.5), st.floats(0, 2))
def test_the_map_of_colours_keeps_grays_and_luma(hue, saturation):
    colours = colour_map(torch.tensor([saturation]), torch.tensor([hue]))[0]
    torch.testing.assert_close(colours @ torch.ones(3), torch.ones(3), atol=2e-3, rtol=0)
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(luma @ colours, luma, atol=1e-4, rtol=0)


@given(st.floats(-0.4, 0.4), st.floats(0.2, 2))
def test_hue_and_saturation_turn_and_scale_the_yiq_plane(hue, saturation):
    """As the standard library sees that plane; its coefficients have two digits."""
    colour = torch.tensor([0.7, 0.4, 0.3])
    changed = colour_map(torch.tensor([saturation]), torch.tensor([hue]))[0] @ colour
    before, after = (complex(*colorsys.rgb_to_yiq(*rgb.tolist())[1:]) for rgb in (colour, changed))
    assert abs(after / before) == pytest.approx(saturation, rel=0.05)
    assert cmath.phase(after / before) == pytest.approx(2 * math.pi * hue, abs=0.06)


# ------------------------------------------------------------------------------------------- blur


def test_blur_is_that_of_torchvision_inside():
    images, sigma = pixels(2, size=(15, 21)), torch.tensor([0.5, 0.8])
    made = blur(images, sigma)
    for image, mine, width in zip(images, made, sigma.tolist(), strict=True):
        expected = reference.gaussian_blur(image, [11, 11], [width, width])
        torch.testing.assert_close(mine[:, 5:-5, 5:-5], expected[:, 5:-5, 5:-5], atol=1e-4, rtol=0)


def test_no_blur_changes_nothing_and_a_flat_image_stays():
    images = pixels()
    torch.testing.assert_close(blur(images, torch.zeros(3)), images)
    flat = torch.full((2, 1, *SIZE), 0.3)
    torch.testing.assert_close(blur(flat, torch.tensor([0.1, 2.0])), flat)


# ------------------------------------------------------------------------------------------- boxes


@settings(max_examples=50)
@given(st.floats(0.05, 1), st.lists(st.floats(0, 0.999), min_size=4, max_size=4))
def test_boxes_lie_inside(smallest, numbers):
    top, left, height, width = draw_boxes(smallest, *torch.tensor(numbers)[:, None])[0].tolist()
    assert 0 <= top <= top + height <= 1 + 1e-6
    assert 0 <= left <= left + width <= 1 + 1e-6
    assert smallest * 0.75 - 1e-6 <= height * width
    assert 9 / 16 - 1e-5 <= height / width <= 16 / 9 + 1e-5


def test_boxes_have_the_documented_distributions():
    drawn = draw_view(20_000, IMAGENET, True, seeded())["box"]
    area = drawn[:, 2] * drawn[:, 3]
    inside = (drawn[:, 2:] < 1).all(-1) & (area < 0.5)  # no side was cut
    uniform = (area[inside] - 0.08) / 0.42
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    ratio = (drawn[inside, 3] / drawn[inside, 2]).log() / math.log(4 / 3)
    assert stats.kstest(((ratio + 1) / 2).numpy(), "uniform").pvalue > 1e-3


# ------------------------------------------------------------------------------------------- views


def test_a_still_view_is_its_image():
    images = torch.randint(0, 256, (2, 3, *SIZE), generator=seeded(), dtype=torch.uint8)
    made = make_view(images, draws_of(2, flip=[False, True]), VIEWS["imagenet"][1], SIZE)
    expected = images / 255
    expected[1] = expected[1].flip(-1)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_solarised_views_are_inverted_where_bright():
    images = torch.tensor([[[[0, 100, 128, 255]]]], dtype=torch.uint8)
    made = make_view(images, draws_of(1, solarize=[True]), VIEWS["imagenet"][1], (1, 4))
    torch.testing.assert_close(made.flatten(), torch.tensor([0, 100 / 255, 127 / 255, 0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_pixels_of_the_size_asked_for(name, channels):
    images = torch.randint(0, 256, (5, channels, *SIZE), generator=seeded(), dtype=torch.uint8)
    for settings_of in VIEWS[name]:
        made = make_view(images, draw_view(5, settings_of, True, seeded(1)), settings_of, (6, 9))
        assert made.shape == (5, channels, 6, 9)
        assert 0 <= made.min() < made.max() <= 1


def test_draws_follow_their_generator_and_their_probabilities():
    first, again = (draw_view(4000, VIEWS["imagenet"][1], True, seeded(3)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    shares = {
        0.5: first["flip"], 0.8: first["brightness"] != 1, 0.2: first["saturation"] == 0, 0.1: first["blur"] > 0
    }  # fmt: skip
    for share, happened in shares.items():
        assert stats.binomtest(int(happened.sum()), 4000, share).pvalue > 1e-3
    assert (first["hue"].abs() <= 0.1).all()
    assert first["brightness"].min() >= 0.6
    assert first["brightness"].max() <= 1.4
    assert not draw_view(50, ViewSettings(), False, seeded())["flip"].any()


def test_automatic_views_follow_the_images():
    gray, small, large = ((1, 28, 28), (3, 32, 48), (3, 64, 128))
    assert [view_settings("auto", shape) for shape in (gray, small, large)] == list(VIEWS.values())
    assert view_settings("imagenet", gray) == VIEWS["imagenet"]
