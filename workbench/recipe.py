"""What a training run is about. The loop (`training.py`) knows how; a recipe says what."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from workbench.config import TrainingConfig

Draws = dict[str, Tensor]


class Recipe(ABC):
    """A model, the randomness of one step, and the loss of one step.

    Everything random is drawn in `draw`, for the whole global batch at once, from a generator that depends on (seed,
    step) only. So a step is the same whatever ran before it, however the batch is split over forward passes and
    processes, and after any resume.
    """

    name: ClassVar[str]  # as typed after gen/train.py
    result: ClassVar[str] = "pipeline"  # the published folder, below the run's
    config: TrainingConfig
    model: nn.Module  # what is trained
    num_examples: int
    notes: tuple[str, ...] = ()  # what a person must know of the data

    @abstractmethod
    def to(self, device: torch.device) -> None:
        """Move the training data to where the model is, if that pays."""

    @abstractmethod
    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """All random numbers of a step (from 1); each tensor's first axis counts the samples of the global batch."""

    @abstractmethod
    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Scalars of these samples; `loss` is minimised, the others are logged. `model` is the wrapped one."""

    def after_step(self, step: int) -> None:  # noqa: B027
        """What a good step still asks for once the weights have moved, on all processes: nothing, for most recipes."""

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Matrices between a transformer's first and last layers, which the Muon optimizer may train; else none."""
        return []

    @abstractmethod
    def validate(self, model: nn.Module, folder: Path, step: int) -> Mapping[str, float]:
        """Figures of the averaged model; pictures go to `folder`."""

    @abstractmethod
    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """Write the result with the averaged weights into the empty `folder`; `record` says how it was trained."""
