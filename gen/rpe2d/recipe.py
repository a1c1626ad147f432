"""Training of the RPE-2D transformer by flow matching; `RPE2DRecipe.loss` is the method in a dozen lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn

from gen.card import write_card
from gen.rpe2d.config import RPE2DConfig
from gen.rpe2d.crops import draw_boxes, flip_boxes, resize_and_crop
from gen.rpe2d.pipeline import RPE2DPipeline, make_scheduler
from gen.rpe2d.positions import sample_positions
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench import seeds
from workbench.datasets import LabelledImages, load_images, require_classes
from workbench.errors import UserError
from workbench.files import write_atomic
from workbench.pictures import encode_png, image_grid
from workbench.recipe import Draws, Recipe

INITIAL, VALIDATION = 2, 3  # streams of randomness


class RPE2DRecipe(Recipe):
    """Rectified flow on pixels: x_t = (1 - t) x_0 + t eps, target velocity eps - x_0, t logit-normal."""

    name = "rpe2d"
    config: RPE2DConfig
    model: RPE2DTransformer2DModel

    def __init__(self, config: RPE2DConfig) -> None:
        config.check()
        self.config = config
        # Enough pixels for the closest crop, but never more than the sources have.
        height, width = (round(side * config.crop_max_scale) for side in config.size)
        self.data = load_images(
            config.data, "train", (height, width), config.classes, upscale=False, max_pixels=config.max_image_pixels
        )
        assert isinstance(self.data.images, Tensor)  # one size was asked for
        self.images = self.data.images
        self.labels = self.data.labels.masked_fill(self.data.labels < 0, self.num_classes)
        self.num_examples, self.notes = len(self.data), self.data.notes
        self._check_data()
        self.model = build_transformer(config, self.data)

    def _check_data(self) -> None:
        if self.data.label_names:
            known = self.data.labels >= 0
            require_classes(self.data if known.all() else self.data.select(known))
        height, width = self.images.shape[-2:]
        if min(height, width) < self.config.patch_size:
            raise UserError(
                f"the images of {self.data.name} are at most {height}x{width} pixels, less than a patch of "
                f"{self.config.patch_size}; give larger images, or a smaller --patch-size"
            )

    @property
    def max_scale(self) -> float:
        """Closest crop: no more than 1.25 times the source's own pixels."""
        spare = min(stored / wanted for stored, wanted in zip(self.images.shape[-2:], self.config.size, strict=True))
        return max(1.0, min(self.config.crop_max_scale, 1.25 * spare))

    def to(self, device: torch.device) -> None:
        """Keep the uint8 images beside the model: they are small, and then no step waits for a copy."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)

    def draw(self, batch_size: int, generator: torch.Generator) -> Draws:
        """Crops, flips, noise, times, hidden labels and positions of one global batch."""
        config, device = self.config, generator.device
        boxes = draw_boxes(batch_size, config.crop_probability, self.max_scale, generator)
        flip, hide = torch.rand(2, batch_size, generator=generator, device=device)
        shape = (batch_size, self.images.shape[1], *config.size)
        return {
            "box": boxes,
            "flip": (flip < 0.5) & config.random_flip,
            "hide_label": hide < config.class_dropout_prob,
            "noise": torch.randn(shape, generator=generator, device=device),
            "time": torch.randn(batch_size, generator=generator, device=device).sigmoid(),
            "rows": sample_positions(batch_size, config.grid[0], config.position_range[0], generator),
            "columns": sample_positions(batch_size, config.grid[1], config.position_range[1], generator),
        }

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Mean squared error of the predicted velocity."""
        indices = indices.to(self.images.device)
        x_0 = resize_and_crop(self.images[indices], draws["box"], draws["flip"], self.config.size)
        box = flip_boxes(draws["box"], draws["flip"])
        t = draws["time"][:, None, None, None]
        x_t = (1 - t) * x_0 + t * draws["noise"]
        labels = self.labels[indices].masked_fill(draws["hide_label"], self.num_classes)
        positions = (draws["rows"], draws["columns"])
        velocity = model(x_t, draws["time"] * 1000, labels, box, positions, return_dict=False)[0]
        return {"loss": F.mse_loss(velocity.float(), draws["noise"] - x_0)}

    @property
    def num_classes(self) -> int:
        """Number of labels; also the id of "no label"."""
        return len(self.data.label_names)

    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """A grid of images from the same noise every time, a label in each column where there are few."""
        config, count = self.config, self.config.validation_images
        if count:
            pipe = self._pipeline(model)
            pipe.set_progress_bar_config(disable=True)
            labels = [k % self.num_classes for k in range(count)] if self.num_classes else None
            generators = [seeds.generator(config.seed, VALIDATION, k) for k in range(count)]
            images = pipe(
                labels,
                num_images=count,
                num_inference_steps=config.validation_inference_steps,
                guidance_scale=config.validation_guidance_scale,
                generator=generators,
                output_type="pt",
                return_dict=False,
            )[0]
            grid = image_grid(
                list((images * 255).round().byte().cpu()), columns=self.num_classes if 2 < self.num_classes <= 16 else 8
            )
            write_atomic(folder / f"step-{step:08d}.png", encode_png(grid))
        return {}

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The pipeline as a diffusers folder, with its card."""
        self._pipeline(model).save_pretrained(folder)
        write_card(folder, "RPE-2D diffusion transformer", self.data, record)

    def _pipeline(self, model: nn.Module) -> RPE2DPipeline:
        assert isinstance(model, RPE2DTransformer2DModel)
        return RPE2DPipeline(model.eval(), make_scheduler())


def build_transformer(config: RPE2DConfig, data: LabelledImages) -> RPE2DTransformer2DModel:
    """A freshly initialised model for this data, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(config.seed, INITIAL).initial_seed())
        return RPE2DTransformer2DModel(
            sample_size=config.size,
            patch_size=config.patch_size,
            in_channels=data.channels,
            num_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            attention_head_dim=config.attention_head_dim,
            mlp_ratio=config.mlp_ratio,
            num_classes=len(data.label_names),
            qk_norm=config.qk_norm,
            rope_theta=config.rope_theta,
            max_positions=config.position_range,
            inference_positions=config.inference_positions,
            crop_conditioning=config.crop_conditioning,
            id2label=dict(enumerate(data.label_names)),
        )
