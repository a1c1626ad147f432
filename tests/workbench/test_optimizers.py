from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from workbench.config import TrainingConfig
from workbench.errors import UserError
from workbench.optimizers import make_optimizers


@pytest.fixture
def model() -> nn.Module:
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    layers[2].bias.requires_grad_(False)
    return layers


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(output_dir=Path("run"), **changes)


def weights_of(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(weight) for group in optimizer.param_groups for weight in group["params"]}


def test_adamw_trains_every_trainable_weight(model: nn.Module) -> None:
    (only,) = make_optimizers(config(learning_rate=0.5, adam_weight_decay=0.1), model, [model[1].weight])
    assert weights_of(only) == {id(weight) for weight in model.parameters()} - {id(model[2].bias)}
    group = only.param_groups[0]
    assert (group["initial_lr"], group["weight_decay"], group["betas"]) == (0.5, 0.1, (0.9, 0.95))


def test_muon_trains_the_matrices_and_adamw_the_rest(model: nn.Module) -> None:
    settings = config(optimizer="muon", learning_rate=0.5, muon_learning_rate=0.25)
    adamw, muon = make_optimizers(settings, model, [model[1].weight])
    assert isinstance(muon, torch.optim.Muon)
    assert weights_of(muon) == {id(model[1].weight)}
    assert weights_of(adamw) & weights_of(muon) == set()
    assert len(weights_of(adamw)) == 4
    assert (adamw.param_groups[0]["initial_lr"], muon.param_groups[0]["initial_lr"]) == (0.5, 0.25)


def test_a_step_of_muon_turns_every_direction_alike(model: nn.Module) -> None:
    """The update is nearly orthogonal: of a gradient of very different singular values, all become about one."""
    matrix = model[1].weight
    _, muon = make_optimizers(config(optimizer="muon", muon_learning_rate=1.0), model, [matrix])
    before = matrix.detach().clone()
    matrix.grad = torch.diag(torch.tensor([100.0, 10.0, 1.0, 0.5]))
    muon.step()
    sizes = torch.linalg.svdvals(matrix.detach() - before)
    assert sizes.max() / sizes.min() < 5


def test_muon_without_hidden_matrices_is_a_sentence(model: nn.Module) -> None:
    with pytest.raises(UserError, match="--optimizer muon is for transformers"):
        make_optimizers(config(optimizer="muon"), model, [])
