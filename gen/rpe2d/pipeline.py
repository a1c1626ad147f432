"""Images from an RPE-2D transformer, in the manner of a diffusers pipeline.

pipe = RPE2DPipeline.from_pretrained("runs/NAME/pipeline")
images = pipe(class_labels=["bag", "coat"], height=48, width=32, guidance_scale=1.5).images
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int64
from torch import Tensor

from gen.rpe2d.positions import PositionMode, inference_positions
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench.errors import UserError
from workbench.files import write_atomic

# What lets `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` open our folders too.
REMOTE_DOOR = '''"""Opens this folder through diffusers' generic door; needs the `workbench` package."""

import gen.rpe2d.pipeline


class RPE2DPipeline(gen.rpe2d.pipeline.RPE2DPipeline):
    """See gen.rpe2d.pipeline."""
'''


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Euler's method along the flow from noise (sigma 1) to image (sigma 0), shifted by the size asked for."""
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential")


class RPE2DPipeline(DiffusionPipeline):
    """Generates images of any size made of whole patches, up to the model's trained positions."""

    model_cpu_offload_seq = "transformer"
    _callback_tensor_inputs = ["latents"]

    def __init__(self, transformer: RPE2DTransformer2DModel, scheduler: FlowMatchEulerDiscreteScheduler) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1, do_resize=False)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, in order of their ids."""
        names = self.transformer.config.id2label or {}
        return tuple(names[key] for key in sorted(names, key=int))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As in diffusers; also adds what diffusers' generic door needs to find this class."""
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        index = json.loads((folder / "model_index.json").read_text())
        index["_class_name"] = ["pipeline", "RPE2DPipeline"]
        write_atomic(folder / "model_index.json", json.dumps(index, indent=2) + "\n")
        write_atomic(folder / "pipeline.py", REMOTE_DOOR)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers, but this class is the code that the folder would bring: it is never run."""
        config = super().load_config(*args, **kwargs)
        if isinstance(config, dict):
            config["_class_name"] = cls.__name__
        return config

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_images: int = 1,
        position_mode: PositionMode | None = None,
        attention_scale: float | Literal["auto"] | None = "auto",
        timestep_shift: float | Literal["auto"] | None = "auto",
        latents: Float[Tensor, "b c h w"] | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]] | None = None,
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
            position_mode: how the grid is placed, see `positions.py`; the model's own by default.
            attention_scale: factor on attention logits. auto: sqrt(ln N' / ln N) for more tokens than in training,
                else 1 [entropy argument of Jin et al. 2023, arXiv 2306.08645].
            timestep_shift: sigma' = s sigma / (1 + (s - 1) sigma). auto: s = sqrt(N' / N) [SD3, arXiv 2403.03206].
            latents: starting noise of shape (b, c, height, width), instead of drawing it.
            output_type: pil, np (b, h, w, c in [0, 1]), pt (b, c, h, w in [0, 1]) or latent (b, c, h, w in [-1, 1]).
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": ...}); may return new latents.
            return_dict: a bare tuple when False.

        Raises:
            UserError: an unknown label, a size the model cannot make, no steps, or too few or many generators.
        """
        config = self.transformer.config
        height, width = height or config.sample_size[0], width or config.sample_size[1]
        grid = self.transformer.grid(height, width)
        labels = self.label_ids(class_labels, num_images)
        if num_inference_steps < 1:
            raise UserError(f"num_inference_steps is {num_inference_steps}; give 1 or more")
        if isinstance(generator, list) and len(generator) != len(labels):
            raise UserError(f"{len(generator)} generators for {len(labels)} images; give one for all or one per image")
        device, dtype = self._execution_device, self.transformer.dtype

        # 1. Noise, positions, and what a size other than the training size asks for
        shape = (len(labels), config.in_channels, height, width)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        elif latents.shape != shape:
            raise UserError(f"latents have shape {tuple(latents.shape)}; give {shape}")
        latents = latents.to(device, dtype)
        positions = self._positions(grid, position_mode or config.inference_positions, generator, len(labels))
        logit_scale, shift = self.size_adjustment(grid[0] * grid[1], attention_scale, timestep_shift)

        # 2. Euler steps from noise to image
        sigmas = torch.linspace(1, 1 / num_inference_steps, num_inference_steps).tolist()
        self.scheduler.set_timesteps(sigmas=sigmas, mu=math.log(shift), device=device)
        labels = labels.to(device)
        with self.progress_bar(total=num_inference_steps) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                velocity = self._velocity(latents, timestep, labels, guidance_scale, positions, logit_scale)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    changed = callback_on_step_end(self, step, timestep, {"latents": latents})
                    latents = changed.get("latents", latents) if changed else latents
                bar.update()

        # 3. Pictures
        images = latents
        if output_type != "latent":
            images = self.image_processor.postprocess(latents.float(), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def label_ids(
        self, class_labels: int | str | Sequence[int | str] | None, num_images: int = 1
    ) -> Int64[Tensor, " b"]:
        """Ids of labels given by name or id. Raises UserError for an unknown one."""
        null, names = self.transformer.config.num_classes, self.label_names
        if class_labels is None:
            return torch.full((num_images,), null)
        if isinstance(class_labels, int | str):
            class_labels = [class_labels] * num_images
        ids = [names.index(label) if label in names else label for label in class_labels]
        for label in ids:
            if not isinstance(label, int) or not 0 <= label < null:
                allowed = (
                    ", ".join(names) if names else f"0 to {null - 1}" if null else "none: this model has no labels"
                )
                raise UserError(f"unknown label {label!r}; choose from: {allowed}")
        return torch.tensor(ids)

    def _positions(
        self,
        grid: tuple[int, int],
        mode: PositionMode,
        generator: torch.Generator | list[torch.Generator] | None,
        batch_size: int,
    ) -> tuple[Int64[Tensor, "*b h"], Int64[Tensor, "*b w"]]:
        """Row and column positions: one set for all images, or, where they are drawn, one set for each."""
        maximum = tuple(self.transformer.config.max_positions)
        if mode != "random":
            return inference_positions(grid, maximum, mode)
        generators = generator if isinstance(generator, list) else [generator] * batch_size
        drawn = [inference_positions(grid, maximum, mode, one) for one in generators]
        return torch.stack([rows for rows, _ in drawn]), torch.stack([columns for _, columns in drawn])

    def size_adjustment(
        self, tokens: int, attention_scale: float | str | None, timestep_shift: float | str | None
    ) -> tuple[float, float]:
        """Factors on attention logits and timesteps for an image of `tokens` patches; (1, 1) at the training size."""
        native = self.transformer.native_tokens
        if attention_scale == "auto":
            attention_scale = math.sqrt(math.log(tokens) / math.log(native)) if tokens > native > 1 else 1.0
        if timestep_shift == "auto":
            timestep_shift = math.sqrt(tokens / native)
        return float(attention_scale or 1.0), float(timestep_shift or 1.0)

    def _velocity(
        self,
        latents: Tensor,
        timestep: Tensor,
        labels: Tensor,
        guidance_scale: float,
        positions: tuple[Tensor, Tensor],
        scale: float,
    ) -> Float[Tensor, "b c h w"]:
        """The flow's velocity, guided away from the unlabelled one: v_u + g (v_c - v_u), both halves in one batch."""
        null = self.transformer.config.num_classes
        guided = guidance_scale != 1 and bool((labels != null).any())
        if guided:
            latents, labels = latents.repeat(2, 1, 1, 1), torch.cat([labels, torch.full_like(labels, null)])
            rows, columns = (p.repeat(2, 1) if p.ndim == 2 else p for p in positions)
            positions = (rows, columns)
        velocity = self.transformer(
            latents, timestep.expand(1), labels, position_ids=positions, attention_scale=scale, return_dict=False
        )[0]
        if not guided:
            return velocity
        conditional, unconditional = velocity.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)
