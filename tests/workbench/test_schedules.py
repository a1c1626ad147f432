"""One cycle of rate and momentum, against torch's own. (The schedules of diffusers: test_training.py.)"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from workbench.config import TrainingConfig
from workbench.optimizers import make_optimizers
from workbench.schedules import Schedule, one_cycle


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def config(**changes: Any) -> TrainingConfig:
    settings = {"output_dir": Path("run"), "lr_scheduler": "one_cycle", "learning_rate": 0.3, **changes}
    return TrainingConfig(**settings)


@pytest.mark.parametrize("steps", [4, 7, 10, 101])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_one_cycle_is_that_of_torch(name: str, steps: int) -> None:
    settings = config(optimizer=name, max_train_steps=steps)
    (ours,), (theirs,) = (make_optimizers(settings, model(), []) for _ in range(2))
    schedule, reference = Schedule(settings, ours), OneCycleLR(theirs, 0.3, total_steps=steps)
    for done in range(steps):
        schedule.set(ours.param_groups, done)
        for mine, wanted in zip(ours.param_groups, theirs.param_groups, strict=True):
            for key in ("lr", "momentum", "betas"):
                assert (key in mine) == (key in wanted)
                assert mine.get(key, 0) == pytest.approx(wanted.get(key, 0), rel=1e-9)
        theirs.step()
        if done + 1 < steps:
            reference.step()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_short_cycles_are_finite(steps: int) -> None:
    values = [one_cycle(done, steps) for done in range(steps)]
    assert all(0 < factor <= 1 and 0.85 <= momentum <= 0.95 for factor, momentum in values)


def test_sgd_is_nesterov_and_spares_biases() -> None:
    network = model()
    (only,) = make_optimizers(config(optimizer="sgd", adam_weight_decay=5e-4), network, [])
    weights, biases = only.param_groups
    assert (weights["weight_decay"], biases["weight_decay"]) == (5e-4, 0.0)
    assert {id(p) for p in biases["params"]} == {id(network[0].bias), id(network[1].bias)}
    assert {id(p) for p in weights["params"]} == {id(network[0].weight), id(network[1].weight)}
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in only.param_groups)
    assert torch.tensor([group["initial_lr"] for group in only.param_groups]).eq(0.3).all()
