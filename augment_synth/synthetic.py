"""Images to train on besides the real ones, each with its provenance."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from augment_synth.aspire import Discovery
from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import EditRow


@dataclass(frozen=True)
class Synthetic:
    """Edited or generated images. A row has `label`, `source`, `removed_feature`, `replaced_by` (or None) and more.
    `left_out`: how many a filter took away, by its name."""

    images: UInt8[Tensor, "n 3 h w"]
    rows: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


def direct(discovery: Discovery, edits: Sequence[EditRow]) -> Synthetic:
    """The edits themselves."""
    data = discovery.editing.subject.data
    size = (data.images.shape[-2], data.images.shape[-1])
    return Synthetic(decoded(edits, size), [_edited_row(discovery, row) for row in edits])


def decoded(rows: Sequence[EditRow], size: tuple[int, int]) -> UInt8[Tensor, "n 3 h w"]:
    """The pictures of edits."""
    pictures = [np.array(Image.open(io.BytesIO(row.png)).convert("RGB")) for row in rows]
    if not pictures:
        return torch.empty(0, 3, *size, dtype=torch.uint8)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _edited_row(discovery: Discovery, row: EditRow) -> dict[str, Any]:
    """Provenance of an edit: everything needed to make it again, and what it did."""
    features = discovery.editing.subject.features[row.position]
    maker = discovery.editing.remover if row.kind == "object" else discovery.editing.swapper
    return {
        "label": row.label, "source": "edited", "parent": row.image_id,
        "parent_sha256": pixels_hash(discovery.editing.subject.data, row.position), "parent_caption": features.caption,
        "background": row.replaced_by or features.background, "removed_feature": row.phrase, "feature_kind": row.kind,
        "replaced_by": row.replaced_by or None, "seed": row.seed, "editor": maker.component.name,
        "editor_kind": maker.component.kind, "editor_version": maker.component.version,
        "p_before": row.p_before, "p_after": row.p_after,
        "pred_before": row.pred_before, "pred_after": row.pred_after, "flipped": row.flipped,
        "label_change": row.label_change,
    }  # fmt: skip


def pixels_hash(data: DebiasData, position: int) -> str:
    """SHA-256 of an image's pixels at the size that is edited."""
    return sha256(data.images[position].numpy().tobytes()).hexdigest()
