"""The optimizers of a run: AdamW or SGD for all weights, or Muon for matrices of hidden layers and AdamW for others."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from workbench.config import TrainingConfig
from workbench.errors import UserError

MOMENTUM = 0.9  # of SGD


def make_optimizers(config: TrainingConfig, model: nn.Module, matrices: Sequence[nn.Parameter]) -> list[Optimizer]:
    """The optimizers of `model`'s trainable weights; `matrices` are those of its hidden layers.

    Muon steps along the orthogonalised momentum of a matrix (Jordan 2024). Every group keeps its full rate as
    `initial_lr`, for the schedule. Raises UserError for Muon where there are no such matrices.
    """
    if config.optimizer == "muon" and not matrices:
        raise UserError("--optimizer muon is for transformers, and this recipe trains none; give adamw")
    chosen = {id(weight) for weight in matrices} if config.optimizer == "muon" else set()
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    rest = {name: weight for name, weight in trainable.items() if id(weight) not in chosen}
    optimizers: list[Optimizer] = [_sgd(config, rest) if config.optimizer == "sgd" else _adamw(config, rest)]
    if chosen:
        hidden = [weight for weight in trainable.values() if id(weight) in chosen]
        optimizers.append(torch.optim.Muon(hidden, lr=config.muon_learning_rate, weight_decay=0.0))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _adamw(config: TrainingConfig, weights: dict[str, nn.Parameter]) -> Optimizer:
    return torch.optim.AdamW(
        list(weights.values()),
        lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay, eps=config.adam_epsilon, fused=True,
    )  # fmt: skip


def _sgd(config: TrainingConfig, weights: dict[str, nn.Parameter]) -> Optimizer:
    """Nesterov's momentum; biases do not decay."""
    biases = [weight for name, weight in weights.items() if name.endswith("bias")]
    others = [weight for name, weight in weights.items() if not name.endswith("bias")]
    groups = [{"params": others, "weight_decay": config.adam_weight_decay}, {"params": biases, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=MOMENTUM, nesterov=True)
