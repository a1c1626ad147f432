"""Sizes of diffusion transformers, as DiT named them (Peebles & Xie 2023, arXiv 2212.09748); the two smallest are ours.

Light (no torch), because `--help` reads it.
"""

from typing import Literal, NamedTuple

PresetName = Literal["smoke", "tiny", "S", "B", "L", "XL"]


class Preset(NamedTuple):
    """Depth and width of a transformer; the width is heads times head dim."""

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int


PRESETS: dict[PresetName, Preset] = {
    "smoke": Preset(4, 2, 32),  # tests of a minute
    "tiny": Preset(6, 4, 32),  # a CPU
    "S": Preset(12, 6, 64),
    "B": Preset(12, 12, 64),
    "L": Preset(24, 16, 64),
    "XL": Preset(28, 16, 72),
}


def forward_flops(preset: Preset, tokens: int, mlp_ratio: float = 4.0) -> float:
    """Floating-point operations (2 for each multiply-add) of the blocks for one image of `tokens` tokens.

    Per block and token 8 D^2 for attention's layers and 4 r D^2 for the MLP, and 4 N D for the attention itself.
    A training step costs three times as much.
    """
    width = preset.num_attention_heads * preset.attention_head_dim
    per_token = (8 + 4 * mlp_ratio) * width**2 + 4 * tokens * width
    return float(preset.num_layers * tokens * per_token)
