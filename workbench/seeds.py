"""Random generators that depend on what they are for, never on what was drawn before."""

import numpy as np
import torch


def generator(seed: int, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose, from the run's seed and a key such as (stream, step).

    Equal (seed, key) give equal draws on the same device kind, whatever was drawn elsewhere.
    A stream's keys have one length: 0s at the end of a key count for nothing.
    """
    state = np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state) >> 1)
