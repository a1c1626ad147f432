"""Training of the structure generator: the second stage of diverse inpainting; `StructureRecipe.loss` is the method."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from gen.card import write_card
from gen.inpaint.attention import hole_tokens
from gen.inpaint.config import StructureConfig
from gen.inpaint.examples import InpaintExamples
from gen.inpaint.masks import draw_masks
from gen.inpaint.sampler import sample
from gen.inpaint.structure import StructureModel
from gen.inpaint.structure_tokens import StructureTokens
from gen.inpaint.vqvae import HierarchicalVQVAE, open_vqvae
from gen.validation import write_rows
from workbench import seeds
from workbench.errors import UserError
from workbench.recipe import Draws, Recipe

INITIAL, VALIDATION, DROPOUT = 2, 3, 8  # streams of randomness
PICTURED, VARIANTS = 8, 4  # images of a validation picture, and structures drawn for each
USE = (
    "The second stage of diverse inpainting: join it with the others by\n\n```sh\n"
    "workbench train inpaint --vqvae VQVAE_RUN --structure THIS_RUN --texture TEXTURE_RUN --output-dir RUN\n```"
)


class StructureRecipe(Recipe):
    """The log-likelihood of all structure tokens, in the hole and outside of it, given the masked image."""

    name = "inpaint-structure"
    result = "structure"
    config: StructureConfig
    model: StructureModel

    def __init__(self, config: StructureConfig) -> None:
        config.check()
        self.config = config
        self.vqvae = open_vqvae(config.vqvae)
        self.examples = InpaintExamples(config)
        self.notes, self.num_examples = self.examples.notes, len(self.examples)
        if self.examples.channels != self.vqvae.config.channels:
            raise UserError(
                f"the images have {self.examples.channels} channels and the VQ-VAE was trained on "
                f"{self.vqvae.config.channels}; give --channels {self.vqvae.config.channels}, or another --vqvae"
            )
        self.grid = self.vqvae.grid(*config.size)
        self.tokens = StructureTokens(config, self.examples)
        self.model = build_structure_model(config, self.vqvae)

    def to(self, device: torch.device) -> None:
        """Encode the structures, and keep them and the images beside the model."""
        self.examples.to(device)
        self.vqvae.to(device)
        self.tokens.prepare(Path(self.config.output_dir) / "structure_tokens.safetensors", self.vqvae)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Views and masks of one global batch, and a seed of dropout for each sample."""
        on_cpu = seeds.generator(generator.initial_seed(), DROPOUT)  # so that no step waits for a device
        return {
            **self.tokens.draw(batch_size, generator),
            "mask": draw_masks(self.config.masks, batch_size, self.config.size, generator),
            "dropout_seed": torch.randint(2**62, (batch_size,), generator=on_cpu),
        }

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """Mean negative log-likelihood of a token."""
        images, ids = self.tokens.read(indices, draws["view"])
        mask, vectors = draws["mask"], self.vqvae.top.vectors(ids)
        logits = model(images * (1 - mask), mask, vectors, self._dropout_mask(draws["dropout_seed"]))
        loss = F.cross_entropy(logits.float(), ids, reduction="none")
        return {"loss": loss.mean(), **self._bits(loss.detach(), mask)}

    def _dropout_mask(self, of_samples: Int64[Tensor, " b"]) -> Bool[Tensor, "b blocks width ht wt"] | None:
        """Where each sample's activations are kept: drawn by its own seed, however a batch is split."""
        if not self.config.dropout:
            return None
        shape, device = (*self.model.dropout_shape, *self.grid), self.model.device
        generators = [torch.Generator(device).manual_seed(seed) for seed in of_samples.tolist()]
        uniform = torch.stack([torch.rand(shape, generator=generator, device=device) for generator in generators])
        return uniform >= self.config.dropout

    def _bits(self, loss: Float[Tensor, "b ht wt"], mask: Float[Tensor, "b 1 h w"]) -> dict[str, Tensor]:
        """Bits per token, of all and of those in the hole."""
        hole = hole_tokens(mask, self.grid).view(loss.shape)
        in_hole = (loss * hole).sum() / hole.sum().clamp(min=1)
        return {"bits_per_token": loss.mean() / math.log(2), "hole_bits_per_token": in_hole / math.log(2)}

    @torch.no_grad()
    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Bits per token, beside those of a model that knows only how frequent each token is; drawn structures."""
        assert isinstance(model, StructureModel)
        model.eval()
        images = self.examples.validation
        generator = seeds.generator(self.config.seed, VALIDATION)
        mask = draw_masks(self.config.masks, len(images), self.config.size, generator).to(images.device)
        size = self.config.train_batch_size
        parts = zip(images.split(size), mask.split(size), strict=True)
        ids, losses = zip(*(self._judged(model, *part) for part in parts), strict=True)
        bits = {f"validation_{key}": value.item() for key, value in self._bits(torch.cat(losses), mask).items()}
        self._draw_pictures(model, images[:PICTURED], mask[:PICTURED], folder / f"step-{step:08d}.png")
        return {**bits, "validation_unigram_bits": _entropy(torch.cat(ids)), "validation_images": len(images)}

    def _judged(
        self, model: StructureModel, images: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"]
    ) -> tuple[Int64[Tensor, "b ht wt"], Float[Tensor, "b ht wt"]]:
        """True tokens, and their negative log-likelihoods."""
        ids = self.vqvae.encode(images).top_ids
        logits = model(images * (1 - mask), mask, self.vqvae.top.vectors(ids))
        return ids, F.cross_entropy(logits, ids, reduction="none")

    def _draw_pictures(
        self, model: StructureModel, images: Float[Tensor, "b c h w"], mask: Float[Tensor, "b 1 h w"], path: Path
    ) -> None:
        """Rows of masked images, of their structures, and of structures drawn for them."""
        masked, codebook = images * (1 - mask), self.vqvae.top.codebook
        conditions = model.condition(masked, mask)
        drawn = []
        for number in range(len(images)):
            generators = [seeds.generator(self.config.seed, VALIDATION, number, k) for k in range(VARIANTS)]
            drawn.append(sample(model, codebook, conditions[number : number + 1], VARIANTS, generators).ids)
        variants = [self.vqvae.structure_picture(ids) for ids in torch.stack(drawn, dim=1)]
        true = self.vqvae.structure_picture(self.vqvae.encode(images).top_ids)
        write_rows(path, [masked, true, *variants])

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The model with its card."""
        assert isinstance(model, StructureModel)
        model.save_pretrained(folder)
        write_card(folder, "Structure generator for diverse inpainting", self.examples, record, USE)


def _entropy(ids: Int64[Tensor, "m ht wt"]) -> float:
    """Of single tokens, in bits."""
    share = torch.bincount(ids.flatten()) / ids.numel()
    return float(torch.special.entr(share).sum() / math.log(2))


def build_structure_model(config: StructureConfig, vqvae: HierarchicalVQVAE) -> StructureModel:
    """A freshly initialised model, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(config.seed, INITIAL).initial_seed())
        return StructureModel(
            channels=vqvae.config.channels,
            num_codes=vqvae.config.num_codes,
            code_dim=vqvae.config.code_dim,
            factor=vqvae.factor,
            **config.sizes.structure._asdict(),
            dropout=config.dropout,
            codebook_hash=vqvae.codebook_hash(),
            mask_kinds=tuple(config.masks),
        )
