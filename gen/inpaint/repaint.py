"""Inpainting by a diffusion model that was never trained for it: RePaint (Lugmayr et al. 2022, arXiv 2201.09865).

In each step what is known is put in place of what the model made of it, at the step's noise level; and again and again
noise is added back and taken away once more, so that both parts come to agree. Here the steps are deterministic
(DDIM's, which for a flow are Euler's), and far fewer than the paper's.

Noise: x = alpha x_0 + sigma eps; a flow has (alpha, sigma) = (1 - t, t), a model of pixels with added noise (1, sigma).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gen.pixel.noise import denoise
from gen.pixel.pipeline import EPGPipeline, is_consistency
from gen.rpe2d.pipeline import RPE2DPipeline
from gen.rpe2d.placement import place
from workbench.errors import UserError

Images = Float[Tensor, "b c h w"]


class Level(NamedTuple):
    """How much of the image and of the noise is in x."""

    alpha: float
    sigma: float


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion model of one size, without labels."""

    native_size: tuple[int, int]
    channels: int

    def levels(self, count: int) -> list[Level]:
        """`count` noise levels from the most on."""

    def clean(self, x: Images, level: Level) -> Images:
        """What the model takes for the clean image."""

    def scaled(self, images: Images) -> Images:
        """Images in [-1, 1] as the model sees them."""

    def restored(self, images: Images) -> Images:
        """The model's images in [-1, 1]."""


class FlowDenoiser:
    """An RPE-2D pipeline of pixels at its training size: the velocity is eps - x_0."""

    def __init__(self, pipe: RPE2DPipeline) -> None:
        if pipe.vae is not None:
            raise UserError("this pipeline makes latents, and holes are in pixels; give one trained without --vae")
        self.transformer, self.native_size = pipe.transformer, pipe.native_size
        self.channels = int(pipe.transformer.config.in_channels)
        placement = place(pipe.transformer, pipe.transformer.config.inference_positions, pipe.grid(*pipe.native_size))
        self.positions = placement.to(pipe.device)

    def levels(self, count: int) -> list[Level]:
        """Evenly spaced times."""
        return [Level(1 - t, t) for t in torch.linspace(1, 1 / count, count).tolist()]

    def clean(self, x: Images, level: Level) -> Images:
        """x - t v."""
        time = torch.full((len(x),), 1000 * level.sigma, device=x.device)
        positions = (self.positions.rows, self.positions.columns)
        labels = torch.full((len(x),), self.transformer.config.num_classes, device=x.device)
        velocity = self.transformer(x, time, labels, position_ids=positions, return_dict=False)[0]
        return x - level.sigma * velocity.float()

    def scaled(self, images: Images) -> Images:
        """As they are."""
        return images

    def restored(self, images: Images) -> Images:
        """As they are."""
        return images


class PixelDenoiser:
    """An EPG diffusion model: noise is added to pixels that keep their size."""

    def __init__(self, pipe: EPGPipeline) -> None:
        if is_consistency(pipe.transformer):
            raise UserError("a consistency model cannot go back and forth between noise levels; give a diffusion model")
        self.transformer, self.native_size = pipe.transformer, pipe.native_size
        self.channels = int(pipe.transformer.config.in_channels)
        self.null = pipe.num_classes

    def levels(self, count: int) -> list[Level]:
        """Karras's levels."""
        noise = self.transformer.noise_range
        return [Level(1.0, sigma) for sigma in noise.shifted(noise.karras(count)).tolist()]

    def clean(self, x: Images, level: Level) -> Images:
        """The network's own estimate, within the range of the data."""
        sigma = torch.full((len(x),), level.sigma, device=x.device)
        labels = torch.full((len(x),), self.null, device=x.device) if self.null else None
        estimate = denoise(self.transformer, x, sigma, labels, self.transformer.noise_range)
        return self.transformer.scaling.clamp(estimate)

    def scaled(self, images: Images) -> Images:
        """By the training data's mean and deviation."""
        return self.transformer.scaling.normalise((images + 1) / 2)

    def restored(self, images: Images) -> Images:
        """Back from them."""
        return self.transformer.scaling.restore(images) * 2 - 1


def denoiser_of(pipe: RPE2DPipeline | EPGPipeline) -> Denoiser:
    """A pipeline's model as a denoiser. Raises UserError for one that cannot be used so."""
    return FlowDenoiser(pipe) if isinstance(pipe, RPE2DPipeline) else PixelDenoiser(pipe)


@torch.no_grad()
def repaint(
    denoiser: Denoiser,
    images: Images,
    mask: Float[Tensor, "b 1 h w"],
    generators: Sequence[torch.Generator],
    num_inference_steps: int = 50,
    jump_length: int = 5,
    num_resamples: int = 5,
) -> Images:
    """Images in [-1, 1] whose hole (mask 1) is filled; each draws its noise from its own generator.

    Every `jump_length` steps these are done again, `num_resamples` times in all: so the model is asked about
    `num_inference_steps` x `num_resamples` times.
    """
    known = denoiser.scaled(images)
    levels = [*denoiser.levels(num_inference_steps), Level(1.0, 0.0)]

    def noise() -> Images:
        drawn = [torch.randn(known.shape[1:], generator=one, device=one.device) for one in generators]
        return torch.stack(drawn).to(known.device)

    x = levels[0].alpha * known * (1 - mask) + levels[0].sigma * noise()
    for now, after in walk(num_inference_steps, jump_length, num_resamples):
        if after > now:
            x_0 = denoiser.clean(x, levels[now])
            x = moved(x, x_0, levels[now], levels[after])
            x = x * mask + (levels[after].alpha * known + levels[after].sigma * noise()) * (1 - mask)
        else:
            x = renoised(x, levels[now], levels[after], noise())
    return denoiser.restored(x)


def walk(num_steps: int, jump_length: int, num_resamples: int) -> Iterator[tuple[int, int]]:
    """Pairs of neighbouring levels, 0 the noisiest and `num_steps` the clean image, as they are gone through.

    Forward to the end, and after every `jump_length` steps, except the last ones, back and forth again.
    """
    path = [0]
    for start in range(0, num_steps, jump_length):
        stop = min(start + jump_length, num_steps)
        path += range(start + 1, stop + 1)
        if stop < num_steps:
            path += [*range(stop - 1, start - 1, -1), *range(start + 1, stop + 1)] * (num_resamples - 1)
    return pairwise(path)


def moved(x: Images, x_0: Images, now: Level, after: Level) -> Images:
    """x at the next level, with the same clean image and the same noise."""
    eps = (x - now.alpha * x_0) / now.sigma
    return after.alpha * x_0 + after.sigma * eps


def renoised(x: Images, now: Level, after: Level, noise: Images) -> Images:
    """x at a noisier level: what is missing of the noise is drawn anew."""
    ratio = after.alpha / now.alpha
    missing = max(after.sigma**2 - (ratio * now.sigma) ** 2, 0.0) ** 0.5
    return ratio * x + missing * noise
