"""Training of the texture generator against a discriminator and a frozen VQ-VAE; `TextureRecipe.loss` is the method.

A step updates both networks from one batch. The generator's losses move the generator alone, the discriminator's the
discriminator alone, and Adam treats each weight by itself: one optimizer is two. (In the paper's code the two take
turns, each with a batch of its own.)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gen.card import write_card
from gen.inpaint.attention import Weights, attention_figures, hole_tokens
from gen.inpaint.examples import InpaintExamples
from gen.inpaint.masks import draw_masks
from gen.inpaint.texture import Discriminator, TextureGenerator
from gen.inpaint.texture_config import TextureConfig
from gen.inpaint.texture_losses import Scores, adversarial_loss, completed, discriminator_loss, feature_loss
from gen.inpaint.vqvae import Encoded, HierarchicalVQVAE, open_vqvae
from gen.validation import write_rows
from workbench import seeds
from workbench.errors import UserError
from workbench.recipe import Draws, Recipe

INITIAL, VALIDATION = 2, 3  # streams of randomness
USE = (
    "The third stage of diverse inpainting: join it with the others by\n\n```sh\n"
    "workbench train inpaint --vqvae VQVAE_RUN --structure STRUCTURE_RUN --texture THIS_RUN --output-dir RUN\n```"
)


class Play(NamedTuple):
    """What both networks say of one batch."""

    painted: Float[Tensor, "b c h w"]  # the whole images that the generator gave
    completed: Float[Tensor, "b c h w"]
    opinion: Scores  # of the completed images; its gradient reaches the generator alone
    real: Scores  # these two reach the discriminator alone
    fake: Scores
    attention: Weights | None


class Adversaries(nn.Module):
    """The texture generator and its discriminator."""

    def __init__(self, texture: TextureGenerator, discriminator: Discriminator) -> None:
        super().__init__()
        self.texture, self.discriminator = texture, discriminator

    def forward(
        self, images: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"], vectors: Float[Tensor, "b d ht wt"]
    ) -> Play:
        """Paint the holes, and judge true and completed images."""
        attention = self.texture.attend(vectors, mask)
        painted = self.texture(images * (1 - mask), mask, vectors, attention)
        whole = completed(painted, images, mask)
        with frozen(self.discriminator):
            opinion = self.discriminator(whole, mask)
        real, fake = self.discriminator(images, mask), self.discriminator(whole.detach(), mask)
        return Play(painted, whole, opinion, real, fake, attention)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """What is computed inside sends no gradient to the module's weights, only through it."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


