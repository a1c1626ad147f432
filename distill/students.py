"""One student of trajectory matching: where it starts, what it sees, and how the images should change for it.

`Students.gradients` is the method (Cazenavette et al., arXiv 2203.11932): take an expert's weights after some epoch,
let a student go N steps from there on the distilled set, and compare where it ends with the expert M epochs later.
Flat experts make it FTD (arXiv 2211.11004); soft labels and chosen ranges of starts make it DATM (arXiv 2310.05773).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill import augment
from distill.buffer import ExpertBuffer
from distill.config import MatchConfig
from distill.learned import Tensors
from distill.presets import Hyperparameters
from distill.unroll import Gradients, gradients
from workbench import seeds
from workbench.errors import UserError

START = 161  # stream of randomness


class Students(NamedTuple):
    """The experts and the settings that students come from."""

    config: MatchConfig
    row: Hyperparameters
    buffer: ExpertBuffer
    experts: list[int]
    device: torch.device

    def gradients(self, values: Tensors, classes: Int64[Tensor, " n"], step: int, number: int) -> Gradients:
        """Loss and gradients of student `number` of update `step`: all that is random depends on the seed and these.

        `values`: the images, the step size, and the soft labels if they are learned.
        """
        config, row, generator = self.config, self.row, seeds.generator(self.config.seed, START, step, number)
        expert = self.experts[int(torch.randint(len(self.experts), (), generator=generator))]
        epoch = int(torch.randint(row.min_start_epoch, end_of_starts(row, step), (), generator=generator))
        start = self.buffer.theta(expert, epoch).to(self.device)
        target = self.buffer.theta(expert, epoch + row.expert_epochs).to(self.device)
        batches = draw_batches(len(classes), row.inner_batch_size, row.synthetic_steps, generator)
        strategy, size = self.buffer.settings["augmentation"], self.buffer.spec.size
        draws = [augment.draw(strategy, len(batch), size, generator).to(self.device) for batch in batches]
        return gradients(
            self.buffer.network, start, target, values["images"], self._labels(values, classes, target),
            values["step_size"], [batch.to(self.device) for batch in batches], draws,
            config.grad_mode, config.compile, config.keep_every,
        )  # fmt: skip

    def _labels(self, values: Tensors, classes: Int64[Tensor, " n"], target: Float[Tensor, " p"]) -> Tensor:
        """Class numbers, learned logits, or the target's own logits of the images as they are now."""
        if self.row.labels == "assigned":
            with torch.no_grad():
                return self.buffer.network(target, values["images"])
        return values.get("labels", classes)


def end_of_starts(row: Hyperparameters, step: int) -> int:
    """Starts are before this epoch; it widens evenly from the first such epoch to the last."""
    if row.first_max_start_epoch is None or step >= row.widening_steps:
        return row.max_start_epoch
    return row.first_max_start_epoch + (row.max_start_epoch - row.first_max_start_epoch) * step // row.widening_steps


def draw_batches(images: int, size: int, count: int, generator: torch.Generator) -> list[Int64[Tensor, " _"]]:
    """`count` batches of `size` images (0: of all): shuffled pass after pass; the last of a pass may be smaller."""
    batches: list[Tensor] = []
    while len(batches) < count:
        batches += torch.randperm(images, generator=generator).split(size or images)
    return batches[:count]


def choose_experts(config: MatchConfig, buffer: ExpertBuffer) -> list[int]:
    """Numbers of the experts to match. Raises UserError where there are fewer than asked for."""
    asked = config.num_experts or len(buffer.numbers)
    if len(buffer.numbers) < asked:
        raise UserError(
            f"--num-experts is {asked} but {buffer.folder} holds {len(buffer.numbers)}; "
            "give fewer, or run the experts command again to train the others"
        )
    return buffer.numbers[:asked]


def check_starts(row: Hyperparameters, buffer: ExpertBuffer) -> None:
    """Raise UserError where a segment would begin or end beyond what the experts have."""
    begin, end = row.min_start_epoch, max(row.max_start_epoch, row.first_max_start_epoch or 0)
    if begin >= min(row.max_start_epoch, row.first_max_start_epoch or row.max_start_epoch):
        raise UserError(
            f"--min-start-epoch is {begin}, and starts are to be before epoch {row.first_max_start_epoch or end}; "
            "give a lower first epoch, or a higher last one"
        )
    if end - 1 + row.expert_epochs > buffer.epochs:
        raise UserError(
            f"starts before epoch {end} and segments of {row.expert_epochs} epochs need experts of "
            f"{end - 1 + row.expert_epochs}, but those in {buffer.folder} have {buffer.epochs}; give --max-start-epoch "
            f"{max(buffer.epochs - row.expert_epochs + 1, 1)}, or train experts for more --epochs"
        )
