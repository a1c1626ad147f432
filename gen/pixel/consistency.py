"""Training of a one-step consistency model of pixels; `ConsistencyRecipe.loss` is the method."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gen.pixel.config import ConsistencyConfig
from gen.pixel.contrast import nce
from gen.pixel.generator import GeneratorRecipe
from gen.pixel.inheritance import open_encoder
from gen.pixel.noise import consistency
from gen.pixel.representation import represent
from gen.pixel.schedules import paired_sigma, stage_of
from workbench import seeds
from workbench.devices import autocast
from workbench.errors import UserError
from workbench.recipe import Draws

DROPOUT = 4  # stream of randomness

Images = Float[Tensor, "b c h w"]


class ConsistencyRecipe(GeneratorRecipe):
    """The same clean image from two noise levels of one image and one noise: EPG's stage 2 (arXiv 2510.12586).

    Consistency tuning (Geng et al. 2024, arXiv 2406.14548): the target comes from the same weights.
    """

    name = "pixel-consistency"
    title = "EPG one-step consistency model of pixels"
    prediction_type = "consistency"
    config: ConsistencyConfig

    def __init__(self, config: ConsistencyConfig) -> None:
        super().__init__(config)
        self.guide = Guide(config) if config.guide else None
        if self.guide is not None and self.guide.encoder.size != config.size:
            raise UserError(f"--guide {config.guide} is of another size; pre-train one at {config.resolution} pixels")

    def to(self, device: torch.device) -> None:
        """Keep the images, and the guide, beside the model."""
        super().to(device)
        if self.guide is not None:
            self.guide.encoder.to(device)
            if self.config.compile:
                self.guide.encoder.compile_repeated_blocks(fullgraph=True)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Also: a second, lower level for each image, closer from stage to stage, and what is dropped."""
        c, noise_range = self.config, self.noise_range
        draws = super().draw(batch_size, generator, step)
        sigma = draws["sigma"].clamp(noise_range.sigma_min, noise_range.sigma_max)
        stage = stage_of(step - 1, c.max_train_steps, c.num_stages, c.first_stage)
        paired = paired_sigma(sigma, stage, noise_range.sigma_min, c.gap_base, c.gap_extra, c.gap_slope)
        on_cpu = seeds.generator(generator.initial_seed(), DROPOUT)
        mask = torch.randint(2**62, (batch_size,), generator=on_cpu)
        return draws | {"sigma": sigma, "paired_sigma": paired, "dropout": mask}

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Distance of the two estimates, over that of their levels, and what the guide says of the first."""
        images, labels = self.data.clean(indices, draws["flip"]), self.labels(indices)
        more, less = (self.noise_range.shifted(draws[name]) for name in ("sigma", "paired_sigma"))

        def estimate(sigma: Float[Tensor, " b"]) -> Images:
            noisy = images + sigma[:, None, None, None] * draws["noise"]
            with self._same_dropout(draws):
                return consistency(model, noisy, sigma, labels, self.noise_range)

        with torch.no_grad():
            target = estimate(less)
        estimated = estimate(more)
        parts = {"consistency": pair_loss(estimated, target, more - less, self.config.huber)}
        if self.guide is None:
            return {"loss": parts["consistency"]}
        parts["guide"] = self.guide(estimated, images)
        return {"loss": parts["consistency"] + self.config.guide_weight * parts["guide"], **parts}

    @contextmanager
    def _same_dropout(self, draws: Draws) -> Iterator[None]:
        """Both estimates drop the same, as the step's number says, and the global stream is left as it was."""
        if not self.config.dropout:
            yield
            return
        device = draws["noise"].device
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(int(draws["dropout"][0]))
            yield


class Guide:
    """A frozen pre-trained encoder: it should see the same in a clean image and in what was made of its noise."""

    def __init__(self, config: ConsistencyConfig) -> None:
        assert config.guide is not None
        self.config = config
        self.encoder = open_encoder(config.guide).eval().requires_grad_(False)
        self.noise_range = self.encoder.noise_range

    def __call__(self, made: Images, images: Images) -> Float[Tensor, ""]:
        """The contrast of images and what was made for them; the others of the batch are what it is told from."""
        with torch.no_grad():
            keys = self._see(images)
        return nce(self._see(made), keys, self.config.guide_temperature)

    def _see(self, images: Images) -> Float[Tensor, "b d"]:
        least = images.new_full((len(images),), self.noise_range.sigma_min * self.noise_range.shift)
        with autocast(self.config.mixed_precision, images.device):
            seen = represent(self.encoder, images, least, self.noise_range)
            return self.encoder.project(seen) if self.config.guide_feature == "projection" else seen


def pair_loss(estimate: Images, target: Images, gap: Float[Tensor, " b"], huber: float) -> Float[Tensor, ""]:
    """Mean of S / sqrt(sg(S) + c^2) / gap, S the squared distance of a pair; none where there is no gap.

    Its gradient is that of the pseudo-Huber distance 2 sqrt(S + c^2), over the gap.
    """
    distance = (estimate - target).square().sum((1, 2, 3))
    weight = torch.where(gap > 0, 1 / gap, 0)
    return (weight * distance * (distance.detach() + huber**2).rsqrt()).mean()
