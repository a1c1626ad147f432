"""One image explained: by every method asked for, for every target, with the figures that say how far to trust it.

    explanation = explain_image(classifier, pixels, ["gradcam", "rise"], "top5", name="cat")
    write_explanation(explanation, folder)

Letters: (h, w) the image as it came; the methods see it smaller where it has more pixels than the classifier looks at.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from explain.fills import FILLS
from explain.layers import show
from explain.maps import Maps
from explain.measures.erasing import removal_order
from explain.measures.overview import faithfulness
from explain.overlays import as_picture, overlay
from explain.probability import target_probabilities
from explain.saliency import METHODS, explain
from explain.targets import Targets, resolve_targets
from workbench.files import write_atomic
from workbench.pictures import encode_png, resize_images
from workbench.pixel_classifier import PixelClassifier

RESULT = "explanation.json"
UNLIKELY = 0.01
LISTED = 5  # most likely classes that are named


@dataclass(frozen=True)
class Finding:
    """What one method shows of one class: the map in [0, 1], and the image with the brightest part of it alone, and
    without that part, each with the probability that is left."""

    method: str
    target: int
    label: str
    probability: float
    saliency: Float[Tensor, "h w"]
    kept: UInt8[Tensor, "3 height width"]
    removed: UInt8[Tensor, "3 height width"]
    figures: dict[str, float]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """All findings of one image, and what the classifier says of it: the most likely classes first."""

    name: str
    image: UInt8[Tensor, "c h w"]
    predictions: tuple[tuple[str, float], ...]
    findings: tuple[Finding, ...]
    costs: dict[str, dict[str, int | float]]  # of each method, for all targets together
    seen_size: tuple[int, int]


@dataclass(frozen=True)
class Settings:
    """How to explain: `keep` is the share of pixels that counts as the brightest part, `fill` what takes the place of
    the others in the views, `measured_fills` those of deletion and insertion, `options` what the methods are told."""

    keep: float = 0.15
    fill: str = "mean"
    measured_fills: tuple[str, ...] = ("blur",)
    batch_size: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)


# ---- explaining ------------------------------------------------------------------------------------------------------


def explain_image(
    classifier: PixelClassifier,
    image: UInt8[Tensor, "c h w"],
    methods: Sequence[str],
    targets: Targets = None,
    settings: Settings = Settings(),
    name: str = "image",
) -> Explanation:
    """Explain an image. Raises `UserError` for an unknown method, an impossible target, maps that are not finite, or an
    image of a size that the classifier cannot see."""
    pixels = classifier.shrink(image[None].to(classifier.mean.device).float() / 255)
    with torch.no_grad():
        logits = show(classifier, pixels)
    numbers = resolve_targets(targets, classifier, logits)
    findings: list[Finding] = []
    costs = {}
    for method in methods:
        told = {"batch_size": settings.batch_size, **settings.options}
        maps = explain(method, classifier, pixels, numbers, **told)
        costs[method] = _cost(maps)
        findings += _findings(method, classifier, image, pixels, maps, settings)
    seen_size = (pixels.shape[2], pixels.shape[3])
    return Explanation(name, image, _predictions(classifier, logits), tuple(findings), costs, seen_size)


def _findings(
    method: str,
    classifier: PixelClassifier,
    image: UInt8[Tensor, "c h w"],
    pixels: Float[Tensor, "1 c _ _"],
    maps: Maps,
    settings: Settings,
) -> list[Finding]:
    batch = settings.batch_size
    views = _views(pixels, maps, settings.keep, settings.fill)
    repeated = maps.repeated(pixels)
    whole, kept, removed = (target_probabilities(classifier, x, maps.targets, batch) for x in (repeated, *views))
    figures = {"probability_kept": kept, "probability_removed": removed}
    figures |= {**faithfulness(classifier, pixels, maps, settings.measured_fills, batch_size=batch), **maps.figures}
    shown = maps.normalised().values
    return [
        Finding(
            method,
            target,
            classifier.label_name(target),
            probability := float(whole[row]),
            _at_size(shown[row], image),
            _as_picture(views[0][row], image),
            _as_picture(views[1][row], image),
            {key: float(values[row]) for key, values in figures.items()},
            _notes(maps.values[row], probability),
        )
        for row, target in enumerate(maps.targets.tolist())
    ]


def _predictions(classifier: PixelClassifier, logits: Float[Tensor, "1 k"]) -> tuple[tuple[str, float], ...]:
    probabilities = classifier.probabilities(logits.float())[0]
    most_likely = probabilities.argsort(descending=True)[:LISTED].tolist()
    return tuple((classifier.label_name(number), float(probabilities[number])) for number in most_likely)


def _cost(maps: Maps) -> dict[str, int | float]:
    return {"forward_passes": maps.forward_passes, "backward_passes": maps.backward_passes, "seconds": maps.seconds}


def _views(
    pixels: Float[Tensor, "1 c h w"], maps: Maps, keep: float, fill: str
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
    """The brightest part of each map alone, and the image without it."""
    images = maps.repeated(pixels)
    filled = FILLS[fill](images)
    brightest = (removal_order(maps.values) < round(keep * maps.values[0].numel()))[:, None]
    return torch.where(brightest, images, filled), torch.where(brightest, filled, images)


def _notes(values: Float[Tensor, "h w"], probability: float) -> tuple[str, ...]:
    notes = []
    if values.amax() == values.amin():
        notes.append("the map is the same everywhere: the method found nothing that speaks for this class")
    if probability < UNLIKELY:
        notes.append("the classifier finds this class unlikely, so the map is an extrapolation")
    return tuple(notes)


def _at_size(values: Float[Tensor, "_ _"], image: UInt8[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
    size = (image.shape[1], image.shape[2])
    return F.interpolate(values[None, None].cpu(), size, mode="bilinear", align_corners=False)[0, 0]


def _as_picture(view: Float[Tensor, "c _ _"], image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "3 height width"]:
    pixels = (view[None] * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    return as_picture(resize_images(pixels, (image.shape[1], image.shape[2]))[0])


# ---- on disk ---------------------------------------------------------------------------------------------------------


def write_explanation(explanation: Explanation, folder: Path, record: Mapping[str, Any]) -> None:
    """Write, into an existing folder, image.png, for each finding METHOD-CLASS.npy (float32 in [0, 1], at the image's
    size), .png, -kept.png and -removed.png, and last `explanation.json`, which `record` joins."""
    write_atomic(folder / "image.png", encode_png(as_picture(explanation.image)))
    found = []
    for finding, stem in zip(explanation.findings, file_stems(explanation.findings), strict=True):
        pictures = {
            ".png": overlay(explanation.image, finding.saliency),
            "-kept.png": finding.kept,
            "-removed.png": finding.removed,
        }
        np.save(folder / f"{stem}.npy", finding.saliency.numpy().astype(np.float32))
        for ending, picture in pictures.items():
            write_atomic(folder / f"{stem}{ending}", encode_png(picture))
        found.append(
            {
                "method": finding.method,
                "target": finding.target,
                "label": finding.label,
                "probability": finding.probability,
                "sees_the_class": METHODS[finding.method].knows_target,
                "file": stem,
                **finding.figures,
                "notes": finding.notes,
            }
        )
    content = {
        "name": explanation.name,
        "size": explanation.image.shape[1:],
        "explained_at": explanation.seen_size,
        "predictions": [{"label": label, "probability": value} for label, value in explanation.predictions],
        "costs": explanation.costs,
        "findings": found,
        **record,
    }
    write_atomic(folder / RESULT, json.dumps(content, indent=1) + "\n")


def file_stems(findings: Sequence[Finding]) -> list[str]:
    """METHOD-CLASS for each finding, with the class's number where two classes would have one name."""
    classes = {finding.target: slug(finding.label) for finding in findings}
    shared = {name for name in classes.values() if list(classes.values()).count(name) > 1}
    return [
        f"{finding.method}-{name}" if (name := classes[finding.target]) not in shared
        else f"{finding.method}-{name}-{finding.target}"
        for finding in findings
    ]  # fmt: skip


def slug(text: str) -> str:
    """A name as a part of a file's: lower case, letters, digits and hyphens."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-") or "unnamed"
