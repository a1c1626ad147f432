"""Speed of T-TAME against Grad-CAM, RISE, occlusion and SHAP, and of what makes it and its measures fast, in one run.

    python bench/explain_speed.py --output docs/results/explain_speed.md
    python bench/explain_speed.py --batch-size 32 --output docs/results/explain_speed_gpu.md

Methods take turns on the same images, so that a busy machine slows all alike; the slow ones get one image. Ratios are
medians over turns. The networks have the shapes of EfficientNet-Lite0 and ResNet-50 at 224 px and a ViT-Ti/16, with
random weights: the work does not depend on them. Figures are kept beside the table as they come (RESULTS.jsonl), and
only what is missing is measured: call again to go on.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
import torch
from explain_speed_parts import (
    IDENTITIES,
    IMAGES,
    MEASURES,
    STEPS,
    difference,
    identity_calls,
    measure_calls,
    weights_of,
)
from kept import Kept
from measured import table, write_result

from explain.saliency import METHODS, explain
from explain.ttame import TTame
from workbench.allocator import keep_freed_memory
from workbench.pixel_classifier import PixelClassifier

NETWORKS = ("efficientnet_lite0", "resnet50", "vit_tiny_patch16_224")
SHAP = "shap" if "shap" in METHODS else "gradientshap"
SLOW: dict[str, dict[str, Any]] = {
    "RISE, 1000 masks": {"method": "rise", "num_masks": 1000},
    "occlusion": {"method": "occlusion"},
    f"SHAP ({SHAP})": {"method": SHAP},
}
Calls = Mapping[str, Callable[[], object]]


def main() -> None:
    """Measure what is missing; print, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="names that timm knows")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--slow-turns", type=int, default=1, help="turns of the methods of many passes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=Path("docs/results/explain_speed.jsonl"))
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    kept = Kept(options.results)
    parts = [*(network_part(name, options, kept) for name in options.networks), identity_part(options, kept)]
    parts.append(measures_part(options, kept))
    write_result("Speed of explanations", __doc__ or "", "\n\n".join(parts), options.output)


def turns(calls: Calls, count: int, device: str, settings: dict[str, Any], kept: Kept) -> list[dict[str, float]]:
    """Seconds of each call in each turn; a turn is kept when all of it is there."""
    found = []
    for turn in range(count):
        key = {**settings, "calls": list(calls), "device": device, "threads": torch.get_num_threads(), "turn": turn}
        figures = kept.find(key)
        if figures is None:
            if turn == 0:
                for call in calls.values():  # warm up
                    call()
            figures = {name: seconds_of(call, device) for name, call in calls.items()}
            kept.add(key, figures)
        found.append(figures)
    return found


def seconds_of(call: Callable[[], object], device: str) -> float:
    """Wall time of a call, with what it leaves a GPU to do."""
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def ratio(times: list[dict[str, float]], name: str, base: str, scale: float = 1.0) -> float:
    """Median over the turns of one call's time against another's."""
    return scale * statistics.median(turn[name] / turn[base] for turn in times)


def milliseconds(times: list[dict[str, float]], name: str) -> float:
    """Median over the turns."""
    return 1000 * statistics.median(turn[name] for turn in times)


# ---- methods ---------------------------------------------------------------------------------------------------------


