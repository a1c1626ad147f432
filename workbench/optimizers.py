"""The optimizers of a run: AdamW for all weights, or Muon for the matrices of hidden layers and AdamW for the rest."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from workbench.config import TrainingConfig
from workbench.errors import UserError


def make_optimizers(config: TrainingConfig, model: nn.Module, matrices: Sequence[nn.Parameter]) -> list[Optimizer]:
    """The optimizers of `model`'s trainable weights; `matrices` are those of its hidden layers.

    Muon steps along the orthogonalised momentum of a matrix (Jordan 2024). Every group keeps its full rate as
    `initial_lr`, for the schedule. Raises UserError for Muon where there are no such matrices.
    """
    chosen = {id(weight) for weight in matrices} if config.optimizer == "muon" else set()
    if config.optimizer == "muon" and not chosen:
        raise UserError("--optimizer muon is for transformers, and this recipe trains none; give adamw")
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimizers: list[Optimizer] = [
        torch.optim.AdamW(
            [weight for weight in trainable if id(weight) not in chosen],
            lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay, eps=config.adam_epsilon, fused=True,
        )
    ]  # fmt: skip
    if chosen:
        hidden = [weight for weight in trainable if id(weight) in chosen]
        optimizers.append(torch.optim.Muon(hidden, lr=config.muon_learning_rate, weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
