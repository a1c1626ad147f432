"""Choosing among completions, and the smooth filling of the fast mode."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen.inpaint.prefill import near, prefilled, trusted_distance
from gen.inpaint.ranking import hamming, mean_log_likelihood, select

# ---- ranking ---------------------------------------------------------------------------------------------------------


def test_likely_ones_that_differ_are_taken():
    ids = torch.tensor([[1, 1, 1, 9], [1, 1, 2, 0], [1, 1, 1, 0], [5, 6, 7, 8], [3, 3, 1, 0]])
    likelihoods = torch.tensor([-1.0, -1.1, -1.2, -9.0, -1.3])
    hole = torch.tensor([True, True, True, False])
    assert select(ids, hole, likelihoods, 1) == [0]
    assert select(ids, hole, likelihoods, 2) == [0, 4]  # 3 differs most, and is not among the likelier
    assert select(ids, hole, likelihoods, 3) == [0, 4, 1]
    assert sorted(select(ids, hole, likelihoods, 5)) == [0, 1, 2, 3, 4]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_selections_are_as_asked_for(count, more, seed):
    generator = torch.Generator().manual_seed(seed)
    total = count + more
    ids = torch.randint(3, (total, 6), generator=generator)
    likelihoods = torch.randn(total, generator=generator)
    taken = select(ids, torch.ones(6, dtype=torch.bool), likelihoods, count)
    assert len(taken) == len(set(taken)) == count
    assert taken[0] == likelihoods.argmax()
    floor = likelihoods.sort(descending=True).values[max(count, round(0.75 * total)) - 1]
    assert (likelihoods[taken] >= floor).all()
    for number in range(1, count):  # each is as far from those before it as any that could have been taken
        distances = hamming(ids)[:, taken[:number]].min(1).values
        left = [k for k in range(total) if likelihoods[k] >= floor and k not in taken[:number]]
        assert distances[taken[number]] == max(distances[k] for k in left)


def test_likelihoods_are_of_the_hole():
    log_likelihood = torch.tensor([[-1.0, -2.0, -3.0]])
    assert mean_log_likelihood(log_likelihood, torch.tensor([True, False, True])).tolist() == [-2.0]


# ---- prefilling ------------------------------------------------------------------------------------------------------


@st.composite
def pictures(draw):
    size = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    mask = (torch.rand(1, 1, *size, generator=generator) < draw(st.floats(0, 0.99))).float()
    return torch.rand(1, 2, *size, generator=generator), mask


@settings(deadline=None, max_examples=60)
@given(pictures())
def test_holes_are_filled_within_the_range_of_what_is_known(picture):
    images, mask = picture
    filled = prefilled(images, mask)
    torch.testing.assert_close(filled * (1 - mask), images * (1 - mask))
    hidden = prefilled(torch.where(mask > 0, 7.0, images), mask)
    torch.testing.assert_close(hidden, filled)
    if mask.min() == 0:
        for channel in range(2):
            known = images[0, channel][mask[0, 0] == 0]
            assert filled[0, channel].min() >= known.min() - 1e-5
            assert filled[0, channel].max() <= known.max() + 1e-5


def test_an_even_picture_is_filled_evenly_and_a_slope_smoothly():
    mask = torch.zeros(1, 1, 16, 24)
    mask[..., 4:12, 6:18] = 1
    torch.testing.assert_close(prefilled(torch.full((1, 1, 16, 24), 0.3), mask), torch.full((1, 1, 16, 24), 0.3))
    slope = torch.linspace(0, 1, 24).expand(1, 1, 16, 24)
    assert (prefilled(slope, mask) - slope).abs().max() < 0.15
    assert prefilled(slope, torch.ones_like(mask)).abs().max() == 0


@pytest.mark.parametrize(("distance", "count"), [(0, 1), (1, 9), (2, 15), (3, 21)])
def test_distances_count_rows_and_columns(distance, count):
    hole = torch.zeros(2, 3, 9, dtype=torch.bool)
    hole[0, 1, 4] = True
    assert near(hole, distance).flatten(1).sum(1).tolist() == [count, 0]


def tokens_that_see(reach):
    """They tell the mean brightness within so many tokens of 4 x 4 pixels."""

    def tokens_of(images):
        means = torch.nn.functional.avg_pool2d(images[:, :1], 4)
        seen = torch.nn.functional.avg_pool2d(means, 2 * reach + 1, stride=1, padding=reach)
        return (seen[:, 0] * 1e4).round().long()

    return tokens_of


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_tokens_are_trusted_from_where_the_hole_is_out_of_sight(reach):
    images = torch.from_numpy(np.random.default_rng(0).random((4, 1, 32, 48), np.float32))
    mask = torch.zeros(4, 1, 32, 48)
    mask[..., 12:20, 20:28] = 1
    assert trusted_distance(tokens_that_see(reach), images, mask) == reach


def test_nothing_is_trusted_where_all_depends_on_the_hole():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    assert trusted_distance(tokens_that_see(7), torch.rand(1, 1, 16, 16), mask) is None
