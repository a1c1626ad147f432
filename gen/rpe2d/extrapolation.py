"""The rivals of random positions: what others do to a model of fixed positions to reach a larger grid.

On a model of random positions they take the whole range for the trained grid: of use beyond the range, not within.

A model trained on L positions along an axis is asked for L' patches there; s = max(L' / L, 1). Each rule gives the
positions of the patches, the rotary frequencies of each axis, and a factor on the attention logits. The `vision_` forms
use each axis' own s, the others the larger one. DyPE changes with the noise level t: 1 is noise, 0 is image.
Letters: d channels of a head that turn with one axis, half of head_dim.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gen.rpe2d.modes import Extrapolation
from gen.rpe2d.rotary import rotary_frequencies

ANY_ENCODING = ("extrapolation", "interpolation", "vision_interpolation")  # the others change rotary frequencies
PER_AXIS = ("vision_interpolation", "vision_ntk", "vision_yarn", "dype_ntk", "dype_yarn")
TURNS = (32.0, 1.0)  # YaRN: frequencies of more turns over the trained range stay, of fewer are interpolated
NTK_TURNS = (1.25, 0.75)  # NTK-by-parts: between interpolated and NTK-aware
BASE_TURNS = (16.0, 2.0)  # and between these two and unchanged


@dataclass(frozen=True)
class Placement:
    """Row and column positions of a grid of patches and, where they are not the model's own, its rotary frequencies."""

    rows: Tensor
    columns: Tensor
    frequencies: tuple[Float[Tensor, " f"], Float[Tensor, " f"]] | None = None
    logit_scale: float = 1.0

    def to(self, device: torch.device) -> "Placement":
        """The same on another device."""
        frequencies = self.frequencies and (self.frequencies[0].to(device), self.frequencies[1].to(device))
        return Placement(self.rows.to(device), self.columns.to(device), frequencies, self.logit_scale)


@dataclass(frozen=True)
class DyPE:
    """Strength of the extrapolation at noise level t: kappa = scale * t^exponent (arXiv 2510.20766)."""

    scale: float = 2.0
    exponent: float = 2.0

    def __call__(self, t: float) -> float:
        return self.scale * t**self.exponent


def extrapolate(
    rule: Extrapolation,
    grid: tuple[int, int],
    trained: tuple[int, int],
    head_dim: int,
    theta: float,
    t: float = 1.0,
    dype: DyPE | None = None,
) -> Placement:
    """Place a grid (height, width) of patches by a rule, for a model trained on `trained` positions at head_dim, theta.

    `t` is the noise level, which DyPE follows with its `dype` strength.
    """
    stretch = [max(new / old, 1.0) for new, old in zip(grid, trained, strict=True)]
    if rule not in PER_AXIS:
        stretch = [max(stretch)] * 2
    rows, columns = (torch.arange(n) for n in grid)
    if rule == "extrapolation":
        return Placement(rows, columns)
    if rule.endswith("interpolation"):
        return Placement(rows / stretch[0], columns / stretch[1])
    kappa = (dype or DyPE())(t) if rule.startswith("dype") else 1.0
    base = rotary_frequencies(head_dim, theta)
    row_frequencies, column_frequencies = (
        _frequencies(rule, base, theta, s, length, kappa) for s, length in zip(stretch, trained, strict=True)
    )
    return Placement(rows, columns, (row_frequencies, column_frequencies), _logit_scale(rule, max(stretch)))


def _frequencies(
    rule: Extrapolation, base: Float[Tensor, " f"], theta: float, s: float, length: int, kappa: float
) -> Float[Tensor, " f"]:
    if rule.endswith("yarn"):
        kept = _kept(base, theta, length, (TURNS[0] * kappa, TURNS[1] * kappa))
        return base / s * (1 - kept) + base * kept
    ntk = _ntk(base, theta, s**kappa)
    if rule != "ntk_by_parts":
        return ntk
    kept = _kept(base, theta, length, NTK_TURNS)
    blend = base / s * (1 - kept) + ntk * kept
    kept = _kept(base, theta, length, BASE_TURNS)
    return blend * (1 - kept) + base * kept


def _ntk(base: Float[Tensor, " f"], theta: float, s: float) -> Float[Tensor, " f"]:
    """NTK-aware: theta' = theta * s^(d / (d - 2)) leaves the fastest frequency and divides the slowest by s."""
    d = 2 * len(base)
    larger = theta * s ** (d / (d - 2)) if d > 2 else theta
    return rotary_frequencies(2 * d, larger)


def _kept(base: Float[Tensor, " f"], theta: float, length: int, turns: tuple[float, float]) -> Float[Tensor, " f"]:
    """1 for frequencies that turn often over the trained range, 0 for those that seldom do, a ramp between (YaRN)."""
    d = 2 * len(base)
    low, high = (d * math.log(length / (max(n, 1e-6) * 2 * math.pi)) / (2 * math.log(theta)) for n in turns)
    low, high = (min(max(k, 0), d - 1) for k in (math.floor(low), math.ceil(high)))
    ramp = (torch.arange(len(base)) - low) / max(high - low, 1e-3)
    return 1 - ramp.clamp(0, 1)


def _logit_scale(rule: Extrapolation, s: float) -> float:
    """YaRN multiplies cosine and sine by 0.1 ln s + 1, on queries and on keys: its square on the logits."""
    return (0.1 * math.log(s) + 1) ** 2 if rule.endswith("yarn") else 1.0
