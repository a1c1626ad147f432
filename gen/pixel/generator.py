"""What the training of a diffusion model and of a consistency model share: stage 2 of EPG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from gen.card import write_card
from gen.pixel.config import GeneratorConfig
from gen.pixel.data import PixelData
from gen.pixel.inheritance import build_generator
from gen.pixel.pipeline import EPGPipeline, make_scheduler
from gen.pixel.transformer import EPGTransformer2DModel, PredictionType
from gen.validation import write_grid
from workbench.recipe import Draws, Recipe


class GeneratorRecipe(Recipe):
    """Images and labels for a network that cleans noisy images; a subclass says at which noise, and its loss."""

    prediction_type: ClassVar[PredictionType]
    title: ClassVar[str]  # of the card
    config: GeneratorConfig
    model: EPGTransformer2DModel

    def __init__(self, config: GeneratorConfig) -> None:
        config.check()
        self.config = config
        self.data = PixelData(config)
        self.notes, self.num_examples = self.data.notes, len(self.data)
        self.model = build_generator(config, self.data, self.prediction_type)
        self.noise_range = self.model.noise_range
        if config.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()

    @property
    def num_classes(self) -> int:
        """Number of labels; also the id of "no label"."""
        return len(self.data.label_names)

    def to(self, device: torch.device) -> None:
        """Keep the images beside the model."""
        self.data.to(device)
        if self.config.compile:
            self.model.compile_repeated_blocks(fullgraph=True)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Flips, noise and its unshifted levels, log-normal, of one global batch; a subclass adds what it needs."""
        device = generator.device
        flip = torch.rand(batch_size, generator=generator, device=device) < 0.5
        noise = torch.randn(batch_size, *self.data.shape, generator=generator, device=device)
        normal = torch.randn(batch_size, generator=generator, device=device)
        sigma = torch.exp(self.config.log_sigma_mean + self.config.log_sigma_std * normal)
        return {"flip": flip & self.config.random_flip, "noise": noise, "sigma": sigma}

    def labels(self, indices: Int64[Tensor, " b"]) -> Int64[Tensor, " b"] | None:
        """Ids of these images' labels; None where the data has none at all."""
        if not self.num_classes:
            return None
        labels = self.data.labels[indices.to(self.data.labels.device)]
        return labels.masked_fill(labels < 0, self.num_classes)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Those of the encoder's and of the decoder's blocks."""
        blocks = (self.model.encoder.blocks, self.model.decoder_blocks)
        return [weight for part in blocks for weight in part.parameters() if weight.ndim == 2]

    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """A grid of images from the same noise every time."""
        write_grid(self.pipeline(model), self.config, self.num_classes, folder, step)
        return {}

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The pipeline as a diffusers folder, with its card."""
        self.pipeline(model).save_pretrained(folder)
        write_card(folder, self.title, self.data, record)

    def pipeline(self, model: nn.Module) -> EPGPipeline:
        """The averaged model, ready to sample."""
        assert isinstance(model, EPGTransformer2DModel)
        return EPGPipeline(model.eval(), make_scheduler(model))
