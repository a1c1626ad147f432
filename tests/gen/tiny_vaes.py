"""Autoencoders of diffusers that are small and quick, with random weights."""

from typing import Any

import diffusers
import torch

DOWN, UP = ("DownEncoderBlock2D",), ("UpDecoderBlock2D",)
TINY: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "block_out_channels": (8, 8), "down_block_types": DOWN * 2, "up_block_types": UP * 2, "norm_num_groups": 4,
        "latent_channels": 3, "sample_size": 8,
    },
    "AsymmetricAutoencoderKL": {
        "down_block_out_channels": (32, 32), "up_block_out_channels": (32, 32), "down_block_types": DOWN * 2,
        "up_block_types": UP * 2, "layers_per_down_block": 1, "layers_per_up_block": 1, "norm_num_groups": 4,
    },
    "VQModel": {
        "block_out_channels": (8, 8), "down_block_types": DOWN * 2, "up_block_types": UP * 2, "norm_num_groups": 4,
        "num_vq_embeddings": 16, "vq_embed_dim": 5,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    },
    "AutoencoderDC": {
        "latent_channels": 4, "attention_head_dim": 4, "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"), "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8), "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)), "encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1),
        "downsample_block_type": "conv", "upsample_block_type": "interpolate",
    },
    "AutoencoderKLCogVideoX": {  # of video
        "block_out_channels": (8, 8), "down_block_types": ("CogVideoXDownBlock3D",) * 2, "norm_num_groups": 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 2, "latent_channels": 4, "layers_per_block": 1,
    },
}  # fmt: skip


def tiny_vae(kind: str = "AutoencoderKL", seed: int = 0, **changes: Any) -> Any:
    """Compresses 2 x 2 pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(diffusers, kind)(**{**TINY[kind], **changes}).eval().requires_grad_(False)


def certain_vae(seed: int = 0, **changes: Any) -> Any:
    """One whose distribution is so narrow that every sample is its mean."""
    vae = tiny_vae(seed=seed, **changes)
    deviations = slice(vae.config.latent_channels, None)
    vae.quant_conv.weight[deviations] = 0
    vae.quant_conv.bias[deviations] = -60
    return vae