class TextureRecipe(Recipe):
    """Whole images from masked ones and their true structure."""

    name = "inpaint-texture"
    result = "texture"
    config: TextureConfig
    model: Adversaries

    def __init__(self, config: TextureConfig) -> None:
        config.check()
        self.config = config
        self.vqvae = open_vqvae(config.vqvae)
        self.examples = InpaintExamples(config)
        self.notes = self.examples.notes
        self.num_examples = len(self.examples)
        if self.examples.channels != self.vqvae.config.channels:
            raise UserError(
                f"the images have {self.examples.channels} channels and the VQ-VAE was trained on "
                f"{self.vqvae.config.channels}; give --channels {self.vqvae.config.channels}, or another --vqvae"
            )
        self.model = build_adversaries(config, self.vqvae)

    def to(self, device: torch.device) -> None:
        """Keep images and the VQ-VAE beside the model."""
        self.examples.to(device)
        self.vqvae.to(device)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Crops, flips and masks of one global batch, and how much the discriminator's opinion counts in this step."""
        warmup = min(1.0, step / self.config.adversarial_warmup_steps) if self.config.adversarial_warmup_steps else 1.0
        return self.examples.draw(batch_size, generator) | {
            "mask": draw_masks(self.config.masks, batch_size, self.config.size, generator),
            "warmup": torch.full((batch_size,), warmup, device=generator.device),
        }

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Reconstruction of the whole image, the discriminator's opinion, the VQ-VAE's; and the discriminator's own."""
        config, mask = self.config, draws["mask"]
        images = self.examples(indices, draws)
        true = self._encode(images)
        play: Play = model(images, mask, self.vqvae.top.vectors(true.top_ids))
        error = (play.painted.float() - images).abs()
        figures = {
            "reconstruction": error.mean(),
            "adversarial": adversarial_loss(play.opinion.float(), draws["warmup"]),
            "discriminator": discriminator_loss(play.real.float(), play.fake.float()),
        }
        if config.feature_weight:
            figures |= self._feature_losses(play.completed.float(), true)
        loss = (
            config.reconstruction_weight * figures["reconstruction"]
            + config.adversarial_weight * figures["adversarial"]
            + config.feature_weight * (figures.get("structural", 0.0) + figures.get("textural", 0.0))
            + figures["discriminator"]
        )
        return {"loss": loss, **figures, **self._logged(error.detach(), mask, play.attention)}

    @torch.no_grad()
    def _encode(self, images: Float[Tensor, "b c h w"]) -> Encoded:
        return self.vqvae.encode(images)

    def _feature_losses(self, images: Float[Tensor, "b c h w"], true: Encoded) -> dict[str, Tensor]:
        """How badly the frozen encoder reads the tokens of the true images from the completed ones."""
        seen = self.vqvae.encode(images)
        return {
            "structural": feature_loss(seen.top, self.vqvae.top.codebook, true.top_ids),
            "textural": feature_loss(seen.bottom, self.vqvae.bottom.codebook, true.bottom_ids),
        }

    def _logged(self, error: Tensor, mask: Tensor, attention: Weights | None) -> dict[str, Tensor]:
        """The error in the hole (that of the whole image is mostly copying), and what the attention does."""
        figures = {"hole_error": (error * mask).sum() / (mask.sum() * error.shape[1]).clamp(min=1)}
        if attention is not None:
            figures |= attention_figures(attention, hole_tokens(mask, self.vqvae.grid(*self.config.size)))
        return figures

    @torch.no_grad()
    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """PSNR in the hole with the true structure; rows of masked, completed and true images."""
        images = self.examples.validation
        generator = seeds.generator(self.config.seed, VALIDATION)
        mask = draw_masks(self.config.masks, len(images), self.config.size, generator).to(images.device)
        painted = self._painted(model.eval(), images, mask)
        squared = ((painted - images).square() * mask).sum() / (mask.sum() * images.shape[1]).clamp(min=1)
        write_rows(folder / f"step-{step:08d}.png", [images * (1 - mask), completed(painted, images, mask), images])
        return {"validation_hole_psnr": float(10 * torch.log10(4 / squared)), "validation_images": len(images)}

    def _painted(self, model: nn.Module, images: Tensor, mask: Tensor) -> Float[Tensor, "b c h w"]:
        assert isinstance(model, Adversaries)
        size = self.config.train_batch_size
        parts = zip(images.split(size), mask.split(size), strict=True)
        painted = [
            model.texture(part * (1 - hole), hole, self.vqvae.top.vectors(self._encode(part).top_ids))
            for part, hole in parts
        ]
        return torch.cat(painted).float().clamp(-1, 1)

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The generator alone, with its card."""
        assert isinstance(model, Adversaries)
        model.texture.save_pretrained(folder)
        write_card(folder, "Texture generator for diverse inpainting", self.examples, record, USE)


def build_adversaries(config: TextureConfig, vqvae: HierarchicalVQVAE) -> Adversaries:
    """Both networks freshly initialised, the same for the same seed."""
    shape, channels = config.sizes.texture, vqvae.config.channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(config.seed, INITIAL).initial_seed())
        texture = TextureGenerator(
            sample_size=config.size,
            channels=channels,
            structure_dim=0 if config.single_stage else vqvae.config.code_dim,
            first_stride=vqvae.config.first_stride,
            width=shape.width,
            attention=config.attention,
            fuse=config.fuse,
            attention_scale=config.attention_scale,
            codebook_hash=vqvae.codebook_hash(),
            mask_kinds=tuple(config.masks),
        )
        return Adversaries(texture, Discriminator(channels, shape.discriminator_width, shape.discriminator_layers))
