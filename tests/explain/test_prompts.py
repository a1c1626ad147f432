"""From values to prompts: points where the evidence is, in pixels of the image, and none where there is none."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from explain.prompts import Prompts, evidence_region, prompts_of, region_of
from workbench.errors import UserError


def hill(size: tuple[int, int], place: tuple[float, float], width: float, height: float = 1.0) -> Tensor:
    """A Gaussian at (x, y)."""
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij")
    return height * torch.exp(-((columns - place[0]) ** 2 + (rows - place[1]) ** 2) / (2 * width**2))


def found(values: Tensor, kind: str = "points+box") -> Prompts:
    prompts = prompts_of(values, kind)
    assert prompts is not None
    return prompts


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (1000, 1600)])
def test_points_are_x_and_y_in_pixels_of_the_image(size: tuple[int, int]) -> None:
    """Beyond 512 places along a side, too, where peaks are sought on a coarser grid."""
    unit = min(size) / 60
    values = hill(size, (40 * unit, 12 * unit), 4 * unit) - hill(size, (10 * unit, 45 * unit), 4 * unit, 0.6)
    prompts = found(values)
    assert prompts.signs == (1, -1)
    for point, place in zip(prompts.points, [(40, 12), (10, 45)], strict=True):
        assert math.dist(point, (place[0] * unit, place[1] * unit)) < 2 * unit
    assert prompts.peak_values[0] > 0 > prompts.peak_values[1]
    assert prompts.box is not None
    x0, y0, x1, y1 = prompts.box
    assert 0 <= x0 < 40 * unit < x1 < size[1]
    assert 0 <= y0 < 12 * unit < y1 < size[0]
    assert y1 < 30 * unit


def test_peaks_are_high_apart_and_at_most_three() -> None:
    size = (80, 120)
    places = [(15, 15), (60, 40), (105, 65), (15, 65), (105, 15)]
    heights = [1.0, 0.9, 0.8, 0.7, 0.3]
    prompts = found(sum(hill(size, place, 4, height) for place, height in zip(places, heights, strict=True)))
    assert len(prompts.points) == 3
    assert all(math.dist(point, place) < 2 for point, place in zip(prompts.points, places, strict=False))
    assert list(prompts.peak_values) == sorted(prompts.peak_values, reverse=True)
    assert len(found(hill(size, (60, 40), 4) + hill(size, (65, 40), 4)).points) == 1


def test_a_shallow_valley_is_no_point() -> None:
    size = (48, 64)
    deep, shallow = (hill(size, (48, 24), 4) - hill(size, (12, 24), 4, height) for height in (0.3, 0.05))
    assert found(deep).signs == (1, -1)
    assert found(shallow).signs == (1,)


def test_kinds() -> None:
    values = hill((48, 64), (48, 24), 4) + hill((48, 64), (12, 24), 4, 0.8) - hill((48, 64), (30, 6), 3)
    assert found(values, "point").signs == (1,)
    assert found(values, "point").box is None
    assert found(values, "points").signs == (1, 1, -1)
    assert found(values, "points").box is None
    assert found(values).box is not None
    with pytest.raises(UserError, match="choose point, points"):
        prompts_of(values, "box")


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(20, 30),
        torch.full((20, 30), 0.01),
        -hill((20, 30), (10, 10), 3),
        1e-7 * hill((20, 30), (10, 10), 3),
    ],
)
def test_no_evidence_gives_no_prompts(values: Tensor) -> None:
    assert prompts_of(values) is None


def test_values_that_are_not_numbers() -> None:
    with pytest.raises(UserError, match="not finite"):
        prompts_of(torch.full((20, 30), torch.nan))


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 1000))
def test_properties(height: int, width: int, seed: int) -> None:
    """Points and box lie in the image, the highest point in the box; turned over, so are they; and the evidence comes
    back as it was."""
    values = torch.randn(height, width, generator=torch.Generator().manual_seed(seed))
    prompts = prompts_of(values)
    if prompts is None:
        return
    assert all(-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5 for x, y in prompts.points)
    assert prompts.box is not None
    x0, y0, x1, y1 = prompts.box
    assert 0 <= x0 <= x1 <= width - 1
    assert 0 <= y0 <= y1 <= height - 1
    (x, y), sign = prompts.points[0], prompts.signs[0]
    assert sign == 1
    assert x0 <= x <= x1
    assert y0 <= y <= y1
    assert torch.equal(region_of(prompts, (height, width)), evidence_region(values))
    turned = prompts_of(values.flip(0, 1))
    assert turned is not None
    assert turned.points[0] == pytest.approx((width - 1 - x, height - 1 - y))
