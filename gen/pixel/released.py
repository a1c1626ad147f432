"""Weights that EPG's authors released (arXiv 2510.12586), under our names.

model = load_released("EPG-XL.pth", "XL", sample_size=256, patch_size=16)
EPGPipeline(model, make_scheduler(model)).save_pretrained("epg-xl")
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen.pixel.presets import PIXEL_PRESETS, PixelPresetName
from gen.pixel.transformer import EPGTransformer2DModel
from workbench.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, by which their images are scaled
SCALING = {
    "data_mean": MEAN, "data_std": STD,
    "data_range": [[(edge - m) / (2 * s) for m, s in zip(MEAN, STD, strict=True)] for edge in (0, 1)],
}  # fmt: skip
NAMES = {  # theirs, as patterns, and ours
    r"^(patch_embed|cls_token|pos_embed|blocks|norm|class_embed)\b": r"encoder.\1",
    r"patch_embed\.proj": "patch_embed",
    r"\.norm([12])\.": r".norm_\1.",
    r"attn\.qkv": "attention.to_qkv", r"attn\.proj": "attention.to_out",
    r"mlp\.fc1": "mlp.0", r"mlp\.fc2": "mlp.2",
    r"skip_linear": "merge", r"skip_norm": "merge_norm",
    r"^out\.": "proj_out.",
}  # fmt: skip


def convert(released: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released weights under our names; the modulations of all blocks become one matrix."""
    weights: dict[str, Tensor] = {}
    for name, value in released.items():
        for theirs, ours in NAMES.items():
            name = re.sub(theirs, ours, name)
        weights[name] = value
    for kind in ("weight", "bias"):
        parts = [name for name in weights if name.endswith(f"adaLN_modulation.1.{kind}")]
        parts.sort(key=lambda name: int(name.split(".")[1]))
        weights[f"modulation.{kind}"] = torch.cat([weights.pop(name) for name in parts])
    return weights


def load_released(
    path: str | Path, preset: PixelPresetName, sample_size: int, **settings: Any
) -> EPGTransformer2DModel:
    """The model in a released checkpoint. Raises UserError where it is another than `preset` and `settings` say."""
    shape = {name: value for name, value in PIXEL_PRESETS[preset]._asdict().items() if not name.startswith("projector")}
    usual = {"sample_size": sample_size, "num_class_embeds": 1000, "sigma_shift": sample_size / 64}
    model = EPGTransformer2DModel(**{**shape, **usual, **SCALING, **settings})
    try:
        model.load_state_dict(convert(torch.load(path, map_location="cpu", weights_only=True)))
    except (RuntimeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} does not hold the weights of {preset}: {str(error).splitlines()[0]}") from error
    return model
