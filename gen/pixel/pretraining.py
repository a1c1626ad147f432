"""Pre-training of an encoder without labels: stage 1 of EPG. What a step computes is in `representation.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gen.card import write_card
from gen.pixel.config import PretrainingConfig
from gen.pixel.data import PixelData
from gen.pixel.encoder import EPGEncoderModel
from gen.pixel.inheritance import build_encoder
from gen.pixel.probe import neighbour_accuracy
from gen.pixel.representation import RepresentationLearner, represent
from gen.pixel.schedules import most_noise_temperature, num_levels, temperature
from gen.pixel.views import draw_view, view_settings
from workbench import seeds
from workbench.recipe import Draws, Recipe

PROBE = 5  # stream of randomness
PROBED_SIGMAS = (0.01, 0.5, 2.0)  # unshifted
ASKED = 4  # one of so many probe images is asked for its class, the others are known
BATCH = 250

USE = """\
The encoder of noisy images that a generator starts from:

```sh
workbench train pixel-diffusion --init-from THIS_FOLDER --data DATA --output-dir runs/diffusion
```

In Python it is `gen.pixel.encoder.EPGEncoderModel.from_pretrained("THIS_FOLDER")`."""


class PretrainingRecipe(Recipe):
    """Contrast of two views, and consistency between neighbouring noise levels (arXiv 2510.12586)."""

    name = "pixel-pretrain"
    result = "encoder"
    config: PretrainingConfig
    model: RepresentationLearner

    def __init__(self, config: PretrainingConfig) -> None:
        config.check()
        self.config = config
        self.data = PixelData(config)
        self.notes, self.num_examples = self.data.notes, len(self.data)
        self.views = view_settings(config.views, self.data.shape)
        encoder = build_encoder(config, self.data)
        self.noise_range = encoder.noise_range
        self.weights = {"contrast": config.contrast_weight, "consistency": config.consistency_weight}
        self.model = RepresentationLearner(
            encoder,
            self.noise_range,
            config.target_momentum,
            config.contrast_weight,
            config.consistency_weight,
            config.contrast_temperature,
        )
        if config.gradient_checkpointing:
            encoder.enable_gradient_checkpointing()

    def to(self, device: torch.device) -> None:
        """Keep the images beside the model."""
        self.data.to(device)
        if self.config.compile:
            for encoder in (self.model.online, self.model.target):
                encoder.compile_repeated_blocks(fullgraph=True)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Flips, noise and two views of each image; one pair of noise levels, and its temperature, for all of them."""
        device = generator.device
        flip = torch.rand(batch_size, generator=generator, device=device) < 0.5
        draws = {
            "flip": flip & self.config.random_flip,
            "noise": torch.randn(batch_size, *self.data.shape, generator=generator, device=device),
        }
        for name, settings in zip("ab", self.views, strict=True):
            drawn = draw_view(batch_size, settings, self.config.random_flip, generator)
            draws |= {f"{name}_{key}": value for key, value in drawn.items()}
        return draws | self._draw_levels(batch_size, generator, step - 1)

    def _draw_levels(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Two neighbours among as many levels as there are at this step; the same for all images and processes."""
        c, noise_range = self.config, self.noise_range
        levels = noise_range.karras(num_levels(step, c.max_train_steps, c.first_levels, c.final_levels))
        index = torch.randint(len(levels) - 1, (1,), generator=generator, device=generator.device)
        pair = levels.float().to(generator.device)[torch.cat([index, index + 1])]
        at_most = most_noise_temperature(step, c.max_train_steps, *c.consistency_temperature_at_most_noise)
        sigma_range = (noise_range.sigma_min, noise_range.sigma_max)
        tau = temperature(pair[0], sigma_range, c.consistency_temperature, at_most)
        return {"sigmas": noise_range.shifted(pair).expand(batch_size, 2), "temperature": tau.expand(batch_size)}

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """The weighted sum of contrast and consistency."""
        images = self.data.clean(indices, draws["flip"])
        views = tuple(
            self.data.view(indices, {key[2:]: v for key, v in draws.items() if key.startswith(f"{name}_")}, settings)
            for name, settings in zip("ab", self.views, strict=True)
        )
        parts = model(images, views, draws["noise"], draws["sigmas"][0], draws["temperature"][0])
        loss = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return {"loss": loss, **parts}

    def after_step(self, step: int) -> None:
        """Move the slow copy of the encoder."""
        self.model.move_target()

    def hidden_matrices(self) -> list[nn.Parameter]:
        """Those of the encoder's blocks."""
        return [weight for weight in self.model.online.encoder.blocks.parameters() if weight.ndim == 2]

    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """How well the neighbours of an image tell its class, at three noise levels; nothing without labels."""
        assert isinstance(model, RepresentationLearner)
        chosen = self._probe_images()
        if len(chosen) < ASKED:
            return {}
        labels, asked = self.data.labels[chosen].cpu(), len(chosen) // ASKED
        figures = {}
        for sigma in PROBED_SIGMAS:
            seen = self._see(model.online.eval(), chosen, sigma)
            accuracy = neighbour_accuracy(seen[asked:], labels[asked:], seen[:asked], labels[:asked])
            figures[f"neighbour_accuracy_at_{sigma:g}"] = accuracy
        return figures

    def _probe_images(self) -> Int64[Tensor, " n"]:
        """The same labelled images every time."""
        labelled = (self.data.labels.cpu() >= 0).nonzero().flatten()
        order = torch.randperm(len(labelled), generator=seeds.generator(self.config.seed, PROBE))
        return labelled[order[: self.config.probe_images]]

    @torch.no_grad()
    def _see(self, encoder: EPGEncoderModel, chosen: Int64[Tensor, " n"], sigma: float) -> Float[Tensor, "n d"]:
        """Representations of these images with noise of an unshifted level, the same noise every time."""
        device, parts = self.data.images.device, []
        level = torch.tensor([sigma * self.noise_range.shift], device=device)
        for number, part in enumerate(chosen.split(BATCH)):
            images = self.data.clean(part, torch.zeros(len(part), dtype=torch.bool, device=device))
            generator = seeds.generator(self.config.seed, PROBE, number, device=device)
            noise = torch.randn(images.shape, generator=generator, device=device)
            parts.append(represent(encoder, images + level * noise, level.expand(len(part)), self.noise_range).cpu())
        return torch.cat(parts)

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The encoder that was trained, not its slow copy, with a card."""
        assert isinstance(model, RepresentationLearner)
        model.online.save_pretrained(folder)
        write_card(folder, "EPG encoder of noisy images", self.data, record, USE)
