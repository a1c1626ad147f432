import math

import pytest
import torch

from gen.rpe2d.extrapolation import DyPE, extrapolate
from gen.rpe2d.modes import EXTRAPOLATIONS
from gen.rpe2d.rotary import rotary_frequencies

HEAD, THETA, TRAINED = 32, 100.0, (8, 8)
OWN = rotary_frequencies(HEAD, THETA)
FREQUENCY_RULES = [rule for rule in EXTRAPOLATIONS if not rule.endswith(("extrapolation", "interpolation"))]


def place(rule, grid, **options):
    return extrapolate(rule, grid, TRAINED, HEAD, THETA, **options)


@pytest.mark.parametrize("rule", EXTRAPOLATIONS)
@pytest.mark.parametrize("grid", [(8, 8), (6, 8), (3, 5)])
def test_nothing_changes_up_to_the_trained_grid(rule, grid):
    placed = place(rule, grid)
    assert placed.rows.tolist() == list(range(grid[0]))
    assert placed.columns.tolist() == list(range(grid[1]))
    assert placed.logit_scale == 1
    for frequencies in placed.frequencies or ():
        torch.testing.assert_close(frequencies, OWN)


@pytest.mark.parametrize(
    ("rule", "rows", "columns"),
    [("extrapolation", 1, 1), ("interpolation", 0.5, 0.5), ("vision_interpolation", 1, 0.5)],
)
def test_positions_go_on_or_are_squeezed_into_the_range(rule, rows, columns):
    placed = place(rule, (8, 16))
    torch.testing.assert_close(placed.rows * 1.0, torch.arange(8) * rows * 1.0)
    torch.testing.assert_close(placed.columns * 1.0, torch.arange(16) * columns * 1.0)
    assert max(placed.columns) < 8 or rule == "extrapolation"


def test_ntk_keeps_the_fastest_frequency_and_interpolates_the_slowest():
    rows, columns = place("vision_ntk", (12, 16)).frequencies
    for frequencies, s in ((rows, 1.5), (columns, 2.0)):
        assert float(frequencies[0]) == pytest.approx(1)
        assert float(OWN[-1] / frequencies[-1]) == pytest.approx(s)
        theta = THETA * s ** (16 / 14)  # d = 16 channels turn with an axis
        torch.testing.assert_close(frequencies, torch.tensor([theta ** (-2 * k / 16) for k in range(8)]))


@pytest.mark.parametrize("rule", ["ntk", "yarn", "interpolation"])
def test_the_plain_form_takes_the_larger_ratio_on_both_axes(rule):
    plain, vision = place(rule, (8, 16)), place("vision_" + rule, (8, 16))
    square = place("vision_" + rule, (16, 16))
    for ours, theirs in zip(plain.frequencies or (), square.frequencies or (), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(plain.rows * 1.0, square.rows[:8] * 1.0)
    if vision.frequencies:
        torch.testing.assert_close(vision.frequencies[0], OWN)


@pytest.mark.parametrize(("length", "theta"), [(16, 10_000.0), (64, 10_000.0), (256, 1000.0)])
def test_yarn_by_the_formula(length, theta):
    s, d = 2.0, 16
    placed = extrapolate("yarn", (2 * length, length), (length, length), 2 * d, theta)
    low = max(math.floor(d * math.log(length / (32 * 2 * math.pi)) / (2 * math.log(theta))), 0)
    high = min(math.ceil(d * math.log(length / (2 * math.pi)) / (2 * math.log(theta))), d - 1)
    for k, frequency in enumerate(placed.frequencies[0].tolist()):
        ramp = min(max((k - low) / (high - low), 0), 1)
        own = theta ** (-2 * k / d)
        assert frequency == pytest.approx(own / s * ramp + own * (1 - ramp), rel=1e-5)
    assert placed.logit_scale == pytest.approx((0.1 * math.log(2) + 1) ** 2)


@pytest.mark.parametrize("rule", FREQUENCY_RULES)
def test_frequencies_stay_between_interpolated_and_unchanged_at_the_least_noise(rule):
    rows, columns = place(rule, (8, 16), t=0.5).frequencies  # kappa = 0.5: DyPE does not overshoot
    for frequencies in (rows, columns):
        assert (frequencies <= OWN * 1.0001).all()
        assert (frequencies >= OWN / 2 * 0.9999).all()


def test_dype_is_ntk_with_an_exponent_that_fades_with_the_noise():
    torch.testing.assert_close(place("dype_ntk", (16, 16), t=0.0).frequencies[0], OWN)
    torch.testing.assert_close(
        place("dype_ntk", (16, 16), t=0.5**0.5).frequencies[0], place("ntk", (16, 16)).frequencies[0]
    )
    torch.testing.assert_close(
        place("dype_ntk", (16, 16), t=1.0).frequencies[0], place("ntk", (32, 32)).frequencies[0], rtol=1e-4, atol=0
    )
    assert DyPE(3.0, 1.0)(0.5) == 1.5


def test_dype_follows_yarn_where_its_strength_is_one():
    dynamic, plain = place("dype_yarn", (16, 16), t=0.5**0.5), place("yarn", (16, 16))
    torch.testing.assert_close(dynamic.frequencies[0], plain.frequencies[0])
    long = {t: extrapolate("dype_yarn", (128, 128), (64, 64), 64, 10_000.0, t).frequencies[0] for t in (0.1, 0.7, 1.0)}
    assert (long[1.0] < long[0.1]).any()  # more is interpolated while there is more noise
    assert (long[1.0] <= long[0.7] + 1e-6).all()
    assert (long[0.7] <= long[0.1] + 1e-6).all()


def test_by_parts_blends_interpolated_ntk_and_unchanged():
    long = extrapolate("ntk_by_parts", (512, 512), (256, 256), 64, 10_000.0).frequencies[0]
    own = rotary_frequencies(64, 10_000.0)
    torch.testing.assert_close(long[:2], own[:2])
    torch.testing.assert_close(long[-3:], own[-3:] / 2)
