"""Sizes of EPG networks as its authors named them (arXiv 2510.12586); the three smallest are ours. Light (no torch)."""

from typing import Literal, NamedTuple

PixelPresetName = Literal["smoke", "tiny", "small", "B", "L", "XL", "XXL", "G"]


class PixelPreset(NamedTuple):
    """Depth of the encoder (the decoder's is the same), both widths as heads times head dim, and the projector's.

    The decoder of the larger models is wider than their encoder. The projector belongs to pre-training alone.
    """

    num_layers: int
    num_attention_heads: int
    attention_head_dim: int
    decoder_num_attention_heads: int
    decoder_attention_head_dim: int
    projector_hidden_dim: int = 4096
    projector_dim: int = 256


PIXEL_PRESETS: dict[PixelPresetName, PixelPreset] = {
    "smoke": PixelPreset(2, 2, 16, 2, 16, 64, 32),  # tests of a minute
    "tiny": PixelPreset(3, 3, 32, 3, 32, 384, 64),  # a CPU
    "small": PixelPreset(4, 4, 32, 4, 32, 512, 128),
    "B": PixelPreset(6, 12, 64, 12, 64),
    "L": PixelPreset(16, 16, 64, 16, 64),
    "XL": PixelPreset(12, 12, 64, 22, 72),
    "XXL": PixelPreset(12, 12, 64, 16, 120),
    "G": PixelPreset(12, 12, 64, 21, 128),
}
