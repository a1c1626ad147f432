"""How an image of another size than the training size is asked for: positions, attention scale and timestep shift."""

import math

import torch

from gen.pipelines import Generators
from gen.rpe2d.extrapolation import ANY_ENCODING, Placement, extrapolate
from gen.rpe2d.modes import EXTRAPOLATIONS, POSITION_MODES
from gen.rpe2d.positions import check_range, inference_positions
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench.errors import UserError

AttentionScale = int | float | str | None  # a number, auto, entropy, yarn, or none
TimestepShift = int | float | str | None  # a number, auto, or none


def place(
    model: RPE2DTransformer2DModel,
    mode: str,
    grid: tuple[int, int],
    generator: Generators = None,
    batch_size: int = 1,
    sigma: float = 1.0,
) -> Placement:
    """Positions of a `grid` (height, width) of patches by a mode of `positions.py` or a rule of `extrapolation.py`.

    One set for all images or, where they are drawn (mode `random`), one set for each. `sigma` is the noise level, which
    only DyPE's rules follow.
    """
    c, maximum = model.config, tuple(model.config.max_positions)
    if mode in EXTRAPOLATIONS:
        return extrapolate(mode, grid, maximum, c.attention_head_dim, c.rope_theta, sigma)  # type: ignore[arg-type]
    if mode != "random":
        return Placement(*inference_positions(grid, maximum, mode))  # type: ignore[arg-type]
    if generator is None:  # one draw after another, as of noise
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    generators = generator if isinstance(generator, list) else [generator] * batch_size
    drawn = [inference_positions(grid, maximum, mode, one) for one in generators]  # type: ignore[arg-type]
    return Placement(torch.stack([r for r, _ in drawn]), torch.stack([c for _, c in drawn]))


def check_mode(model: RPE2DTransformer2DModel, mode: str, grid: tuple[int, int]) -> None:
    """Raise UserError where the model cannot place this grid by this mode."""
    encoding = model.config.pos_embed_type
    if mode not in POSITION_MODES:
        raise UserError(f"position_mode is {mode!r}; give one of {', '.join(POSITION_MODES)}")
    if mode not in EXTRAPOLATIONS:
        for length, maximum in zip(grid, model.config.max_positions, strict=True):
            check_range(length, maximum)
    elif mode not in ANY_ENCODING and encoding != "rope":
        raise UserError(f"{mode} changes rotary frequencies and this model's encoding is {encoding}; use interpolation")
    elif mode == "extrapolation" and encoding == "table" and any(map(int.__gt__, grid, model.config.max_positions)):
        raise UserError("a learned table ends at its last position; use interpolation instead of extrapolation")


def attention_factor(rule: AttentionScale, model: RPE2DTransformer2DModel, grid: tuple[int, int]) -> float:
    """Factor on the attention logits, 1 at the training size.

    entropy: sqrt(ln N' / ln N) for N' tokens, N in training [Jin et al. 2023, arXiv 2306.08645]; auto: the same for
    more tokens, 1 for fewer. yarn: (0.1 ln s + 1)^2 for the larger ratio s of sides, as FiT (arXiv 2402.12376) has it.
    """
    native, tokens = model.native_tokens, grid[0] * grid[1]
    if rule not in (None, "auto", "entropy", "yarn") and not _positive(rule):
        raise UserError(f"attention_scale is {rule!r}; give a number above 0, auto, entropy, yarn or None")
    if rule == "yarn":
        stretch = max(1.0, *(new / old for new, old in zip(grid, model.native_grid, strict=True)))
        return (0.1 * math.log(stretch) + 1) ** 2
    if rule == "entropy" or (rule == "auto" and tokens > native):
        return math.sqrt(math.log(tokens) / math.log(native)) if min(tokens, native) > 1 else 1.0
    return 1.0 if rule in ("auto", None) else float(rule)


def timestep_factor(rule: TimestepShift, model: RPE2DTransformer2DModel, grid: tuple[int, int]) -> float:
    """The shift s of sigma' = s sigma / (1 + (s - 1) sigma) [SD3, arXiv 2403.03206].

    auto: sqrt(N' / N) for N' tokens, N in training.
    """
    if rule not in (None, "auto") and not _positive(rule):
        raise UserError(f"timestep_shift is {rule!r}; give a number above 0, auto or None")
    if rule == "auto":
        return math.sqrt(grid[0] * grid[1] / model.native_tokens)
    return 1.0 if rule is None else float(rule)


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and value > 0
