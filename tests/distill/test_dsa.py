"""Differentiable siamese augmentation: what each family does, and that it can be replayed."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import AffineTransform, warp

from distill import augment
from distill.augment import Draw
from workbench import seeds
from workbench.errors import UserError

ALL = "color_crop_cutout_flip_scale_rotate"


def images(batch: int = 3, height: int = 8, width: int = 6, channels: int = 2) -> torch.Tensor:
    return torch.rand(batch, channels, height, width, generator=seeds.generator(5), dtype=torch.float64)


def values(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 9), st.integers(2, 9))
def test_every_draw_fits_and_replays(seed: int, batch: int, height: int, width: int) -> None:
    x = images(batch, height, width)
    drawn = augment.draw(ALL, batch, (height, width), seeds.generator(seed))
    again = augment.draw(ALL, batch, (height, width), seeds.generator(seed))
    y = augment.apply(x, drawn)
    assert y.shape == x.shape
    assert bool(y.isfinite().all())
    assert drawn.family == again.family
    assert torch.equal(y, augment.apply(x, again))


def test_each_image_has_its_own_draw_and_one_row_serves_all() -> None:
    x = images(4).new_ones(4, 1, 32, 32)
    own = augment.apply(x, augment.draw("cutout", 4, (32, 32), seeds.generator(0)))
    assert len({tuple(image.flatten().tolist()) for image in own}) > 1
    shared = augment.apply(x, augment.draw("cutout", 1, (32, 32), seeds.generator(0)))
    assert len({tuple(image.flatten().tolist()) for image in shared}) == 1


def test_all_families_of_a_strategy_come_equally_often() -> None:
    generator = seeds.generator(1)
    drawn = [augment.draw("color_flip_crop", 1, (8, 6), generator).family for _ in range(600)]
    assert all(160 <= drawn.count(name) <= 240 for name in ("color", "flip", "crop"))


def test_none_changes_nothing() -> None:
    x = images()
    assert augment.apply(x, augment.draw("none", 3, (8, 6), seeds.generator(0))) is x


def test_unknown_families_are_named() -> None:
    with pytest.raises(UserError, match="there is no augmentation 'blur'; give some of color, crop"):
        augment.draw("color_blur", 1, (8, 6), seeds.generator(0))


def test_strengths_are_the_published_ones() -> None:
    """Brightness +-0.5, saturation 0-2, contrast 0.5-1.5, shifts of an eighth, scales of 1.2, turns of 15 degrees."""
    generator = seeds.generator(2)

    def bounds(family: str) -> tuple[list[float], list[float]]:
        found = augment.draw(family, 20_000, (32, 40), generator).values
        return found.amin(0).tolist(), found.amax(0).tolist()

    assert bounds("color") == (pytest.approx([-0.5, 0, 0.5], abs=0.01), pytest.approx([0.5, 2, 1.5], abs=0.01))
    assert bounds("crop") == ([-4, -5], [4, 5])
    assert bounds("cutout") == ([0, 0], [31, 39])
    assert bounds("scale") == (pytest.approx([1 / 1.2] * 2, abs=0.01), pytest.approx([1.2] * 2, abs=0.01))
    assert bounds("rotate") == (
        pytest.approx([-math.radians(15)], abs=0.01),
        pytest.approx([math.radians(15)], abs=0.01),
    )
    flips = augment.draw("flip", 20_000, (32, 40), generator).values
    assert flips.mean() == pytest.approx(0.5, abs=0.02)


def test_color_in_words() -> None:
    x = images(1)
    y = augment.apply(x, Draw("color", values([0.2, 1.0, 1.0])))
    torch.testing.assert_close(y, x + 0.2)
    gray = augment.apply(x, Draw("color", values([0.0, 0.0, 1.0])))
    torch.testing.assert_close(gray, x.mean(1, keepdim=True).expand_as(x))
    flat = augment.apply(x, Draw("color", values([0.0, 1.0, 0.0])))
    torch.testing.assert_close(flat, x.mean().expand_as(x))


def test_crop_moves_and_fills_with_zero() -> None:
    x = images(1)
    y = augment.apply(x, Draw("crop", values([2, -1])))
    expected = torch.zeros_like(x)
    expected[:, :, 2:, :-1] = x[:, :, :-2, 1:]
    assert torch.equal(y, expected)


def test_cutout_zeroes_half_a_side_about_its_centre() -> None:
    x = images(2) + 1
    y = augment.apply(x, Draw("cutout", values([3, 2], [0, 0])))
    zero = (y == 0)[:, 0]
    rows, columns = (zero[0].any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    assert (rows, columns) == ([1, 2, 3, 4], [1, 2, 3])
    assert zero[1].sum() == 2 * 2  # of 4 x 3, the part inside: rows -2 to 1, columns -1 to 1
    assert torch.equal(y[~(y == 0)], x[~(y == 0)])


def test_flip_mirrors_where_drawn() -> None:
    x = images(2)
    y = augment.apply(x, Draw("flip", values([1], [0])))
    assert torch.equal(y[0], x[0].flip(2))
    assert torch.equal(y[1], x[1])


@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 7), (5, 9)])
def test_rotation_and_scale_are_those_of_scikit_image(height: int, width: int) -> None:
    """In pixels about the centre, so that a turn of an oblong image is a turn."""
    x = images(1, height, width)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])

    def expected(matrix: np.ndarray) -> torch.Tensor:
        whole = np.eye(3)
        whole[:2, :2], whole[:2, 2] = matrix, centre - matrix @ centre
        planes = [warp(plane, AffineTransform(whole), order=1, mode="constant") for plane in x[0].numpy()]
        return torch.from_numpy(np.stack(planes))[None]

    angle = 0.2
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at the rim, conventions differ
    torch.testing.assert_close(
        augment.apply(x, Draw("rotate", values([angle])))[inside], expected(turn)[inside], atol=0.02, rtol=0
    )
    scaled = augment.apply(x, Draw("scale", values([0.9, 0.85])))
    torch.testing.assert_close(scaled[inside], expected(np.diag([0.9, 0.85]))[inside], atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", list(augment.FAMILIES))
def test_gradients_are_right(family: str) -> None:
    x = images(2, 5, 4).requires_grad_()
    drawn = augment.draw(family, 2, (5, 4), seeds.generator(3))
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, drawn), (x,))
