"""VALE on real pictures: is the region worth more than others of its shape, and how do the results look?"""

import argparse
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from kept import Kept
from torch import Tensor

from explain.describe import NoDescriber
from explain.hiding import hiding
from explain.maps import Maps
from explain.measures.erasing import erase
from explain.overlays import as_picture
from explain.region_views import outlined, signed_overlay
from explain.segment import open_segmenters
from explain.vale import Finding, Vale, ValeExplanation
from explain.vale_files import VIEWED
from workbench.classifiers import load_classifier
from workbench.datasets import available_splits, load_images
from workbench.files import write_atomic
from workbench.pictures import encode_png, image_grid, resize_images
from workbench.progress import progress

CELL = (160, 160)
MEASURED = ("keep", "remove", "control_keep", "control_remove")
NO_REGION = float("nan")
Row = dict[str, Any]


def measure_pictures(options: argparse.Namespace, kept: Kept) -> list[Row]:
    """Figures of every image, and the picture of all: as it is, the map, the region, alone and without it."""
    splits = available_splits(options.data)
    data = load_images(options.data, "test" if "test" in splits else splits[0])
    segmenter, *others = open_segmenters(options.segmenter, options.device)
    classifier = load_classifier(options.classifier, options.device)
    vale = Vale(classifier, segmenter, NoDescriber(), options.budget, others=tuple(others))
    images = list(data.images)[: options.num_images]
    names = data.file_names or [str(number) for number in range(len(data))]
    rows: list[Row] = []
    cells: list[Tensor] = []
    with progress(len(images), "explaining", unit="image") as bar:
        for name, image in zip(names, images, strict=False):
            told = {"image": name, "data": Path(options.data).name, "classifier": options.classifier}
            segmenters = " and ".join(one.name for one in vale.segmenters)
            how = {"segmenter": segmenters, "budget": vale.budget, "fill": vale.fill}
            row, shown = _measure(vale, image, {**told, **how}, kept)
            rows.append({"image": name, **row})
            cells += shown
            bar.update()
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.picture, encode_png(image_grid(cells, columns=5)))
    return rows


def _measure(vale: Vale, image: UInt8[Tensor, "c h w"], settings: Row, kept: Kept) -> tuple[Row, list[Tensor]]:
    explanation = vale.explain(image)
    finding = explanation.findings[0]
    figures = kept.find(settings)
    if figures is None:
        kept.add(settings, figures := _figures(vale, explanation, finding))
    return {"label": finding.facts.label, **figures}, _cells(explanation, finding)


def _figures(vale: Vale, explanation: ValeExplanation, finding: Finding) -> Row:
    pixels = vale.classifier.shrink(explanation.picture[None].float() / 255)
    values = finding.attribution.values[None, None].to(pixels)
    small = torch.nn.functional.interpolate(values, pixels.shape[2:], mode="area")[0]
    target = torch.tensor([finding.attribution.target], device=pixels.device)
    curves = erase(vale.classifier, pixels, Maps(small, target, 0, 0, 0.0), "mean")
    one = next(iter(finding.facts.verifications), None)
    chosen = None if finding.chosen is None else finding.candidates[finding.chosen]
    return {
        "drawn by": "nobody" if chosen is None else chosen.segmenter.split(" (")[0],
        "probability": finding.facts.probability,
        "all hidden": finding.facts.base,
        "half of it in": finding.facts.half_area or NO_REGION,
        "best E": max((one.evidence for one in finding.candidates), default=NO_REGION),
        **{name: NO_REGION if one is None else getattr(one, name) for name in MEASURED},
        "deletion": float(curves.deletion_auc[0]),
        "insertion": float(curves.insertion_auc[0]),
    }


def _cells(explanation: ValeExplanation, finding: Finding) -> list[Tensor]:
    picture, mask = explanation.picture, finding.mask
    cells = [as_picture(picture), signed_overlay(picture, finding.attribution.values)]
    if mask is None:
        cells += [torch.full((3, *CELL), 255, dtype=torch.uint8)] * 3
    else:
        views = hiding(picture.float() / 255, VIEWED)(torch.stack([mask.cpu(), ~mask.cpu()]))
        cells += [as_picture(outlined(picture, mask.cpu())), *((view * 255).byte() for view in views)]
    return [resize_images(cell[None], CELL)[0] for cell in cells]
