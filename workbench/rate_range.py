"""How high a learning rate a recipe bears: the loss while the rate rises from far too small to far too large.

The learning rate range test of Smith 2017 (arXiv 1506.01186): one short run, each step at a higher rate than the last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch.optim import Optimizer

from workbench import seeds
from workbench.data_order import global_batch
from workbench.devices import autocast
from workbench.errors import UserError
from workbench.optimizers import make_optimizers
from workbench.progress import progress
from workbench.recipe import Recipe

DRAWS = 46  # stream of randomness
LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
SMOOTHING = 0.9
BLOWN_UP = 4.0  # times the lowest loss
MARGIN = 3.0
SHOWN = 20  # lines of the table


@dataclass(frozen=True)
class RangeTest:
    """The rates, and the running mean of the loss at each, up to where it blew up."""

    rates: list[float]
    losses: list[float]

    @property
    def suggestion(self) -> float:
        """A third of the rate at which the running mean was lowest, because that is ten steps late."""
        return self.rates[self.losses.index(min(self.losses))] / MARGIN

    def table(self) -> str:
        """Rates and losses as text, and the suggestion."""
        rows = list(zip(self.rates, self.losses, strict=True))
        shown = rows[:: max(1, len(rows) // SHOWN)]
        lines = [f"{rate:10.1e}  {loss:10.4g}" for rate, loss in shown]
        head, advice = f"{'rate':>10}  {'loss':>10}", f"suggested: --learning-rate {self.suggestion:.1g}"
        return "\n".join([head, *lines, advice])


def range_test(
    recipe: Recipe, device: torch.device, *, lowest: float = LOWEST, highest: float = HIGHEST, steps: int = STEPS
) -> RangeTest:
    """Train the recipe's model, whose weights are of no use afterwards, at rates that rise evenly in their logarithm.

    Raises UserError where the loss is not finite even at first.
    """
    model = recipe.model.to(device).train()
    model.forward = convert_outputs_to_fp32(
        autocast(recipe.config.mixed_precision, device)(model.forward)
    )  # as accelerate
    recipe.to(device)
    optimizers = make_optimizers(recipe.config, model, recipe.hidden_matrices())
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    with progress(steps, "range of rates", unit="step") as bar:
        for done in range(steps):
            rate = lowest * (highest / lowest) ** (done / (steps - 1))
            mean = SMOOTHING * mean + (1 - SMOOTHING) * _step(recipe, model, optimizers, rate, done + 1, device)
            loss = mean / (1 - SMOOTHING ** (done + 1))
            if not loss <= BLOWN_UP * min(losses, default=math.inf):  # nor where it is not a number
                break
            rates.append(rate)
            losses.append(loss)
            bar.update()
    if not losses:
        raise UserError(
            f"the loss is not finite even at a learning rate of {lowest:.0e}; check the weights and the data"
        )
    return RangeTest(rates, losses)


def _step(
    recipe: Recipe, model: nn.Module, optimizers: Sequence[Optimizer], rate: float, step: int, device: torch.device
) -> float:
    """One update at this rate; the loss before it."""
    config = recipe.config
    indices = global_batch(recipe.num_examples, config.train_batch_size, config.seed, step)
    generator = seeds.generator(config.seed, DRAWS, step, device=device)
    loss = recipe.loss(model, indices, recipe.draw(config.train_batch_size, generator, step))["loss"]
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    for group in optimizers[0].param_groups:
        group["lr"] = rate
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()
