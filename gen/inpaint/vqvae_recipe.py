"""Training of the hierarchical VQ-VAE: the first stage of diverse inpainting.

Some images are decoded from their structure alone (our addition): otherwise the texture tokens, four times as many,
come to say everything (docs/journal.md).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gen.card import write_card
from gen.inpaint.config import VQVAEConfig
from gen.inpaint.examples import InpaintExamples
from gen.inpaint.vqvae import HierarchicalVQVAE
from gen.validation import write_rows
from workbench import seeds
from workbench.recipe import Draws, Recipe

INITIAL, CODES, REVIVAL = 2, 6, 7  # streams of randomness
FIRST_CODES_FROM = 64  # images
USE = (
    "The first stage of diverse inpainting. The other two are trained with it:\n\n```sh\n"
    "workbench train inpaint-structure --vqvae THIS_RUN --data DATA --output-dir STRUCTURE_RUN\n"
    "workbench train inpaint-texture --vqvae THIS_RUN --data DATA --output-dir TEXTURE_RUN\n```"
)


class VQVAERecipe(Recipe):
    """Mean squared error of the image, and features that stay near their codes; the codes follow the features."""

    name = "inpaint-vqvae"
    result = "vqvae"
    config: VQVAEConfig
    model: HierarchicalVQVAE

    def __init__(self, config: VQVAEConfig) -> None:
        config.check()
        self.config = config
        self.examples = InpaintExamples(config)
        self.notes, self.num_examples = self.examples.notes, len(self.examples)
        self.model = build_vqvae(config, self.examples.channels)

    def to(self, device: torch.device) -> None:
        """Keep the images beside the model, and begin with codes among the features of some of them."""
        self.examples.to(device)
        generator = seeds.generator(self.config.seed, CODES)
        chosen = torch.randperm(self.num_examples, generator=generator)[:FIRST_CODES_FROM]
        draws = {key: value.to(device) for key, value in self.examples.draw(len(chosen), generator).items()}
        self.model.start_codebooks(self.examples(chosen, draws), generator)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Crops and flips of one global batch, and which images go without their texture."""
        uniform = torch.rand(batch_size, generator=generator, device=generator.device)
        return {
            **self.examples.draw(batch_size, generator),
            "without_texture": uniform < self.config.texture_dropout_prob,
        }

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Reconstruction and commitment, and how the codebooks are used."""
        images = self.examples(indices, draws)
        reconstructed = model(images, draws["without_texture"])
        error = F.mse_loss(reconstructed.images.float(), images)
        return {
            "loss": error + self.config.commitment_weight * reconstructed.commitment,
            "reconstruction": error,
            "commitment": reconstructed.commitment,
            **self._codebook_figures(),
        }

    def _codebook_figures(self) -> dict[str, Tensor]:
        levels = {"top": self.model.top, "bottom": self.model.bottom}
        perplexities = {f"{name}_perplexity": level.perplexity() for name, level in levels.items()}
        return perplexities | {f"{name}_live_codes": level.live_codes() for name, level in levels.items()}

    def after_step(self, step: int) -> None:
        """Move the codes."""
        self.model.update_codebooks(seeds.generator(self.config.seed, REVIVAL, step, device=self.model.device))

    @torch.no_grad()
    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Errors of whole images, and of what the structure alone shows; rows of images, structures and both."""
        assert isinstance(model, HierarchicalVQVAE)
        images = self.examples.validation
        whole, structure = self._reconstructed(model.eval(), images)
        write_rows(folder / f"step-{step:08d}.png", [images, structure, whole])
        return {
            "validation_psnr": _psnr(whole, images),
            "validation_structure_psnr": _psnr(structure, images),
            "validation_images": len(images),
        }

    def _reconstructed(
        self, model: HierarchicalVQVAE, images: Float[Tensor, "m c h w"]
    ) -> tuple[Float[Tensor, "m c h w"], Float[Tensor, "m c h w"]]:
        """Decoded from both levels, and from the structure tokens alone."""
        whole, structure = [], []
        for part in images.split(self.config.train_batch_size):
            encoded = model.encode(part)
            vectors = model.top.vectors(encoded.top_ids), model.bottom.vectors(encoded.bottom_ids)
            whole.append(model.decode(*vectors).clamp(-1, 1))
            structure.append(model.structure_picture(encoded.top_ids))
        return torch.cat(whole), torch.cat(structure)

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The model with its card."""
        assert isinstance(model, HierarchicalVQVAE)
        model.save_pretrained(folder)
        write_card(folder, "Hierarchical VQ-VAE for diverse inpainting", self.examples, record, USE)


def _psnr(found: Float[Tensor, "m c h w"], true: Float[Tensor, "m c h w"]) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], from their mean squared error."""
    return float(10 * torch.log10(4 / F.mse_loss(found, true)))


def build_vqvae(config: VQVAEConfig, channels: int) -> HierarchicalVQVAE:
    """A freshly initialised model, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(config.seed, INITIAL).initial_seed())
        return HierarchicalVQVAE(
            channels=channels,
            **config.sizes.vqvae._asdict(),
            codebook_decay=config.codebook_decay,
            dead_code_threshold=config.dead_code_threshold,
        )
