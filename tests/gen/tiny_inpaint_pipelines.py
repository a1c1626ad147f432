"""Pipelines of diverse inpainting with random weights: 16 x 24 pixels, tokens of 4 x 4."""

from typing import Any

import torch
from tiny_inpaint_models import tiny_structure, tiny_vqvae

from gen.inpaint.pipeline import DiverseInpaintPipeline
from gen.inpaint.texture import TextureGenerator

SIZE = (16, 24)
GRID = (4, 6)


def tiny_texture(seed: int = 0, **changes: Any) -> TextureGenerator:
    """Sensitive to its structure and to its picture alike."""
    torch.manual_seed(seed)
    settings = {"sample_size": SIZE, "channels": 1, "structure_dim": 4, "first_stride": 1, "width": 8, **changes}
    return TextureGenerator(**settings).eval()


def tiny_pipeline(channels: int = 1, mask_kinds: tuple[str, ...] = ("centre",), **changes: Any) -> Any:
    """A quiet pipeline."""
    vqvae = tiny_vqvae(channels=channels)
    shared = {"channels": channels, "codebook_hash": vqvae.codebook_hash(), "mask_kinds": mask_kinds}
    pipe = DiverseInpaintPipeline(vqvae, tiny_structure(**shared), tiny_texture(**shared), **changes)
    pipe.set_progress_bar_config(disable=True)
    return pipe
