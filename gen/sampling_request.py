"""What `workbench sample` asks of each kind of pipeline, and what is told of it beside each image.

Light (no torch), because `--help` reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from gen.sampling_config import SampleConfig
from workbench.errors import UserError

if TYPE_CHECKING:
    from gen.pipelines import LabelledPipeline

GUIDANCE_SCALE = 1.5  # unless given, where there is guidance


class Request(NamedTuple):
    """For images of one size: arguments of the pipeline's call, and the provenance of each image."""

    arguments: dict[str, Any]
    provenance: dict[str, Any]


def make_request(config: SampleConfig, pipe: LabelledPipeline, size: tuple[int, int]) -> Request:
    """What the settings ask of a pipeline. Raises UserError for a size or a setting that it cannot follow."""
    return REQUESTS[type(pipe).__name__](config, pipe, size)


def rpe2d_request(config: SampleConfig, pipe: Any, size: tuple[int, int]) -> Request:
    """Of any size, placed in the trained positions by some rule."""
    from gen.rpe2d.placement import check_mode

    refuse(config, pipe, "guidance_sigma_range")
    mode = config.position_mode or pipe.transformer.config.inference_positions
    check_mode(pipe.transformer, mode, pipe.grid(*size))
    pipe.token_ids(config.prompt, 1)
    factors = config.factor("attention_scale"), config.factor("timestep_shift")
    attention_scale, timestep_shift = pipe.size_factors(size, mode, *factors)
    shared = {
        "guidance_scale": GUIDANCE_SCALE if config.guidance_scale is None else config.guidance_scale,
        "num_inference_steps": config.num_inference_steps or 25,
    }
    arguments = {
        **shared, "guidance_interval": config.guidance_interval, "prompt": config.prompt, "position_mode": mode,
        "attention_scale": factors[0], "timestep_shift": factors[1],
    }  # fmt: skip
    provenance = {
        **shared, "guidance_interval": list(config.guidance_interval), "position_mode": mode,
        "attention_scale": round(attention_scale, 6), "timestep_shift": round(timestep_shift, 6),
        **({"prompt": config.prompt} if config.prompt else {}),
    }  # fmt: skip
    return Request(arguments, provenance)


def epg_request(config: SampleConfig, pipe: Any, size: tuple[int, int]) -> Request:
    """Of the model's own size, by a diffusion model with guidance or by a consistency model without."""
    from gen.pixel.pipeline import SIGMA_RANGE, is_consistency

    refuse(config, pipe, "prompt", "position_mode", "attention_scale", "timestep_shift", "guidance_interval")
    one_step = is_consistency(pipe.transformer)
    if one_step:
        refuse(config, pipe, "guidance_sigma_range")
    own = 1.0 if one_step or not pipe.num_classes else GUIDANCE_SCALE
    arguments: dict[str, Any] = {
        "guidance_scale": own if config.guidance_scale is None else config.guidance_scale,
        "num_inference_steps": config.num_inference_steps or pipe.default_steps,
    }
    pipe.check(*size, arguments["guidance_scale"])
    pipe.scheduler.set_timesteps(arguments["num_inference_steps"])
    if not one_step:
        arguments["guidance_sigma_range"] = config.guidance_sigma_range or SIGMA_RANGE
    return Request(arguments, {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()})


def refuse(config: SampleConfig, pipe: LabelledPipeline, *names: str) -> None:
    """Raise UserError for the first of these settings that was given: they mean nothing to the pipeline."""
    for name in names:
        if getattr(config, name) != SampleConfig.__dataclass_fields__[name].default:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} means nothing to this {type(pipe).__name__}; leave it out")


REQUESTS: dict[str, Callable[[SampleConfig, Any, tuple[int, int]], Request]] = {
    "RPE2DPipeline": rpe2d_request,
    "EPGPipeline": epg_request,
}
