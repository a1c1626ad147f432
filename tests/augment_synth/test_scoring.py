"""Scores of features against scipy's bounds, the placebo, misses, and the released formula."""

import numpy as np
import pytest
from edit_rows import row, rows
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from augment_synth.scoring import CutOffs, default_scores, paper_scores, verdict, wilson


@given(st.integers(1, 200), st.floats(0, 1), st.sampled_from([0.9, 0.95, 0.999]))
def test_wilson_is_scipys(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    expected = binomtest(successes, n).proportion_ci(confidence, "wilson")
    assert wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_trials_say_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_kept_and_ranked() -> None:
    made = [
        *rows(30, 40), *rows(1, 40, placebo=True, replaced_by="grass"),
        *rows(0, 40, kind="object", phrase="ball", replaced_by=""),
        *rows(0, 40, kind="object", phrase="ball", replaced_by="", placebo=True),
    ]  # fmt: skip
    first, second = default_scores(made, CutOffs())
    assert (first.name, first.kept, first.flip_rate) == ("grass", True, 0.75)
    assert first.score == pytest.approx(wilson(30, 40)[0] - 1 / 40)
    assert (second.name, second.kept) == ("ball", False)
    assert "lower bound" in second.reason


def test_the_placebo_decides() -> None:
    made = [*rows(30, 40), *rows(20, 40, placebo=True)]
    [feature] = default_scores(made, CutOffs())
    assert not feature.kept
    assert "leave it alone" in feature.reason


def test_a_miss_is_no_edit() -> None:
    made = [*rows(10, 20), *rows(0, 20, placebo=True), *rows(0, 60, made=False)]
    [feature] = default_scores(made, CutOffs())
    assert (feature.flip_rate, feature.misses, feature.edits) == (0.5, 60, 20)


def test_a_neutral_replacement_hides_nothing() -> None:
    """One background in three moves the classifier: pooled, the rate would be a third."""
    made = [*rows(12, 20), *rows(0, 20, replaced_by="brick"), *rows(0, 20, replaced_by="sand")]
    made += rows(0, 20, placebo=True, replaced_by="grass")
    [feature] = default_scores(made, CutOffs())
    assert (feature.replaced_by, feature.flip_rate, feature.kept) == ("gravel", 0.6, True)
    assert feature.lower == pytest.approx(wilson(12, 20, 1 - 0.05 / 3)[0])


def test_too_little_support() -> None:
    [feature] = default_scores([*rows(9, 9), *rows(0, 9, placebo=True)], CutOffs())
    assert not feature.kept
    assert "too few" in feature.reason


def test_verdicts() -> None:
    assert verdict(rows(0, 10), CutOffs(), looks=1) == "open"  # below the least support
    assert verdict(rows(15, 20), CutOffs(), looks=1) == "above"
    assert verdict(rows(0, 60), CutOffs(), looks=1) == "below"
    assert verdict(rows(0, 40), CutOffs(), looks=1) == "below"
    assert verdict(rows(0, 40), CutOffs(), looks=1000) == "open"
    assert verdict(rows(0, 100, made=False), CutOffs(), looks=1) == "open"


def test_stopping_early_calls_few_true_nulls_spurious() -> None:
    """At the cut-off's own rate, at most one in twenty sequences is ever called above it."""
    random, looks, called = np.random.default_rng(0), 5, 0
    for _ in range(400):
        flips = random.random(200) < CutOffs().min_flip_rate
        made = [row(flipped=bool(flip)) for flip in flips]
        called += any(verdict(made[: 40 * k], CutOffs(), looks) == "above" for k in range(1, looks + 1))
    assert called / 400 <= 0.05


def test_the_released_formula() -> None:
    """Two phrases of one cluster: their scores add up, whatever the misses; N counts images, not edits."""
    made = [
        *rows(4, 8, kind="object", phrase="ball"), *rows(1, 2, kind="object", phrase="balls"),
        *rows(0, 2, kind="object", phrase="ball", made=False), *rows(3, 10, kind="object", phrase="cup"),
    ]  # fmt: skip
    first, second = paper_scores(made, {(0, "ball"): 10, (0, "balls"): 2, (0, "cup"): 10})
    assert (first.name, first.phrases, first.flips) == ("ball", ("ball", "balls"), 5)
    assert first.score == pytest.approx(4 / 10 + 1 / 2)
    assert (second.name, second.score) == ("cup", pytest.approx(0.3))
