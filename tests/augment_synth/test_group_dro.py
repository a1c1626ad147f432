"""Group DRO's weights and objective, by hand."""

import math

import pytest
import torch
from halves import halves, quick
from hypothesis import given
from hypothesis import strategies as st

from augment_synth.group_dro import GroupDRO, group_sums, updated_weights


def test_two_updates_by_hand() -> None:
    q = updated_weights(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 3.0, 9.0]), 0.1)
    a, b = 0.5 * math.exp(0.1), 0.5 * math.exp(0.3)
    torch.testing.assert_close(q, torch.tensor([a / (a + b), b / (a + b), 0.0]))
    q = updated_weights(q, torch.tensor([2.0, 0.0, 0.0]), 0.1)
    a *= math.exp(0.2)
    torch.testing.assert_close(q, torch.tensor([a / (a + b), b / (a + b), 0.0]))


@given(st.lists(st.floats(0, 20), min_size=2, max_size=6), st.floats(0.001, 1))
def test_the_worst_group_gains_the_most(losses: list[float], step_size: float) -> None:
    values = torch.tensor(losses)
    q = torch.full_like(values, 1 / len(losses))
    new = updated_weights(q, values, step_size)
    assert float(new.sum()) == pytest.approx(1, abs=1e-5)
    assert float(new[values.argmax()]) >= float(new.max()) - 1e-6


def test_sums_of_groups() -> None:
    sums = group_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 4)
    assert sums.tolist() == [[2, 0, 5, 0], [1, 0, 2, 0]]


def test_objective_and_step_by_hand() -> None:
    config = quick(resolution="8x12", dro_step_size=0.5, dro_adjustment=2.0)
    recipe = GroupDRO(config, halves((6, 2, 0, 4)))
    assert recipe.q.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    draws = recipe.draw(10, torch.Generator().manual_seed(1), 1)
    images, labels = recipe.batch(draws)
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(recipe.model(images.float() / 255), labels, reduction="none")
    assert recipe.groups is not None
    groups = recipe.groups[draws["rows"]]
    means = [float(losses[groups == g].mean()) if (groups == g).any() else 0.0 for g in range(4)]
    loss = recipe.objective(recipe.model, images, labels, draws)
    assert loss.item() == pytest.approx((means[0] + means[1] + means[3]) / 3, abs=1e-5)
    recipe.after_step(1)
    sizes = (6, 2, math.inf, 4)
    grown = [math.exp(0.5 * (mean + 2 / math.sqrt(n))) for mean, n in zip(means, sizes, strict=True)]
    grown[2] = 0
    assert recipe.q.tolist() == pytest.approx([value / sum(grown) for value in grown], abs=1e-5)
