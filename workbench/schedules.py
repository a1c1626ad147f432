"""How the rate of an optimizer, and with one_cycle its momentum, moves over a run: a function of the step alone."""

import math
from collections.abc import Iterable
from typing import Any

from diffusers.optimization import get_scheduler
from torch.optim import Optimizer

from workbench.config import TrainingConfig

# torch's defaults for OneCycleLR: share of the steps that warm up, and first and last rate as shares of the full one
WARM_UP, FIRST, LAST = 0.3, 1 / 25, 1 / 25e4
LEAST_MOMENTUM, MOST_MOMENTUM = 0.85, 0.95


class Schedule:
    """Sets what moves before each step. A pure function of the step: there is nothing to save or to resume."""

    def __init__(self, config: TrainingConfig, optimizer: Optimizer) -> None:
        self.steps, self.cycles = config.max_train_steps, config.lr_scheduler == "one_cycle"
        if not self.cycles:
            named = get_scheduler(
                config.lr_scheduler,
                optimizer,
                num_warmup_steps=config.lr_warmup_steps,
                num_training_steps=config.max_train_steps,
            )
            self.factor = named.lr_lambdas[0]

    def set(self, groups: Iterable[dict[str, Any]], done: int) -> None:
        """Give an optimizer's groups their rate for the step after `done` others."""
        for group in groups:
            if self.cycles:
                factor, momentum = one_cycle(done, self.steps)
                _set_momentum(group, momentum)
            else:
                factor = self.factor(done)
            group["lr"] = group["initial_lr"] * factor


def one_cycle(done: int, steps: int) -> tuple[float, float]:
    """Factor of the rate, and the momentum, after `done` of `steps` steps: one up and down once, the other opposite.

    Smith & Topin 2017 (arXiv 1708.07120), as `torch.optim.lr_scheduler.OneCycleLR` does by default.
    """
    peak = WARM_UP * steps - 1
    if done < peak:
        share = _cosine(done / peak)
        return FIRST + (1 - FIRST) * share, MOST_MOMENTUM + (LEAST_MOMENTUM - MOST_MOMENTUM) * share
    share = _cosine((done - peak) / (steps - 1 - peak))
    return 1 + (LAST - 1) * share, LEAST_MOMENTUM + (MOST_MOMENTUM - LEAST_MOMENTUM) * share


def _cosine(share: float) -> float:
    """From 0 to 1, slow at both ends."""
    return (1 - math.cos(math.pi * share)) / 2


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, group["betas"][1])
    else:
        group["momentum"] = momentum