def network_part(name: str, options: argparse.Namespace, kept: Kept) -> str:
    """A table of all methods on one network."""
    classifier, ttame = build(name, options.device)
    images = torch.rand(options.batch_size, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(options.device)
    settings = {"part": "methods", "network": name, "batch_size": options.batch_size}
    fast = turns(fast_calls(classifier, ttame, images), options.turns, options.device, settings, kept)
    slow_settings = {**settings, "methods": SLOW}
    slow = turns(slow_calls(classifier, ttame, images[:1]), options.slow_turns, options.device, slow_settings, kept)
    rows = [method_row(key, fast, "bare classifier", options.batch_size, 1.0) for key in fast[0]]
    rows += [method_row(key, slow, "T-TAME, one image", 1, ratio_to_bare(fast)) for key in slow[0]]
    heads = ["method", "ms an image", "time / bare classifier", "T-TAME is faster by"]
    layers = ", ".join(map(str, ttame.layers))
    return (
        f"## {name}\n\n224 px, batches of {options.batch_size} (one image for the methods of many passes), "
        f"{options.device}, {torch.get_num_threads()} threads. T-TAME reads {layers}.\n\n{table(heads, rows)}"
    )


def method_row(name: str, times: list[dict[str, float]], base: str, batch_size: int, factor: float) -> list[str]:
    """What is told of a method; `factor` is the time of the base against the bare classifier."""
    ttame = "T-TAME, one class" if "T-TAME, one class" in times[0] else "T-TAME, one image"
    each = milliseconds(times, name) / batch_size
    return [name, f"{each:.1f}", f"{ratio(times, name, base, factor):.2f}", f"{ratio(times, name, ttame):.1f}"]


def ratio_to_bare(fast: list[dict[str, float]]) -> float:
    """T-TAME's time against the bare classifier's."""
    return ratio(fast, "T-TAME, one class", "bare classifier")


def build(name: str, device: str) -> tuple[PixelClassifier, TTame]:
    """A classifier of random weights, and a T-TAME that passes for trained: only its speed is looked at."""
    import timm

    torch.manual_seed(0)
    classifier = PixelClassifier.wrap(timm.create_model(name)).to(device)
    ttame = TTame.build(classifier)
    for branch in ttame.module.branches:
        branch.norm.num_batches_tracked += 1
    return classifier, ttame


def fast_calls(classifier: PixelClassifier, ttame: TTame, images: torch.Tensor) -> Calls:
    """Methods of one or two passes."""

    def bare() -> None:
        with torch.no_grad():
            classifier(images)

    targets = torch.zeros(len(images), 1, dtype=torch.int64, device=images.device)
    return {
        "bare classifier": bare,
        "T-TAME, one class": lambda: ttame.explain(images),
        "T-TAME, five classes": lambda: ttame.explain(images, "top5"),
        "Grad-CAM": lambda: explain("gradcam", classifier, images, targets),
    }


def slow_calls(classifier: PixelClassifier, ttame: TTame, image: torch.Tensor) -> Calls:
    """Methods of many passes, beside T-TAME on the same image."""
    target = torch.zeros(1, 1, dtype=torch.int64, device=image.device)

    def call(options: dict[str, Any]) -> Callable[[], object]:
        return lambda: explain(classifier=classifier, images=image, targets=target, **options)

    return {"T-TAME, one image": lambda: ttame.explain(image), **{name: call(o) for name, o in SLOW.items()}}


# ---- what makes it fast ----------------------------------------------------------------------------------------------


def identity_part(options: argparse.Namespace, kept: Kept) -> str:
    """The attention module as it is written in the paper against the two identities, for small and large heads."""
    rows = []
    for classes in (1000, 21_841):
        calls = identity_calls(classes, options.device)
        settings = {"part": "identities", "classes": classes}
        times = turns(calls, options.turns, options.device, settings, kept)
        size = [f"{classes:,}", f"{weights_of(classes):,}"]
        rows += [[*size, name, f"{milliseconds(times, name):.1f}", f"{ratio(times, IDENTITIES[0], name):.1f}"]
                 for name in calls]  # fmt: skip
    heads = ["classes", "weights", "form", "ms a batch", "faster than written out by"]
    return "## The two identities\n\nFour images, features of ResNet-50's shapes, no gradient.\n\n" + table(heads, rows)


def measures_part(options: argparse.Namespace, kept: Kept) -> str:
    """Deletion and insertion: batches across maps and steps against one step at a time."""
    rows, differences = [], []
    for name in ("convnet", "efficientnet_lite0"):
        calls = measure_calls(name, options.device)
        differences.append(difference(calls))
        times = turns(calls, options.turns, options.device, {"part": "measures", "network": name}, kept)
        rows += [
            [name, call, f"{milliseconds(times, call):.0f}", f"{ratio(times, MEASURES[0], call):.2f}"] for call in calls
        ]
    heads = ["network", "form", "ms", "faster than a loop by"]
    about = (
        f"{IMAGES} images, {STEPS} steps of each curve. The loop makes one image of one step, shows it to the "
        f"classifier, and goes on. The probabilities differ by {max(differences):.0e} at most."
    )
    return f"## Deletion and insertion\n\n{about}\n\n" + table(heads, rows)


if __name__ == "__main__":
    main()
