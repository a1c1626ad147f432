"""An RPE-2D generator of this workbench as GenView's image variation: partly to noise, and back without a label."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from augment_synth.genview import Variation
from workbench.errors import UserError

NUM_STEPS = 10


def variation_of(pipe: Any, seed: int = 0, num_steps: int = NUM_STEPS) -> Variation:
    """Images in [0, 1] of the pipeline's own size, taken to x_t = (1 - t) x_0 + t eps at t = strength, and from there
    by Euler steps along the generator's velocity.

    Each call draws new noise, from `seed` on. Raises UserError for another pipeline, and for images of another size.
    """
    if type(pipe).__name__ != "RPE2DPipeline" or pipe.vae is not None:
        raise UserError(f"a {type(pipe).__name__} cannot vary images: give an rpe2d generator of pixels")
    draws = torch.Generator().manual_seed(seed)
    network = pipe.transformer.eval()

    @torch.no_grad()
    def vary(images: Float[Tensor, "m c h w"], strength: float) -> Float[Tensor, "m c h w"]:
        _check(images, network.config.in_channels, pipe.native_size)
        x_0 = (2 * images - 1).to(network.device)
        noise = torch.randn(x_0.shape, generator=draws).to(x_0)
        x_t = (1 - strength) * x_0 + strength * noise
        nothing = torch.full((len(images),), network.config.num_classes, device=network.device)
        for t, after in pairwise(torch.linspace(strength, 0, num_steps + 1).tolist()):
            time = torch.full((len(images),), 1000 * t, device=network.device)
            x_t = x_t + (after - t) * network(x_t, time, nothing, return_dict=False)[0]
        return ((x_t + 1) / 2).clamp(0, 1).to(images)

    return vary


def _check(images: Float[Tensor, "m c h w"], channels: int, size: Sequence[int]) -> None:
    wanted = (channels, *size)
    if tuple(images.shape[1:]) != wanted:
        given, asked = ("x".join(map(str, shape)) for shape in (images.shape[1:], wanted))
        raise UserError(
            f"the images are {given} (channels, height, width) but the generator makes {asked}: resize them"
        )
