"""An explanation of VALE as files: maps as numbers and pictures, the mask, the region's views, and `vale.json`.

write_vale(explanation, folder)  # into a folder that exists

The page (`explain.vale_page`) is made from these files, so that it can be made again without explaining again.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from explain.candidates import Candidate
from explain.explanation import slug
from explain.hiding import hiding
from explain.overlays import as_picture
from explain.prompts import Prompts
from explain.region_views import highlighted, outlined, signed_overlay
from explain.vale import Finding, ValeExplanation
from explain.verification import FILLS
from workbench.files import write_atomic
from workbench.launch import versions
from workbench.pictures import encode_png

RESULT = "vale.json"
VIEWED = FILLS[0]  # how hidden pixels are shown


def write_vale(explanation: ValeExplanation, folder: Path, record: Mapping[str, Any] | None = None) -> None:
    """Write, for each class, vale-CLASS.npy (signed, float32, at the image's size), .png and, where there is a region,
    -mask.png (at the image's size), -region.png, -kept.png, -removed.png, -candidate-N.png, -control.png; for a
    comparison -contrast.npy and .png; and last `vale.json`, which `record` joins."""
    write_atomic(folder / "picture.png", encode_png(as_picture(explanation.picture)))
    stems = _stems(explanation)
    for finding, stem in zip(explanation.findings, stems, strict=True):
        _write_maps(explanation, finding, folder, stem)
        _write_region(explanation, finding, folder, stem)
    content = {
        "name": explanation.name,
        "size": explanation.image.shape[1:],
        "explained_at": explanation.picture.shape[1:],
        "segmenter": explanation.segmenter,
        "classical_segmentation": explanation.classical,
        "describer": explanation.describer,
        "versions": versions(),
        "findings": [_as_json(one, stem) for one, stem in zip(explanation.findings, stems, strict=True)],
        **(record or {}),
    }
    write_atomic(folder / RESULT, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _stems(explanation: ValeExplanation) -> list[str]:
    names = [f"vale-{slug(finding.facts.label)}" for finding in explanation.findings]
    numbers = [finding.attribution.target for finding in explanation.findings]
    return [f"{name}-{number}" if names.count(name) > 1 else name for name, number in zip(names, numbers, strict=True)]


def _write_maps(explanation: ValeExplanation, finding: Finding, folder: Path, stem: str) -> None:
    prompts, size = finding.prompts, tuple(explanation.image.shape[1:])
    points, signs = ((), ()) if prompts is None else (prompts.points, prompts.signs)
    picture = signed_overlay(explanation.picture, finding.attribution.values, points, signs)
    write_atomic(folder / f"{stem}.png", encode_png(picture))
    maps = {"": finding.attribution.values, "-contrast": finding.contrast}
    for ending, values in maps.items():
        if values is not None:
            np.save(folder / f"{stem}{ending}.npy", at_size(values, size).numpy())
    if finding.contrast is not None:
        contrast = signed_overlay(explanation.picture, finding.contrast)
        write_atomic(folder / f"{stem}-contrast.png", encode_png(contrast))


def _write_region(explanation: ValeExplanation, finding: Finding, folder: Path, stem: str) -> None:
    for number, candidate in enumerate(finding.candidates):
        view = as_picture(outlined(explanation.picture, candidate.mask.cpu()))
        write_atomic(folder / f"{stem}-candidate-{number}.png", encode_png(view))
    if finding.control is not None:
        view = as_picture(outlined(explanation.picture, finding.control.mask.cpu()))
        write_atomic(folder / f"{stem}-control.png", encode_png(view))
    if finding.mask is None:
        return
    mask = finding.mask.cpu()
    hide = hiding(explanation.picture.float() / 255, VIEWED)
    kept, removed = ((view * 255).round().byte() for view in hide(torch.stack([mask, ~mask])))
    full = at_size(mask.float(), tuple(explanation.image.shape[1:]))
    pictures = {
        "mask": (full[None] * 255).byte(),
        "region": highlighted(explanation.picture, mask),
        "kept": as_picture(kept),
        "removed": as_picture(removed),
    }
    for ending, view in pictures.items():
        write_atomic(folder / f"{stem}-{ending}.png", encode_png(view))


def at_size(values: Float[Tensor, "_ _"], size: tuple[int, ...]) -> Float[Tensor, "h w"]:
    """A map of blocks at another size: blocks stay blocks, and values what they are."""
    return F.interpolate(values[None, None].float().cpu(), size, mode="nearest-exact")[0, 0]


def _as_json(finding: Finding, stem: str) -> dict[str, Any]:
    found = finding.attribution
    measured = ("base", "fx", "evaluations", "seconds", "additivity_error", "fill", "scale", "seed", "method")
    return {
        "label": finding.facts.label,
        "target": found.target,
        "file": stem,
        "text": finding.text,
        "facts": asdict(finding.facts),
        "descriptions": [asdict(description) for description in finding.descriptions],
        "attribution": {name: getattr(found, name) for name in measured},
        "prompts": _prompts(finding.prompts),
        "candidates": [_candidate(candidate) for candidate in finding.candidates],
        "chosen": finding.chosen,
        "control": None if finding.control is None else _candidate(finding.control),
        "seconds": finding.seconds,
    }


def _prompts(prompts: Prompts | None) -> dict[str, Any] | None:
    names = ("points", "signs", "box", "peak_values")
    return None if prompts is None else {name: getattr(prompts, name) for name in names}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    figures = {name: float(getattr(candidate, name)) for name in ("evidence", "quality", "area", "confidence")}
    told = {"rejected": candidate.rejected, "segmenter": candidate.segmenter}
    return {**{k: None if math.isnan(v) else v for k, v in figures.items()}, **told}
