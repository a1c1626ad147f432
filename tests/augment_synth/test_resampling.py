"""How often each image is drawn: counts, shares, and the recipes that use them."""

from pathlib import Path

import pytest
import torch
from halves import halves, quick
from hypothesis import given
from hypothesis import strategies as st

from augment_synth.balanced import RWG, RWY, SUBG, SUBY
from augment_synth.jtt import Upweighted, mistaken
from augment_synth.resampling import reweighted, shared_out, subsampled
from augment_synth.robust_config import RobustSettings
from augment_synth.robust_recipe import RobustRecipe
from workbench.pixel_classifier import PixelClassifier

MEMBERS = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(torch.tensor)


@given(MEMBERS)
def test_reweighted_groups_weigh_alike(members: torch.Tensor) -> None:
    weights = reweighted(members)
    for group in members.unique():
        assert float(weights[members == group].sum()) == pytest.approx(1)


@given(MEMBERS, st.integers(0, 5))
def test_subsampled_groups_are_as_large_as_the_smallest(members: torch.Tensor, seed: int) -> None:
    weights = subsampled(members, torch.Generator().manual_seed(seed))
    smallest = int(members.unique(return_counts=True)[1].min())
    assert set(weights.tolist()) <= {0.0, 1.0}
    for group in members.unique():
        assert int(weights[members == group].sum()) == smallest


@given(MEMBERS, st.floats(0, 1), st.data())
def test_shares(members: torch.Tensor, share: float, data: st.DataObject) -> None:
    count = len(members)
    synthetic = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    weights = shared_out(reweighted(members), synthetic, share)
    assert float(weights.sum()) == pytest.approx(1)
    if synthetic.any() and not synthetic.all():
        assert float(weights[synthetic].sum()) == pytest.approx(share)


def settings() -> RobustSettings:
    return quick(resolution="8x12", synthetic_share=0.25)


@pytest.mark.parametrize("recipe", [RWG, SUBG])
def test_groups_are_drawn_alike_among_the_real(recipe: type[RobustRecipe]) -> None:
    made = recipe(settings(), halves((12, 4, 3, 9), synthetic=8))
    assert made.groups is not None
    by_group = torch.zeros(5, dtype=torch.float64).index_add(0, made.groups, made.row_weights)
    torch.testing.assert_close(by_group, torch.tensor([0.75 / 4] * 4 + [0.25], dtype=torch.float64))
    if recipe is SUBG:
        assert int((made.row_weights[:28] > 0).sum()) == 4 * 3


@pytest.mark.parametrize("recipe", [RWY, SUBY])
def test_classes_are_drawn_alike(recipe: type[RobustRecipe]) -> None:
    made = recipe(settings(), halves((12, 8, 3, 1), synthetic=8))
    by_class = torch.zeros(2, dtype=torch.float64).index_add(0, made.labels, made.row_weights)
    torch.testing.assert_close(by_class, torch.tensor([0.5, 0.5], dtype=torch.float64))
    if recipe is SUBY:
        assert int((made.row_weights[:24] > 0).sum()) == 2 * 4


def test_drawn_batches_have_the_share() -> None:
    recipe = RobustRecipe(settings(), halves(synthetic=2))
    rows = recipe.draw(4000, torch.Generator().manual_seed(0), 1)["rows"]
    assert float(recipe.synthetic[rows].float().mean()) == pytest.approx(0.25, abs=0.03)


def test_errors_are_drawn_more_often() -> None:
    data = halves((2, 1, 1, 1))
    errors = torch.tensor([True, False, False, False, False])
    recipe = Upweighted(quick(resolution="8x12", jtt_upweight=4.0), data, None, errors)
    torch.testing.assert_close(recipe.row_weights, torch.tensor([4, 1, 1, 1, 1]).double() / 8)


def test_an_empty_error_set_is_said(tmp_path: Path) -> None:
    data = halves((2, 1, 0, 0))
    classifier = RobustRecipe(quick(resolution="8x12"), data).model
    head = classifier.network.head
    assert isinstance(classifier, PixelClassifier)
    assert isinstance(head, torch.nn.Linear)
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([1.0, 0.0])
    with pytest.warns(UserWarning, match="makes no error"):
        assert not mistaken(classifier, data).any()
    head.bias.data = torch.tensor([0.0, 1.0])
    assert mistaken(classifier, data).all()
