"""Segment-anything networks behind the one interface, and their released checkpoints."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from explain.prompts import Prompts
from explain.sam_network import build_sam, shape_of
from workbench.errors import UserError


class SamEmbedding(NamedTuple):
    """What a network keeps of an image: its features, the image's size, and the size at which it was seen."""

    features: Float[Tensor, "1 d g g"]
    size: tuple[int, int]
    seen_size: tuple[int, int]


class SamSegmenter:
    """A network of segment-anything's classes: embed an image once, then ask for masks as often as wanted."""

    classical = False
    trained = True

    def __init__(self, sam: Sam, name: str, device: str | torch.device = "cpu") -> None:
        self.sam, self.name = sam.to(device).eval().requires_grad_(False), name
        self.resize = ResizeLongestSide(sam.image_encoder.img_size)

    @torch.no_grad()
    def embed(self, image: UInt8[Tensor, "3 h w"]) -> SamEmbedding:
        """The costly part, once for an image."""
        seen = self.resize.apply_image(image.permute(1, 2, 0).cpu().numpy())
        pixels = torch.as_tensor(seen, device=self.sam.device).permute(2, 0, 1)[None]
        features = self.sam.image_encoder(self.sam.preprocess(pixels))
        return SamEmbedding(features, (image.shape[1], image.shape[2]), (seen.shape[0], seen.shape[1]))

    @torch.no_grad()
    def masks(self, embedding: SamEmbedding, prompts: Prompts) -> tuple[Bool[Tensor, "n h w"], Float[Tensor, " n"]]:
        """Three masks at the image's size and the IoU that the network expects of each."""
        sam, device = self.sam, self.sam.device
        points, box = np.array(prompts.points, float).reshape(-1, 2), prompts.box
        places = torch.as_tensor(self.resize.apply_coords(points, embedding.size), dtype=torch.float32)
        labels = (torch.tensor(prompts.signs) > 0).int()
        corners = None if box is None else self.resize.apply_boxes(np.array(box), embedding.size)
        sparse, dense = sam.prompt_encoder(
            points=(places[None].to(device), labels[None].to(device)) if prompts.points else None,
            boxes=None if corners is None else torch.as_tensor(corners, dtype=torch.float32, device=device),
            masks=None,
        )
        logits, quality = sam.mask_decoder(
            embedding.features, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=True
        )
        large = sam.postprocess_masks(logits, embedding.seen_size, embedding.size)
        return (large[0] > sam.mask_threshold).cpu(), quality[0].cpu()


def open_checkpoint(path: Path, device: str | torch.device = "cpu") -> SamSegmenter:
    """A released checkpoint (ViT-B, -L or -H, .pth) or the same weights as .safetensors.

    Raises `UserError` for a file that is damaged, unsafe to read, or another network's.
    """
    try:
        state = _read(path)
        sam = build_sam(shape_of(state))
        sam.load_state_dict(state)
    except Exception as error:  # torch, pickle and safetensors each fail in types of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is not a checkpoint of segment-anything's ViT-B, ViT-L or ViT-H ({reason}): give one of those, "
            "or the folder or hub name of a SAM or SAM 2 in transformers"
        ) from error
    return SamSegmenter(sam, f"segment-anything ({path.name})", device)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}")
    return state
