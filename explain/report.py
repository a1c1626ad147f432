"""Explanations as parts of an HTML page: of one command's results, or of any page that shows what a classifier sees.

    report = Report("What the classifier looks at")
    add_explanation(report, Path("out/cat"))

It reads what `write_explanation` wrote, so that a page can be made again without explaining again.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from explain.explanation import RESULT
from explain.measures.overview import MEANINGS
from explain.saliency import METHODS
from workbench.report import Report

WIDEST = 320  # pixels on the page, whose size counts; the files are larger

READING = """
A map says what one method finds important for one class; methods disagree, and none is the explanation. Test a map by
eye with the two pictures beside it: what the classifier makes of the brightest part alone, and of the image without it.
A map that does no better than a control says nothing.
"""


def overview(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each method: what it is, what it costs, and its figures averaged over images and classes."""
    results = [read_result(folder) for folder in folders]
    return [_overview_row(method, results) for method in results[0]["costs"]]


def add_overview(report: Report, folders: Sequence[Path]) -> None:
    """How to read the page, and the methods side by side."""
    rows, count = overview(folders), f"{len(folders)} image{'s' if len(folders) > 1 else ''}"
    report.text(READING)
    report.table(rows, f"Methods, averaged over {count} and their classes")
    methods = [row["method"] for row in rows]
    report.text("\n".join(f"- `{method}`: {METHODS[method].text}" for method in methods))
    figures = {name: text for name, text in MEANINGS.items() if any(name in row for row in rows)}
    report.text("\n".join(f"- `{name}`: {text}" for name, text in figures.items()))


def _overview_row(method: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = [finding for result in results for finding in result["findings"] if finding["method"] == method]
    costs = [result["costs"][method] for result in results]
    return {
        "method": method,
        "sees the class": METHODS[method].knows_target,
        "forward passes": fmean(cost["forward_passes"] for cost in costs),
        "backward passes": fmean(cost["backward_passes"] for cost in costs),
        "seconds": fmean(cost["seconds"] for cost in costs),
        **{name: fmean(finding[name] for finding in found) for name in MEANINGS if name in found[0]},
    }


def add_explanation(report: Report, folder: Path) -> None:
    """One image: what the classifier says, then for each class a row of maps, and of views with what is left."""
    result = read_result(folder)
    report.heading(result["name"])
    predictions = [{"class": row["label"], "probability": row["probability"]} for row in result["predictions"]]
    report.figure(
        [shown_picture(folder / "image.png")], f"{result['name']}, {' x '.join(map(str, result['size']))} pixels"
    )
    report.table(predictions, "What the classifier says")
    for target in dict.fromkeys(finding["target"] for finding in result["findings"]):
        _add_target(report, folder, [finding for finding in result["findings"] if finding["target"] == target])


def _add_target(report: Report, folder: Path, findings: Sequence[dict[str, Any]]) -> None:
    label, probability = findings[0]["label"], findings[0]["probability"]
    report.heading(f"{label}, {probability:.1%}", level=3)
    pictures, labels = [], []
    for finding in findings:
        views = {
            ".png": finding["method"],
            "-kept.png": f"{finding['method']}, brightest part alone: {finding['probability_kept']:.1%}",
            "-removed.png": f"{finding['method']}, without it: {finding['probability_removed']:.1%}",
        }
        pictures += [shown_picture(folder / f"{finding['file']}{ending}") for ending in views]
        labels += list(views.values())
    report.figure(pictures, f"What speaks for {label}, and the probability of {label} that is left", labels)
    rows = [{key: finding[key] for key in ("method", *MEANINGS) if key in finding} for finding in findings]
    report.table(rows, f"Figures of the maps of {label}")
    for finding in findings:
        if finding["notes"]:
            report.text(f"- `{finding['method']}`: {'; '.join(finding['notes'])}")


def read_result(folder: Path) -> dict[str, Any]:
    """What `explanation.json` in a folder says."""
    result: dict[str, Any] = json.loads((folder / RESULT).read_text())
    return result


def shown_picture(path: Path) -> UInt8[Tensor, "3 h w"]:
    """A picture file, no larger than the page shows it."""
    from PIL import Image

    with Image.open(path) as image:
        image.thumbnail((WIDEST, WIDEST))
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
