"""Images from an RPE-2D transformer, in the manner of a diffusers pipeline.

pipe = RPE2DPipeline.from_pretrained("runs/NAME/pipeline")
images = pipe(class_labels=["bag", "coat"], height=48, width=32, guidance_scale=1.5).images
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ImagePipelineOutput, ModelMixin
from diffusers.image_processor import VaeImageProcessor
from jaxtyping import Float, Int64
from torch import Tensor

from gen.latents import compression_factor, decode
from gen.pipelines import Callback, Generators, LabelledPipeline, Labels
from gen.rpe2d.extrapolation import Placement
from gen.rpe2d.placement import (
    AttentionScale,
    TimestepShift,
    attention_factor,
    check_mode,
    place,
    timestep_factor,
)  # fmt: skip
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench.errors import UserError
from workbench.tokens import token_ids, tokenize


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Euler's method along the flow from noise (sigma 1) to image (sigma 0), shifted by the size asked for."""
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential")


@dataclass(frozen=True)
class Condition:
    """What a whole trajectory is asked for; the same for the conditional and the unconditional half of a batch."""

    labels: Int64[Tensor, " b"]
    tokens: Int64[Tensor, "b t"]
    guidance_scale: float
    guidance_interval: tuple[float, float]
    placement: Placement
    logit_scale: float

    def guides(self, sigma: float) -> bool:
        """Whether guidance is on at this noise level."""
        low, high = self.guidance_interval
        return self.guidance_scale != 1 and low <= sigma <= high

    def with_unconditional(self, null: int) -> "Condition":
        """The batch twice: as it is, then without labels and tokens."""
        labels = torch.cat([self.labels, torch.full_like(self.labels, null)])
        tokens = torch.cat([self.tokens, torch.full_like(self.tokens, -1)])
        rows, columns = (p.repeat(2, 1) if p.ndim == 2 else p for p in (self.placement.rows, self.placement.columns))
        return replace(
            self, labels=labels, tokens=tokens, placement=replace(self.placement, rows=rows, columns=columns)
        )


