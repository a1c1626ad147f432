import math
from collections import Counter
from fractions import Fraction
from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gen.rpe2d.modes import PositionSampling
from gen.rpe2d.positions import check_range, crop_aligned_positions, inference_positions, sample_positions
from workbench.errors import UserError

SAMPLINGS = get_args(PositionSampling)
MODES = ("equispaced", "isotropic", "centered", "random")
lengths_in_range = st.integers(1, 150).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m)))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chi_square(counts, expected):
    """Probability of counts at least this uneven; cells with few expected are pooled."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    rare = expected < 10
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    return stats.chisquare(counts, expected).pvalue


# ------------------------------------------------------------------------------------------- training


@given(lengths_in_range, st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_drawn_positions_increase_within_their_range(length_and_range, batch_size, seed):
    length, maximum = length_and_range
    positions = sample_positions(batch_size, length, maximum, seeded(seed))
    assert positions.shape == (batch_size, length)
    assert positions.dtype == torch.int64
    assert (positions.diff(dim=-1) > 0).all()
    assert positions.min() >= 0
    assert positions.max() < maximum


def test_every_subset_is_equally_likely():
    drawn = Counter(map(tuple, sample_positions(20_000, 3, 6, seeded()).tolist()))
    subsets = list(combinations(range(6), 3))
    assert chi_square([drawn[s] for s in subsets], [1000] * len(subsets)) > 0.01


def test_marginals_are_uniform():
    batch_size, length, maximum = 20_000, 10, 25
    counts = sample_positions(batch_size, length, maximum, seeded()).flatten().bincount(minlength=maximum)
    share = length / maximum
    # Covariance of the indicators of a random subset: p (1 - p) M / (M - 1) (I - 1 1^T / M)
    variance = batch_size * share * (1 - share) * maximum / (maximum - 1)
    statistic = (counts - batch_size * share).square().sum() / variance
    assert 0.01 < stats.chi2.sf(statistic, maximum - 1) < 0.99


@pytest.mark.parametrize(("maximum", "length"), [(16, 8), (64, 16)])
def test_gaps_have_the_distribution_of_a_random_subset(maximum, length):
    gaps = sample_positions(20_000, length, maximum, seeded(1)).diff(dim=-1)[:, length // 3]
    possible = range(1, maximum - length + 2)
    probability = [math.comb(maximum - g, length - 1) / math.comb(maximum, length) for g in possible]
    assert sum(probability) == pytest.approx(1)
    counts = gaps.bincount(minlength=len(possible) + 1)[1:]
    assert chi_square(counts, [20_000 * p for p in probability]) > 0.01


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_whole_range_is_the_fixed_grid(sampling):
    assert torch.equal(sample_positions(4, 7, 7, seeded(), sampling), torch.arange(7).expand(4, 7))


def test_samples_of_a_batch_and_successive_draws_are_independent():
    generator = seeded()
    rows, columns = sample_positions(20_000, 2, 4, generator), sample_positions(20_000, 2, 4, generator)
    for first, second in ((rows, columns), (rows[:-1], rows[1:])):
        table = np.zeros((4, 4))
        np.add.at(table, (first[:, 0].numpy(), second[:, 0].numpy()), 1)
        assert stats.chi2_contingency(table[:3, :3]).pvalue > 0.01


def test_the_seed_decides():
    assert torch.equal(sample_positions(3, 5, 20, seeded(4)), sample_positions(3, 5, 20, seeded(4)))
    assert not torch.equal(sample_positions(3, 5, 20, seeded(4)), sample_positions(3, 5, 20, seeded(5)))
    before = torch.get_rng_state()
    sample_positions(3, 5, 20, seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("length", "maximum"), [(17, 16), (0, 16)])
def test_too_many_patches_name_the_trained_range(length, maximum):
    with pytest.raises(UserError, match=f"{length} patches .* trained on {maximum} positions.*at most {maximum}"):
        check_range(length, maximum)
    with pytest.raises(UserError, match=f"trained on {maximum} positions"):
        sample_positions(2, length, maximum, seeded())


@given(lengths_in_range, st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_each_stratum_has_one_position(length_and_range, seed):
    length, maximum = length_and_range
    positions = sample_positions(50, length, maximum, seeded(seed), "stratified")
    for number in range(length):
        low, high = number * maximum // length, (number + 1) * maximum // length
        assert positions[:, number].min() >= low
        assert positions[:, number].max() < high


def test_a_stratum_is_drawn_evenly():
    counts = sample_positions(20_000, 3, 12, seeded(), "stratified")[:, 1].bincount(minlength=12)
    assert counts.nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert chi_square(counts[4:8], [5000] * 4) > 0.01


# ------------------------------------------------------------------------------------------- inference


def nearest(exact):
    """The nearest integer to a fraction, a half going down."""
    return math.ceil(exact - Fraction(1, 2))


def equal_gaps(length, maximum, gap):
    start = (maximum - 1 - (length - 1) * gap) / 2
    return [nearest(start + i * gap) for i in range(length)]


def places(grid, maximum, mode):
    return tuple(axis.tolist() for axis in inference_positions(grid, maximum, mode))


@given(lengths_in_range, lengths_in_range, st.sampled_from(MODES))
@settings(max_examples=100, deadline=None)
def test_a_grid_is_placed_in_increasing_order_within_its_range(rows_in, columns_in, mode):
    (h, rows_range), (w, columns_range) = rows_in, columns_in
    rows, columns = inference_positions((h, w), (rows_range, columns_range), mode)
    for positions, length, maximum in ((rows, h, rows_range), (columns, w, columns_range)):
        assert positions.shape == (length,)
        assert positions.dtype == torch.int64
        assert (positions.diff() > 0).all()
        assert positions[0] >= 0
        assert positions[-1] < maximum


@given(lengths_in_range, lengths_in_range)
@settings(max_examples=100, deadline=None)
def test_equispaced_spreads_each_axis_over_its_whole_range(rows_in, columns_in):
    placed = places((rows_in[0], columns_in[0]), (rows_in[1], columns_in[1]), "equispaced")
    for positions, (length, maximum) in zip(placed, (rows_in, columns_in), strict=True):
        if length == 1:
            assert positions == [(maximum - 1) // 2]
        else:
            assert positions == [nearest(Fraction(i * (maximum - 1), length - 1)) for i in range(length)]
            assert (positions[0], positions[-1]) == (0, maximum - 1)


@given(lengths_in_range, lengths_in_range)
@settings(max_examples=100, deadline=None)
def test_isotropic_has_one_gap_and_is_centred(rows_in, columns_in):
    gap = min([Fraction(m - 1, n - 1) for n, m in (rows_in, columns_in) if n > 1], default=Fraction(1))
    placed = places((rows_in[0], columns_in[0]), (rows_in[1], columns_in[1]), "isotropic")
    assert placed == tuple(equal_gaps(n, m, gap) for n, m in (rows_in, columns_in))


def test_modes_by_hand():
    assert places((2, 5), (9, 9), "equispaced") == ([0, 8], [0, 2, 4, 6, 8])
    assert places((2, 5), (9, 9), "isotropic") == ([3, 5], [0, 2, 4, 6, 8])
    assert places((1, 5), (2, 9), "isotropic") == ([0], [0, 2, 4, 6, 8])
    assert places((2, 5), (9, 10), "centered") == ([3, 4], [2, 3, 4, 5, 6])
    assert places((3, 1), (6, 6), "equispaced") == ([0, 2, 5], [2])


@pytest.mark.parametrize("mode", MODES)
def test_a_full_range_leaves_no_choice(mode):
    assert places((6, 11), (6, 11), mode) == (list(range(6)), list(range(11)))


def test_random_follows_its_generator():
    first, again, other = (inference_positions((6, 6), (30, 30), "random", seeded(s)) for s in (1, 1, 2))
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("grid", "named"), [((10, 5), 9), ((5, 15), 14)])
def test_the_axis_beyond_its_range_is_named(mode, grid, named):
    with pytest.raises(UserError, match=f"{max(grid)} patches .* trained on {named} positions"):
        inference_positions(grid, (9, 14), mode)


# ------------------------------------------------------------------------------------------- positions of crops


@given(lengths_in_range, st.floats(0.2, 1), st.floats(0, 1), st.integers(0, 1000), st.sampled_from(SAMPLINGS))
@settings(max_examples=50, deadline=None)
def test_positions_of_a_crop_lie_in_its_part_of_the_range(length_and_range, extent, place, seed, sampling):
    length, maximum = length_and_range
    start, extent = torch.tensor([(1 - extent) * place] * 3), torch.tensor([extent] * 3)
    positions = crop_aligned_positions(start, extent, length, maximum, seeded(seed), sampling)
    assert (positions.diff(dim=-1) > 0).all()
    spread = max(length, round(float(extent[0]) * maximum))
    assert (positions[:, -1] - positions[:, 0] < spread + 1).all()
    middle = float(start[0] + extent[0] / 2) * maximum
    low, high = min(middle - spread / 2, maximum - spread), max(middle + spread / 2, spread)
    assert positions.min() >= max(0, low - 1.01)
    assert positions.max() <= min(maximum - 1, high + 0.01)


def test_a_whole_image_uses_the_whole_range_and_a_close_crop_its_own_slots():
    whole, quarter = torch.tensor([0.0]), torch.tensor([0.25])
    drawn = torch.cat([crop_aligned_positions(whole, whole + 1, 4, 16, seeded(k)) for k in range(40)])
    assert set(drawn.flatten().tolist()) == set(range(16))
    assert crop_aligned_positions(quarter, quarter, 4, 16, seeded()).tolist() == [[4, 5, 6, 7]]
