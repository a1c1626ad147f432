"""Which examples a step sees: a function of (seed, step), so that a resumed run reads on exactly where it stopped."""

from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from workbench import seeds

ORDER = 0  # stream of randomness


def global_batch(num_examples: int, batch_size: int, seed: int, step: int) -> Int64[Tensor, " g"]:
    """Indices of the examples of `step` (from 1): one shuffled epoch after another, none dropped."""
    wanted = torch.arange((step - 1) * batch_size, step * batch_size)
    epochs, places = wanted // num_examples, wanted % num_examples
    parts = [_epoch(num_examples, seed, e)[places[epochs == e]] for e in epochs.unique().tolist()]
    return torch.cat(parts)


@lru_cache(maxsize=2)
def _epoch(num_examples: int, seed: int, epoch: int) -> Int64[Tensor, " n"]:
    return torch.randperm(num_examples, generator=seeds.generator(seed, ORDER, epoch))
