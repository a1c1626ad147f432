import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen.pixel.schedules import most_noise_temperature, num_levels, paired_sigma, stage_of, temperature


def test_levels_double_as_in_the_paper():
    """K' = ceil(600000 / log2(65)) = 99629: the grid doubles right after the first step, then every K'."""
    wanted = {0: 21, 1: 41, 99_629: 41, 99_630: 81, 398_516: 321, 398_517: 641, 498_145: 641, 498_146: 1281}
    assert {step: num_levels(step, 600_000, 20, 1280) for step in wanted} == wanted
    assert num_levels(599_999, 600_000, 20, 1280) == 1281


@given(st.integers(1, 5000), st.integers(1, 50), st.integers(0, 100), st.data())
def test_levels_never_fall_and_never_pass_the_last(total, first, more, data):
    step = data.draw(st.integers(0, total - 1))
    now = num_levels(step, total, first, first + more)
    assert first + 1 <= now <= first + more + 1
    assert now <= num_levels(step + 1, total, first, first + more)
    assert num_levels(0, total, first, first + more) == first + 1


def test_the_temperature_at_most_noise_falls_to_its_end():
    falling = [most_noise_temperature(step, 900, 0.2, 0.1) for step in range(900)]
    assert falling[0] == 0.2
    assert falling[600] == pytest.approx(0.1)
    assert set(falling[600:]) == {falling[600]}
    assert all(a >= b for a, b in itertools.pairwise(falling))
    assert max(a - b for a, b in itertools.pairwise(falling)) < 4e-4  # no jump where the sine ends
    assert falling[300] == pytest.approx(0.2 - 0.1 * math.sin(math.pi / 4))


def test_the_released_temperature_is_constant():
    assert {most_noise_temperature(step, 10, 0.1, 0.1) for step in range(10)} == {0.1}


def test_the_temperature_is_linear_in_the_noise():
    found = [temperature(torch.tensor(s), (0.0, 20.0), 0.1, 0.2).item() for s in (0.0, 5.0, 20.0)]
    assert found == pytest.approx([0.1, 0.125, 0.2])


@pytest.mark.parametrize(
    ("stage", "sigma", "ratio"), [(1, 0.1, 0.02), (1, 10, 0.5), (4, 0.1, 0.70), (4, 10, 0.94), (8, 0.1, 0.981),
                                  (8, 10, 0.996)]
)  # fmt: skip
def test_pairs_are_as_far_apart_as_in_the_paper(stage, sigma, ratio):
    found = paired_sigma(torch.tensor([float(sigma)]), stage, 0.002, 2.0, 8.0, 1.0) / sigma
    assert found.item() == pytest.approx(ratio, abs=5e-3)


@given(st.floats(0.002, 80), st.integers(0, 12))
def test_a_pair_is_in_order_and_comes_closer(sigma, stage):
    level = torch.tensor([sigma])
    now, later = (paired_sigma(level, m, 0.002, 2.0, 8.0, 1.0) for m in (stage, stage + 1))
    assert 0.002 <= now <= max(level, torch.tensor(0.0020001))
    assert later >= now
    if stage == 0:
        assert now == torch.tensor(0.002)  # plain denoising


def test_stages_share_the_steps():
    stages = [stage_of(step, 100, 6, 1) for step in range(100)]
    assert sorted(set(stages)) == [1, 2, 3, 4, 5, 6]
    assert [stages.count(stage) for stage in range(1, 7)] == [17, 17, 17, 17, 17, 15]
    assert stage_of(99, 100, 6, 0) == 5
