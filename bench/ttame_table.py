"""The tables of the benchmark of explanations, and what its claims came to."""

import argparse
import statistics
from typing import Any

from measured import table
from ttame_arms import ARMS, CONTROLS
from ttame_tasks import ACCURATE

COLUMNS = {  # of a figure: its heading, and whether higher is better (None: neither)
    "mask_mean": ("mask mean", None),
    "average_drop_100": ("AD 100", False),
    "average_drop_50": ("AD 50", False),
    "average_drop_15": ("AD 15", False),
    "increase_100": ("IC 100", True),
    "increase_50": ("IC 50", True),
    "increase_15": ("IC 15", True),
    "deletion_black": ("deletion, black", False),
    "deletion_mean": ("mean", False),
    "deletion_blur": ("blur", False),
    "insertion_black": ("insertion, black", True),
    "insertion_mean": ("mean", True),
    "insertion_blur": ("blur", True),
    "road": ("ROAD", True),
}
PLACES = {
    "pointing": ("pointing", True),
    "energy": ("energy inside", True),
    "peak_iou": ("peak IoU", True),
    "peak_threshold": ("at", None),
    "iou": ("IoU, threshold of others", True),
    "iou_area": ("IoU area", True),
    "max_box_accuracy": ("MaxBoxAccV2", True),
    "pixel_precision": ("PxAP", True),
    "discrimination": ("told apart", True),
    "randomised_top": ("last quarter random", None),
    "randomised_all": ("all random", None),
    "forward": ("forward", None),
    "backward": ("backward", None),
    "seconds": ("seconds", None),
}
FIGURES = COLUMNS | PLACES
Rows = dict[str, list[dict[str, float]]]
Found = dict[tuple[str, str], dict[str, Any]]


def quality_table(found: Found, options: argparse.Namespace) -> str:
    """Two tables for each task and network, then the claims."""
    parts = [
        f"{options.test_images} test images of each task; T-TAME trained for {options.steps} steps of 32 images at a "
        f"rate of {options.learning_rate:g}, masked with {options.fill}; seeds {', '.join(map(str, options.seeds))}. "
        "Of methods that draw, mean and standard deviation over the seeds; in brackets 95 % intervals from resampled "
        "images (seed 0). AD and IC in percent, of the most likely class; both reward bright maps (mask mean). "
        "Thresholds of the held-out IoU are chosen on other images. The last columns are the rank correlation with the "
        "map itself when layers of the classifier are random (low is right), and the cost of an image."
    ]
    for (task, network), result in found.items():
        unsure = "" if result["accuracy"] >= ACCURATE else f", below {ACCURATE:.0%}: its maps say little"
        parts.append(f"## {task.split('/')[-1]}, {network} ({result['accuracy']:.1%} accurate{unsure})")
        parts += [half(result["rows"], columns) for columns in (COLUMNS, PLACES)]
    lines = [line for key, result in found.items() for line in claims(*key, result["rows"])]
    return "\n\n".join([*parts, "## Claims", "\n".join(f"- {line}" for line in lines)])


def half(rows: Rows, columns: dict[str, tuple[str, bool | None]]) -> str:
    """The methods, and some of their figures."""
    shown = [name for name in columns if any(name in figures for seeds in rows.values() for figures in seeds)]
    body = [[method, *(cell(seeds, name) for name in shown)] for method, seeds in rows.items()]
    return table(["method", *(columns[name][0] for name in shown)], body)


def cell(seeds: list[dict[str, float]], name: str) -> str:
    """Mean, spread over the seeds, and the interval of the first."""
    values = [figures[name] for figures in seeds if name in figures]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    low, high = (seeds[0].get(f"{name}.{side}") for side in ("low", "high"))
    bounds = f" [{low:.3g}, {high:.3g}]" if low is not None else ""
    return f"{statistics.mean(values):.3g}{spread}{bounds}"


# ---- claims ----------------------------------------------------------------------------------------------------------


def claims(task: str, network: str, rows: Rows) -> list[str]:
    """Those whose rows are there."""
    if "T-TAME" not in rows:
        return []
    where = f"{task.split('/')[-1]}, {network}"
    cams = [name for name in rows if ARMS[name].gradient_cam]
    lines = [better(rows, cam, name) for cam in cams for name in ("average_drop_15", "increase_15")]
    rises = [name for name in rows if ARMS[name].method == "rise"]
    lines += [near_rise(rows, name) for name in rises if "peak_iou" in rows["T-TAME"][0]]
    compared = [name for name, (_, higher) in FIGURES.items() if higher is not None and name in rows["T-TAME"][0]]
    lines += [better(rows, "centre", name) for name in compared] if "centre" in rows else []
    return [f"{where}: {line}" for line in lines]


def better(rows: Rows, rival: str, name: str) -> str:
    """Is T-TAME's mean over the seeds better by more than the two half intervals, worse by as much, or neither?"""
    ours, theirs = (statistics.mean(figures[name] for figures in rows[method]) for method in ("T-TAME", rival))
    gain = (ours - theirs) * (1 if FIGURES[name][1] else -1)
    unsure = sum(half_width(rows[method][0], name) for method in ("T-TAME", rival))
    verdict = "holds" if gain > unsure else "FAILS" if gain < -unsure or gain <= 0 else "undecided"
    what = "the control" if rival in CONTROLS else "the gradient method"
    return f"{verdict}: T-TAME beats {what} {rival} on {heading(name)}, {ours:.3g} against {theirs:.3g}"


def heading(name: str) -> str:
    """A figure's own name, for a sentence."""
    return name.replace("average_drop", "AD").replace("increase", "IC").replace("_", " ")


def half_width(figures: dict[str, float], name: str) -> float:
    """Half of a figure's interval; 0 where it has none."""
    return (figures.get(f"{name}.high", 0.0) - figures.get(f"{name}.low", 0.0)) / 2


def near_rise(rows: Rows, rise: str) -> str:
    """Within 0.05 of RISE's peak IoU, for a thousandth of its passes."""
    means = {
        (method, name): statistics.mean(figures[name] for figures in rows[method])
        for method in ("T-TAME", rise)
        for name in ("peak_iou", "forward")
    }
    ours, theirs = means["T-TAME", "peak_iou"], means[rise, "peak_iou"]
    passes = means[rise, "forward"] / means["T-TAME", "forward"]
    verdict = "holds" if ours >= theirs - 0.05 and passes >= 1000 else "FAILS"
    return f"{verdict}: peak IoU {ours:.3g} against {theirs:.3g} of {rise}, for 1/{passes:.0f} of its passes"
