"""The learning rate range test: what it suggests is neither too little nor too much, and it writes nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy_recipe import ToyRecipe, losses, run_toy, toy_config

from workbench.errors import UserError
from workbench.rate_range import RangeTest, range_test
from workbench.recipe import Draws

CPU = torch.device("cpu")


def test_the_rate_it_suggests_trains_better_than_far_less_and_far_more(tmp_path: Path) -> None:
    changes = {"optimizer": "sgd", "lr_scheduler": "constant", "max_train_steps": 60, "train_batch_size": 16}
    found = range_test(ToyRecipe(toy_config(tmp_path / "none", **changes)), CPU)
    assert not (tmp_path / "none").exists()

    def last_loss(factor: float) -> float:
        run = run_toy(tmp_path / f"{factor}", learning_rate=factor * found.suggestion, **changes)
        return sum(losses(run)[step] for step in range(51, 61)) / 10

    suggested = last_loss(1.0)
    assert suggested < 0.5 * last_loss(0.02)
    assert suggested < 0.5 * last_loss(50.0)


class Watched(ToyRecipe):
    """Keeps the losses that it gives."""

    def loss(self, model: nn.Module, indices: Tensor, draws: Draws) -> dict[str, Tensor]:
        figures = super().loss(model, indices, draws)
        self.seen = [*getattr(self, "seen", []), figures["loss"].item()]
        return figures


def test_rates_rise_evenly_and_losses_are_running_means(tmp_path: Path) -> None:
    recipe = Watched(toy_config(tmp_path))
    found = range_test(recipe, CPU, lowest=1e-3, highest=1e-1, steps=5)
    assert found.rates == pytest.approx([10 ** (-3 + k / 2) for k in range(5)])
    for last in range(5):
        weights = [0.9 ** (last - k) for k in range(last + 1)]
        mean = sum(w * seen for w, seen in zip(weights, recipe.seen, strict=False)) / sum(weights)
        assert found.losses[last] == pytest.approx(mean)


def test_it_ends_where_the_loss_blows_up(tmp_path: Path) -> None:
    changes = {"optimizer": "sgd", "max_grad_norm": 1e9}
    found = range_test(ToyRecipe(toy_config(tmp_path, **changes)), CPU, highest=1e4)
    assert 20 < len(found.rates) == len(found.losses) < 100
    assert max(found.losses[-5:]) <= 4 * min(found.losses)
    with pytest.raises(UserError, match="not finite even at a learning rate of 1e-06; check the weights and the data"):
        range_test(ToyRecipe(toy_config(tmp_path), poison=dict.fromkeys(range(37), "nan")), CPU)


def test_the_table_tells_the_suggestion() -> None:
    table = RangeTest([1e-4, 1e-3, 1e-2, 1e-1], [3.0, 2.5, 1.25, 4.0]).table()
    assert table.splitlines()[1:] == [
        "   1.0e-04           3", "   1.0e-03         2.5", "   1.0e-02        1.25", "   1.0e-01           4",
        "suggested: --learning-rate 0.003",
    ]  # fmt: skip