class RPE2DPipeline(LabelledPipeline):
    """Generates images of any size made of whole patches, up to the model's trained positions."""

    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ["vae"]
    _home = "gen.rpe2d.pipeline"

    def __init__(
        self,
        transformer: RPE2DTransformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: ModelMixin | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, vae=vae)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1, do_resize=False)

    @property
    def num_classes(self) -> int:
        """Number of labels; also the id of "no label"."""
        return int(self.transformer.config.num_classes)

    @property
    def scale_factor(self) -> int:
        """Pixels along each side of one element of the latents; 1 without a VAE."""
        return compression_factor(self.vae) if self.vae is not None else 1

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width in pixels of a training image."""
        height, width = self.transformer.config.sample_size
        return height * self.scale_factor, width * self.scale_factor

    @property
    def _patch(self) -> int:
        """Pixels along a side of a patch."""
        return self.transformer.config.patch_size * self.scale_factor

    def size_factors(
        self, size: tuple[int, int], mode: str, attention_scale: AttentionScale, timestep_shift: TimestepShift
    ) -> tuple[float, float]:
        """Factors on the attention logits and on the noise levels of an image of `size` (height, width) in pixels.

        A YaRN rule brings a factor of its own, which takes the place of `auto`'s and multiplies a given one.
        """
        grid = self.grid(*size)
        own = place(self.transformer, mode, grid).logit_scale if mode.endswith("yarn") else 1.0
        if attention_scale == "auto" and mode.endswith("yarn"):
            attention_scale = None
        attention = own * attention_factor(attention_scale, self.transformer, grid)
        return attention, timestep_factor(timestep_shift, self.transformer, grid)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of an image. Raises UserError when the size is not made of whole patches."""
        patch = self._patch
        if height % patch or width % patch or min(height, width) < patch:
            raise UserError(
                f"{height}x{width} pixels is not made of whole {patch}-pixel patches; give multiples of {patch}"
            )
        return height // patch, width // patch

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        num_images: int = 1,
        position_mode: str | None = None,
        attention_scale: AttentionScale = "auto",
        timestep_shift: TimestepShift = "auto",
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        prompt: str | Sequence[str | Sequence[str]] | None = None,
        latents: Float[Tensor, "b c h w"] | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        callback_on_step_end: Callback | None = None,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            class_labels: names or ids, one per image; None generates `num_images` without a label.
            height, width: size in pixels; the training size by default.
            num_inference_steps: steps of Euler's method, one network call each (two with guidance).
            guidance_scale: classifier-free guidance; 1 is off.
            generator: one for all images, or one per image.
            num_images: how many, where `class_labels` is None or a single label.
            position_mode: how the grid is placed, see `positions.py`, or a rule of `extrapolation.py`; by default the
                model's own.
            attention_scale, timestep_shift: what another size than the training size asks for, see `placement.py`.
            guidance_interval: noise levels, from 0 to 1, where guidance is on (arXiv 2404.07724); outside it an image
                costs one call a step.
            prompt: attribute tokens, as one text for all images or one for each.
            latents: starting noise of shape (b, c, height, width), instead of drawing it; in latents with a VAE.
            output_type: pil, np (b, h, w, c in [0, 1]), pt (b, c, h, w in [0, 1]) or latent.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": ...}); may return new latents.
            return_dict: a bare tuple when False.

        Raises:
            UserError: an unknown label or token, a size the model cannot make, no steps, or too few or many generators.
        """
        grid, labels, tokens = self._checked(class_labels, prompt, num_images, height, width, num_inference_steps)
        latents = self._noise(grid, len(labels), generator, latents)
        mode = position_mode or self.transformer.config.inference_positions
        check_mode(self.transformer, mode, grid)
        if not ((labels != self.transformer.config.num_classes).any() or (tokens >= 0).any()):
            guidance_scale = 1.0  # there is nothing to guide to
        logit_scale, shift = self.size_factors(
            (grid[0] * self._patch, grid[1] * self._patch), mode, attention_scale, timestep_shift
        )
        condition = Condition(
            labels.to(latents.device), tokens.to(latents.device), guidance_scale, guidance_interval,
            place(self.transformer, mode, grid, generator, len(labels)).to(latents.device),
            logit_scale,
        )  # fmt: skip

        sigmas = torch.linspace(1, 1 / num_inference_steps, num_inference_steps).tolist()
        self.scheduler.set_timesteps(sigmas=sigmas, mu=math.log(shift), device=latents.device)
        levels = self.scheduler.sigmas.tolist()  # a copy on the host: no step waits for the device
        with self.progress_bar(total=num_inference_steps) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                if mode.startswith("dype"):
                    placement = place(self.transformer, mode, grid, sigma=levels[step]).to(latents.device)
                    condition = replace(condition, placement=placement)
                velocity = self._velocity(latents, timestep, levels[step], condition)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                latents = self.after_step(callback_on_step_end, step, timestep, latents)
                bar.update()

        images = self._pictures(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _checked(
        self, class_labels: Labels, prompt: Any, num_images: int, height: int | None, width: int | None, steps: int
    ) -> tuple[tuple[int, int], Int64[Tensor, " b"], Int64[Tensor, "b t"]]:
        """The grid of patches, the label ids and the token ids that were asked for."""
        grid = self.grid(height or self.native_size[0], width or self.native_size[1])
        if steps < 1:
            raise UserError(f"num_inference_steps is {steps}; give 1 or more")
        labels = self.label_ids(class_labels, num_images)
        return grid, labels, self.token_ids(prompt, len(labels))

    def _noise(
        self, grid: tuple[int, int], count: int, generator: Generators, latents: Tensor | None
    ) -> Float[Tensor, "b c h w"]:
        """The starting noise: drawn, or the given one where it fits."""
        config = self.transformer.config
        shape = (count, config.in_channels, grid[0] * config.patch_size, grid[1] * config.patch_size)
        return self.starting_noise(shape, generator, latents, self.transformer.dtype)

    def _velocity(
        self, latents: Tensor, timestep: Tensor, sigma: float, condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        """The flow's velocity, guided away from the unconditional one: v_u + g (v_c - v_u), both in one batch."""
        guided = condition.guides(sigma)
        if guided:
            latents = latents.repeat(2, 1, 1, 1)
            condition = condition.with_unconditional(self.transformer.config.num_classes)
        placement = condition.placement
        velocity = self.transformer(
            latents,
            timestep.expand(1),
            condition.labels,
            position_ids=(placement.rows, placement.columns),
            attention_scale=condition.logit_scale,
            token_ids=condition.tokens,
            frequencies=placement.frequencies,
            return_dict=False,
        )[0]
        if not guided:
            return velocity
        conditional, unconditional = velocity.chunk(2)
        return unconditional + condition.guidance_scale * (conditional - unconditional)

    def _pictures(self, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        images = latents if self.vae is None else decode(self.vae, latents)
        return self.image_processor.postprocess(images.float(), output_type=output_type)

    def token_ids(self, prompt: str | Sequence[str | Sequence[str]] | None, count: int) -> Int64[Tensor, "b t"]:
        """Ids of each image's attribute tokens, -1 where it has fewer. Raises UserError for an unknown token."""
        names = list(self.transformer.config.token_names or ())
        prompts = [prompt] * count if prompt is None or isinstance(prompt, str) else prompt
        if len(prompts) != count:
            raise UserError(f"{len(prompts)} prompts for {count} images; give one for all or one per image")
        token_lists = [_prompted(one, set(names)) for one in prompts]
        for token in dict.fromkeys(token for tokens in token_lists for token in tokens if token not in names):
            near = difflib.get_close_matches(token, names, n=3) or names[:10]
            known = f"known are, for example: {', '.join(near)}" if names else "this model was trained without captions"
            raise UserError(f"unknown token {token!r} in the prompt; {known}")
        return token_ids(token_lists, names)


def _prompted(prompt: str | Sequence[str] | None, known: set[str]) -> tuple[str, ...]:
    """A prompt's tokens: a list's as they are; of a text, parts between commas that are tokens, else their words."""
    if not isinstance(prompt, str):
        return tokenize(prompt)
    parts = [tokenize([part]) for part in prompt.split(",")]
    return tuple(token for part in parts for token in (part if set(part) <= known else tokenize(" ".join(part))))
