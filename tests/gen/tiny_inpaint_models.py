"""Networks of diverse inpainting that are small, quick, and sensitive to all of their inputs."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gen.inpaint.structure import StructureModel
from gen.inpaint.vqvae import HierarchicalVQVAE

VQVAE: dict[str, Any] = {
    "channels": 1, "first_stride": 1, "width": 8, "residual_width": 4, "code_dim": 4, "num_codes": 12,
}  # fmt: skip
STRUCTURE: dict[str, Any] = {
    "channels": 1, "num_codes": 12, "code_dim": 4, "factor": 4, "condition_width": 2, "dilations": (1, 2), "width": 8,
    "num_levels": 4, "attention_every": 2, "num_attention_heads": 2, "num_output_blocks": 2,
}  # fmt: skip


def tiny_vqvae(seed: int = 0, **changes: Any) -> HierarchicalVQVAE:
    """Gray images, tokens of 4 x 4 pixels, 12 codes."""
    torch.manual_seed(seed)
    return HierarchicalVQVAE(**{**VQVAE, **changes}).eval()


def tiny_structure(seed: int = 0, **changes: Any) -> StructureModel:
    """With random biases too, which training starts at zero."""
    torch.manual_seed(seed)
    model = StructureModel(**{**STRUCTURE, **changes}).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.2)
    return model


def codebook(model: StructureModel, seed: int = 1) -> Float[Tensor, "k d"]:
    """Codes that differ from each other."""
    shape = model.config.num_codes, model.config.code_dim
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def structures(count: int, grid: tuple[int, int], seed: int = 2, num_codes: int = 12) -> Int64[Tensor, "n ht wt"]:
    """Random tokens."""
    return torch.randint(num_codes, (count, *grid), generator=torch.Generator().manual_seed(seed))


def conditions(model: StructureModel, grid: tuple[int, int], count: int = 1, seed: int = 3) -> Float[Tensor, "n f h w"]:
    """As of random masked images."""
    generator = torch.Generator().manual_seed(seed)
    size = tuple(side * model.config.factor for side in grid)
    images = torch.rand(count, model.config.channels, *size, generator=generator) * 2 - 1
    mask = torch.zeros(count, 1, *size)
    mask[..., 2 : size[0] // 2, 3 : size[1] // 2] = 1
    with torch.no_grad():
        return model.condition(images * (1 - mask), mask)


def seeded(*seeds: int) -> list[torch.Generator]:
    """A generator for each variant."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
