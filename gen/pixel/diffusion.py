"""Training of a diffusion model of pixels; `DiffusionRecipe.loss` is the method."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gen.pixel.config import DiffusionConfig
from gen.pixel.generator import GeneratorRecipe
from gen.pixel.noise import denoise
from workbench.recipe import Draws

LEAST_NOISE_SHARE = 0.05  # 1 - t that the velocity's error is divided by, as in JiT's code


class DiffusionRecipe(GeneratorRecipe):
    """The clean image from a noisy one, x + sigma eps with log-normal sigma: EPG's stage 2 (arXiv 2510.12586)."""

    name = "pixel-diffusion"
    title = "EPG pixel diffusion model"
    prediction_type = "sample"
    config: DiffusionConfig

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Also: hidden labels, the levels of the grid nearest to the drawn ones, and the weights of their errors."""
        draws = super().draw(batch_size, generator, step)
        hidden = torch.rand(batch_size, generator=generator, device=generator.device) < self.config.class_dropout_prob
        levels = self.noise_range.karras(self.config.diffusion_levels).float().to(generator.device)
        index = nearest_level(draws["sigma"], levels)
        sigma = levels[index]
        return draws | {"hide_label": hidden, "sigma": sigma, "weight": self._weights(index, sigma, len(levels))}

    def _weights(self, index: Int64[Tensor, " b"], sigma: Float[Tensor, " b"], n: int) -> Float[Tensor, " b"]:
        match self.config.diffusion_weight:
            case "steps":
                return self.noise_range.diffusion_weight(index, n)
            case "velocity":  # (x_0 - x_t) / (1 - t) at the flow's time t = 1 / (1 + sigma)
                return (sigma / (1 + sigma)).clamp(min=LEAST_NOISE_SHARE) ** -2
        return sigma ** (1 / self.noise_range.rho - 1)

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Mean squared error of the clean images, weighted by the noise level."""
        images, labels = self.data.clean(indices, draws["flip"]), self.labels(indices)
        if labels is not None:
            labels = labels.masked_fill(draws["hide_label"], self.num_classes)
        sigma = self.noise_range.shifted(draws["sigma"])
        noisy = images + sigma[:, None, None, None] * draws["noise"]
        estimate = denoise(model, noisy, sigma, labels, self.noise_range)
        error = (estimate - images).square().mean((1, 2, 3))
        return {"loss": (draws["weight"] * error).mean(), "error": error.detach().mean()}


def nearest_level(sigma: Float[Tensor, " b"], levels: Float[Tensor, " n"]) -> Int64[Tensor, " b"]:
    """Index of the nearest of the falling levels to each of these."""
    rising = levels.flip(0)
    between = (rising[1:] + rising[:-1]) / 2
    return len(levels) - 1 - torch.bucketize(sigma, between)
