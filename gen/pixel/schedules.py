"""What changes in the course of training: noise levels and temperature in stage 1, the gap of a pair in stage 2.

`step` counts from 0. Sources: EPG (Lei et al. 2025, arXiv 2510.12586); the levels are those of improved consistency
training (Song and Dhariwal 2023, arXiv 2310.14189) but rounded up, the gap is that of consistency tuning (Geng et al.
2024, arXiv 2406.14548).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def num_levels(step: int, total: int, first: int, final: int) -> int:
    """How many noise levels the neighbours of a step are drawn from: first + 1, doubling up to final + 1.

    N = min(first 2^ceil(k / K'), final) + 1 with K' = ceil(K / log2(ceil(final / first) + 1)).
    """
    period = math.ceil(total / math.log2(math.ceil(final / first) + 1))
    return min(first * 2 ** math.ceil(step / period), final) + 1


def most_noise_temperature(step: int, total: int, start: float, end: float) -> float:
    """From `start` to `end` along a sine over the first two thirds of all steps, and `end` from there on."""
    done = min(step / total, 2 / 3)
    return start + (end - start) * math.sin(3 / 4 * math.pi * done)


def temperature(
    sigma: Float[Tensor, ""], sigma_range: tuple[float, float], at_least: float, at_most: float
) -> Float[Tensor, ""]:
    """Linear in the (unshifted) noise level, between those at the least and at the most noise."""
    low, high = sigma_range
    return at_least + (at_most - at_least) * (sigma - low) / (high - low)


def stage_of(step: int, total: int, num_stages: int, first: int) -> int:
    """Which of the stages, of equal length, a step belongs to: first, first + 1, ..."""
    return first + step // math.ceil(total / num_stages)


def paired_sigma(
    sigma: Float[Tensor, " b"], stage: int, sigma_min: float, base: float, extra: float, slope: float
) -> Float[Tensor, " b"]:
    """The less noisy level r of each pair: r / t = 1 - base^-stage (1 + extra sigmoid(-slope t)), of unshifted levels.

    No less than sigma_min, where the model's answer is fixed; in stage 0 that is plain denoising.
    """
    ratio = 1 - base**-stage * (1 + extra * torch.sigmoid(-slope * sigma))
    return (sigma * ratio).clamp(min=sigma_min)
