"""The tables of the resolution benchmark, and what its pre-registered claims came to."""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from measured import table
from resolution_methods import EXTRA, METHODS, UPSCALED, Size, Task

Found = list[dict[str, Any]]
NAMES = {method.key: method.name for method in (*METHODS, UPSCALED, *EXTRA)}
RIVALS = tuple(method.key for method in METHODS if method.key[0] in "abcdefgh")
HIGHER = {"one_object", "label_accuracy", "precision", "recall", "class_agreement"}  # the others: lower is better


def resolution_table(task: Task, found: Found, options: argparse.Namespace) -> str:
    """One table for each size, then the claims."""
    parts = [
        f"Preset {options.preset}, trained at {task.resolution} px with patches of {task.patch_size} for "
        f"{options.steps:,} steps of {options.batch_size} images; {options.images} images a cell from "
        f"{options.inference_steps} Euler steps, guidance {options.guidance_scale:g}; seeds "
        f"{', '.join(map(str, options.seeds))}. Mean and standard deviation over the seeds. lambda: attention scale by "
        "entropy; shift: timestep shift; both as RPE-2D's pipeline has them, given to every method."
    ]
    for size in task.sizes:
        here = [one for one in found if one["size"] == size]
        if here:
            native = " (the training size)" if size == (task.resolution, task.resolution) else ""
            parts += [f"## {size[0]}x{size[1]}{native}", size_table(task, here, size, options)]
    return "\n\n".join([*parts, *claims(task, found)])


def size_table(task: Task, here: Found, size: Size, options: argparse.Namespace) -> str:
    """A row for each method and trick, and for real images."""
    measures = [name for name in here[0] if name not in ("method", "seed", "size", "tricks")]
    rows = []
    for key, tricks in dict.fromkeys((one["method"], one["tricks"]) for one in here):
        cells = [cell(values(here, key, tricks, name)) for name in measures]
        rows.append([f"{key} {NAMES[key]}", tricks, *cells])
    floor = floor_of(task, size, options)
    rows.append(["real images", "-", *(f"{floor[name]:.3g}" for name in measures)])
    return table(["method", "tricks", *(name.replace("_", " ") for name in measures)], rows)


def floor_of(task: Task, size: Size, options: argparse.Namespace) -> dict[str, float]:
    """The measures of as many real images, against others."""
    if task.name == "fashion":
        from fashion_measures import fashion_floor

        return fashion_floor(size, options.images)
    from shape_measures import noise_floor
    from shape_network import shape_network

    return noise_floor(size, options.images, shape_network(options.folder / "networks"))


def values(found: Found, method: str, tricks: str | None, measure: str, size: Size | None = None) -> list[float]:
    """A measure of a method, one for each seed; of the tricks named, or of either."""
    return [
        one[measure]
        for one in found
        if one["method"] == method and tricks in (None, one["tricks"]) and size in (None, one["size"])
    ]


def cell(numbers: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {spread(numbers):.2g}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.3g}{deviation}"


def claims(task: Task, found: Found) -> list[str]:
    """Whether the claims that were fixed beforehand hold; those whose cells are missing are left out."""
    if task.name != "shapes":
        return []
    lines = []
    for size in ((48, 48), (64, 64)):
        for measure in ("one_object", "global_kernel"):
            lines += beats_the_rivals(found, size, measure)
        lines += beats_upscaling(found, size)
    lines += keeps_the_native_quality(found, (task.resolution, task.resolution))
    return ["## Claims, as fixed before the first run", "\n".join(f"- {line}" for line in lines)] if lines else []


def beats_the_rivals(found: Found, size: Size, measure: str) -> list[str]:
    """RPE-2D with lambda and shift beats the best of a to h, with any tricks, by more than twice the seeds' spread."""
    ours = values(found, "i2", "lambda + shift", measure, size)
    names = {(one["method"], one["tricks"]) for one in found if one["method"] in RIVALS and one["size"] == size}
    cells = {name: values(found, *name, measure, size) for name in sorted(names)}
    if not ours or not cells:
        return []
    sign = 1 if measure in HIGHER else -1
    best = max(cells, key=lambda name: sign * statistics.mean(cells[name]))
    margin = sign * (statistics.mean(ours) - statistics.mean(cells[best]))
    verdict = "holds" if margin > 2 * max(map(spread, (ours, cells[best]))) else "FAILS"
    return [
        f"{verdict}: at {size[0]} px RPE-2D (lambda + shift) has {measure.replace('_', ' ')} {cell(ours)}, "
        f"the best rival ({NAMES[best[0]]}, {best[1]}) {cell(cells[best])}"
    ]


def beats_upscaling(found: Found, size: Size) -> list[str]:
    """RPE-2D is sharper than bicubic upscaling from the training size: patch distance or edge width."""
    ours, theirs = (
        {name: values(found, key, tricks, name, size) for name in ("patch_kernel", "edge_width")}
        for key, tricks in (("i2", "lambda + shift"), ("k", "none"))
    )
    if not ours["edge_width"] or not theirs["edge_width"]:
        return []
    better = any(statistics.mean(ours[name]) < statistics.mean(theirs[name]) for name in ours)
    told = "; ".join(f"{name.replace('_', ' ')} {cell(ours[name])} against {cell(theirs[name])}" for name in ours)
    return [f"{'holds' if better else 'FAILS'}: at {size[0]} px RPE-2D is sharper than bicubic upscaling: {told}"]


def keeps_the_native_quality(found: Found, size: Size) -> list[str]:
    """Within 10 % of fixed RoPE at the training size, or within twice the seeds' spread."""
    lines = []
    for measure in ("one_object", "global_kernel"):
        ours, fixed = (values(found, key, "none", measure, size) for key in ("i2", "a"))
        if ours and fixed:
            loss = (1 if measure in HIGHER else -1) * (statistics.mean(fixed) - statistics.mean(ours))
            allowed = max(0.1 * abs(statistics.mean(fixed)), 2 * max(map(spread, (ours, fixed))))
            lines.append(
                f"{'holds' if loss <= allowed else 'FAILS'}: at the training size RPE-2D is within 10 % of fixed RoPE, "
                f"or twice the seeds' spread: {measure.replace('_', ' ')} {cell(ours)} against {cell(fixed)}"
            )
    return lines


def spread(numbers: Sequence[float]) -> float:
    """Standard deviation over the seeds; 0 for one."""
    return statistics.stdev(numbers) if len(numbers) > 1 else 0.0
