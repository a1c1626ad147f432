"""Sizes of the inpainting networks. `px256` is the paper's; the others share all of its code paths.

Light (no torch), because `--help` reads it.
"""

from typing import Literal, NamedTuple

PresetName = Literal["tiny32", "px64", "px256"]


class VQVAEShape(NamedTuple):
    """Of the hierarchical VQ-VAE; an image has 4 x first_stride pixels along each side of a structure token."""

    first_stride: int
    width: int
    residual_width: int
    code_dim: int
    num_codes: int  # per level

    @property
    def factor(self) -> int:
        """Pixels along each side of a structure token."""
        return 4 * self.first_stride


class StructureShape(NamedTuple):
    """Of the condition network, which halves the sides until they are the token grid's, and of the AR network."""

    condition_width: int  # at full resolution; doubled at each halving
    dilations: tuple[int, ...]  # of the condition network's last blocks
    width: int
    num_levels: int
    attention_every: int
    num_attention_heads: int
    num_output_blocks: int


class TextureShape(NamedTuple):
    """Of the texture generator and of its discriminator."""

    first_stride: int
    width: int  # raw filters of the first layer; a gated layer gives half of its filters
    discriminator_width: int
    discriminator_layers: int


class Preset(NamedTuple):
    """All networks of one size."""

    vqvae: VQVAEShape
    structure: StructureShape
    texture: TextureShape


PRESETS: dict[PresetName, Preset] = {
    "tiny32": Preset(  # a CPU
        VQVAEShape(1, 32, 16, 16, 64),
        StructureShape(8, (1, 1, 2, 4), 32, 8, 4, 2, 4),
        TextureShape(1, 24, 24, 4),
    ),
    "px64": Preset(
        VQVAEShape(1, 64, 32, 32, 256),
        StructureShape(16, (1, 1, 2, 4, 1), 64, 12, 4, 4, 8),
        TextureShape(1, 32, 48, 5),
    ),
    "px256": Preset(
        VQVAEShape(2, 128, 64, 64, 512),
        StructureShape(32, (1, 1, 1, 1, 2, 4, 8, 16, 1, 1, 1), 128, 20, 5, 8, 20),
        TextureShape(2, 64, 64, 6),
    ),
}
