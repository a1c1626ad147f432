"""Segment-anything's network, assembled from its public classes at any size.

Kirillov et al., "Segment Anything", 2023, arXiv 2304.02643.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

NUM_MASKS = 3  # for one prompt: whole, part and part of a part


@dataclass(frozen=True)
class SamShape:
    """Sizes of all parts; those of the small network unless given."""

    image_size: int = 96  # pixels along a side of the padded input
    patch_size: int = 8
    encoder_width: int = 128
    encoder_depth: int = 4
    encoder_heads: int = 4
    mlp_ratio: float = 4.0
    relative_positions: bool = False
    window_size: int = 0  # patches along a side; 0: all attention is global
    global_blocks: tuple[int, ...] = ()
    width: int = 128  # of prompts and of the decoder
    mask_channels: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 256
    quality_width: int = 128
    quality_depth: int = 3


def build_sam(shape: SamShape) -> Sam:
    """A network of random weights."""
    grid = shape.image_size // shape.patch_size
    encoder = ImageEncoderViT(
        img_size=shape.image_size, patch_size=shape.patch_size, embed_dim=shape.encoder_width,
        depth=shape.encoder_depth, num_heads=shape.encoder_heads, mlp_ratio=shape.mlp_ratio, out_chans=shape.width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=shape.relative_positions,
        window_size=shape.window_size, global_attn_indexes=shape.global_blocks,
    )  # fmt: skip
    prompts = PromptEncoder(
        embed_dim=shape.width, image_embedding_size=(grid, grid),
        input_image_size=(shape.image_size, shape.image_size), mask_in_chans=shape.mask_channels,
    )  # fmt: skip
    transformer = TwoWayTransformer(
        depth=shape.decoder_depth, embedding_dim=shape.width, mlp_dim=shape.decoder_mlp, num_heads=shape.decoder_heads
    )
    decoder = MaskDecoder(
        transformer_dim=shape.width, transformer=transformer, num_multimask_outputs=NUM_MASKS,
        iou_head_depth=shape.quality_depth, iou_head_hidden_dim=shape.quality_width,
    )  # fmt: skip
    return Sam(encoder, prompts, decoder)


def shape_of(state: Mapping[str, Tensor]) -> SamShape:
    """The sizes of the network whose weights these are; KeyError where they are not segment-anything's."""
    position, patch = state["image_encoder.pos_embed"], state["image_encoder.patch_embed.proj.weight"]
    grid, width = position.shape[1], position.shape[3]
    depth = _count(state, "image_encoder.blocks.")
    sides = [(len(state[f"image_encoder.blocks.{block}.attn.rel_pos_h"]) + 1) // 2 for block in range(depth)]
    quality = "mask_decoder.iou_prediction_head.layers."
    return SamShape(
        image_size=grid * patch.shape[-1],
        patch_size=patch.shape[-1],
        encoder_width=width,
        encoder_depth=depth,
        encoder_heads=width // state["image_encoder.blocks.0.attn.rel_pos_h"].shape[1],
        mlp_ratio=len(state["image_encoder.blocks.0.mlp.lin1.weight"]) / width,
        relative_positions=True,
        window_size=min(sides) if min(sides) < grid else 0,
        global_blocks=tuple(block for block, side in enumerate(sides) if side == grid),
        width=len(state["image_encoder.neck.0.weight"]),
        mask_channels=len(state["prompt_encoder.mask_downscaling.3.weight"]),
        decoder_depth=_count(state, "mask_decoder.transformer.layers."),
        decoder_mlp=len(state["mask_decoder.transformer.layers.0.mlp.lin1.weight"]),
        quality_width=len(state[quality + "0.weight"]),
        quality_depth=_count(state, quality),
    )


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def embed_prompts(encoder: PromptEncoder, points: Tensor, labels: Tensor) -> Tensor:
    """Embeddings (B, N, D) of points (B, N, 2) in the network's pixels, as its own, but one row may have what another
    lacks: labels (B, N) are 1 on the object, 0 off it, 2 and 3 a box's first and last corner, -1 nothing."""
    kinds = torch.cat([encoder.not_a_point_embed.weight, *(layer.weight for layer in encoder.point_embeddings)])
    places = encoder.pe_layer.forward_with_coords(points + 0.5, encoder.input_image_size)
    return places * (labels >= 0)[..., None] + kinds[labels + 1]


def decode_masks(decoder: MaskDecoder, features: Tensor, places: Tensor, sparse: Tensor, dense: Tensor) -> tuple[
    Tensor, Tensor
]:  # fmt: skip
    """Logits (B, 4, 4g, 4g) of masks, the unambiguous one first, and their predicted IoU (B, 4), as the decoder's own
    `predict_masks`, for prompts on as many images.

    `features` and `dense` are (B, D, g, g), `places` (1, D, g, g), `sparse` (B, N, D).
    """
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], 1)  # (B, 5 + N, D)
    found, image = decoder.transformer(features + dense, places.expand(len(features), -1, -1, -1), tokens)
    fine = decoder.output_upscaling(image.transpose(1, 2).reshape(features.shape))
    weights = [layer(found[:, 1 + k]) for k, layer in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.einsum("bkc,bchw->bkhw", torch.stack(weights, 1), fine)
    return masks, decoder.iou_prediction_head(found[:, 0])
