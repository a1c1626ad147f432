"""Images from an EPG model, diffusion or consistency, in the manner of a diffusers pipeline.

pipe = EPGPipeline.from_pretrained("runs/NAME/pipeline")
images = pipe(class_labels=["Bag", "Coat"], num_inference_steps=32, guidance_scale=2.5).images   # a diffusion model
images = pipe(class_labels=["Bag", "Coat"]).images                                               # a consistency model
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from jaxtyping import Float, Int64
from torch import Tensor

from gen.pipelines import Callback, Generators, LabelledPipeline, Labels
from gen.pixel.noise import consistency, denoise
from gen.pixel.scheduler import KarrasX0ConsistencyScheduler, KarrasX0HeunScheduler, KarrasX0Scheduler
from gen.pixel.transformer import EPGTransformer2DModel
from workbench.errors import UserError

SIGMA_RANGE = (0.19, 1.61)  # unshifted noise levels where EPG's authors guide


def make_scheduler(transformer: EPGTransformer2DModel) -> KarrasX0Scheduler:
    """The way from noise to images that suits the model: Heun's method, or a consistency model's jumps."""
    noise = transformer.noise_range
    kind = KarrasX0ConsistencyScheduler if is_consistency(transformer) else KarrasX0HeunScheduler
    return kind(noise.sigma_min, noise.sigma_max, noise.rho, noise.sigma_data, noise.shift)


def is_consistency(transformer: EPGTransformer2DModel) -> bool:
    """Whether the model was trained to reach the image in one step."""
    return bool(transformer.config.prediction_type == "consistency")


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance by `scale` at the unshifted noise levels above `low`, up to `high`."""

    scale: float
    low: float
    high: float

    def on(self, sigma: float) -> bool:
        """Whether this unshifted level is guided."""
        return self.scale != 1 and self.low < sigma <= self.high


class EPGPipeline(LabelledPipeline):
    """Generates images of the model's own size: a diffusion model's in many steps, a consistency model's in one or a
    few."""

    model_cpu_offload_seq = "transformer"
    _home = "gen.pixel.pipeline"

    def __init__(self, transformer: EPGTransformer2DModel, scheduler: KarrasX0Scheduler) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)
        self.image_processor = VaeImageProcessor(do_resize=False, do_normalize=False)

    @property
    def num_classes(self) -> int:
        """Number of labels; also the id of "no label"."""
        return self.transformer.config.num_class_embeds or 0

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width in pixels of every image."""
        return self.transformer.size

    @property
    def default_steps(self) -> int:
        """`num_inference_steps` unless given."""
        return 1 if is_consistency(self.transformer) else 32

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        num_images: int = 1,
        guidance_sigma_range: tuple[float, float] = SIGMA_RANGE,
        latents: Float[Tensor, "b c h w"] | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        callback_on_step_end: Callback | None = None,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            class_labels: names or ids, one per image; None generates `num_images` without a label.
            height, width: the model's own size, which is all it can make.
            num_inference_steps: of a consistency model its evaluations, 1 unless given; of a diffusion model the noise
                levels, 32 unless given: Heun's method asks the network twice between each two of them.
            guidance_scale: classifier-free guidance of a diffusion model; 1 is off.
            generator: one for all images, or one per image.
            num_images: how many, where `class_labels` is None or a single label.
            guidance_sigma_range: unshifted noise levels where guidance is on, the lower one excluded (arXiv
                2404.07724); outside it an image costs one evaluation and not two.
            latents: starting noise of unit variance and of shape (b, c, height, width), instead of drawing it.
            output_type: pil, np (b, h, w, c in [0, 1]), pt (b, c, h, w in [0, 1]) or latent (as the model sees them).
            callback_on_step_end: called after each evaluation as (pipeline, step, timestep, {"latents": ...}); may
                return new latents.
            return_dict: a bare tuple when False.

        Raises:
            UserError: an unknown label, another size, too few steps, guidance of a consistency model, or too few or
                many generators.
        """
        self.check(height, width, guidance_scale)
        labels = self._labels(class_labels, num_images)
        config = self.transformer.config
        shape = (len(labels), config.in_channels, *self.native_size)
        sample = self.starting_noise(shape, generator, latents, torch.float32) * self.scheduler.init_noise_sigma
        if not (labels != self.num_classes).any():
            guidance_scale = 1.0  # there is nothing to guide to
        labels, guidance = labels.to(sample.device), Guidance(guidance_scale, *guidance_sigma_range)

        steps = self.default_steps if num_inference_steps is None else num_inference_steps
        self.scheduler.set_timesteps(steps, device=sample.device)
        with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                clean = self._clean(sample, self.scheduler.evaluation_sigmas[step], labels, guidance)
                sample = self.scheduler.step(clean, timestep, sample, generator, return_dict=False)[0]
                sample = self.after_step(callback_on_step_end, step, timestep, sample)
                bar.update()

        images = sample
        if output_type != "latent":
            images = self.image_processor.postprocess(self.transformer.scaling.restore(sample), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def check(self, height: int | None, width: int | None, guidance_scale: float) -> None:
        """Raise UserError for what the model cannot make."""
        native = self.native_size
        if (height or native[0], width or native[1]) != native:
            raise UserError(
                f"this model makes images of {native[0]}x{native[1]} pixels only; leave the size out, or train another"
            )
        if is_consistency(self.transformer) and guidance_scale != 1:
            raise UserError(
                f"guidance_scale is {guidance_scale}; give 1: a consistency model is trained with labels alone, "
                "and there is nothing to guide away from"
            )

    def _labels(self, class_labels: Labels, num_images: int) -> Int64[Tensor, " b"]:
        if class_labels is None and self.num_classes and is_consistency(self.transformer):
            raise UserError("a consistency model that learned labels needs one for each image; give class_labels")
        return self.label_ids(class_labels, num_images)

    def _clean(
        self, sample: Tensor, sigma: float, labels: Int64[Tensor, " b"], guidance: Guidance
    ) -> Float[Tensor, "b c h w"]:
        """The images that the model sees behind the noise, guided away from the unlabelled ones, in the data's range.

        x_u + g (x_c - x_u), both in one batch.
        """
        noise_range, null = self.transformer.noise_range, self.num_classes
        guided = guidance.on(sigma / noise_range.shift)
        if guided:
            sample, labels = sample.repeat(2, 1, 1, 1), torch.cat([labels, torch.full_like(labels, null)])
        read = consistency if is_consistency(self.transformer) else denoise
        sigmas = torch.full((len(sample),), sigma, device=sample.device)
        clean = read(self.transformer, sample, sigmas, labels if null else None, noise_range)
        if guided:
            conditional, unconditional = clean.chunk(2)
            clean = unconditional + guidance.scale * (conditional - unconditional)
        return self.transformer.scaling.clamp(clean)
