"""Speed of Shapley values, prompts and masks against shap and segment-anything used as their documentation shows.

    python bench/vale_speed.py --output docs/results/vale_speed.md
    python bench/vale_speed.py --classifier runs/classifier --size 64 --budget 200

The arms take turns on the same photographs, one at a time, as a folder is gone through. The plain arm is
shap.Explainer with the masker blur(k,k), max_evals, batch_size and outputs=[class], and SamPredictor with set_image and
predict; ours is `explain.shapley`, `explain.prompts` and `explain.sam_checkpoint`. Both have the same classifier, the
same network of segment-anything's classes (of random weights: the time does not depend on them) and the same prompts.
Figures are kept beside the table as they come (RESULTS.jsonl), and only what is missing is measured: call again to go
on.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
import numpy as np
import torch
from kept import Kept
from measured import table, write_result
from segment_anything import SamPredictor, sam_model_registry
from torch import Tensor

from explain.hiding import blur_kernel
from explain.passes import counted
from explain.prompts import Prompts, prompts_of
from explain.sam_checkpoint import SamSegmenter
from explain.sam_network import SamShape, build_sam
from explain.shapley import attribute
from workbench.allocator import keep_freed_memory
from workbench.classifiers import load_classifier
from workbench.datasets import load_images
from workbench.pixel_classifier import PixelClassifier

PLAIN, OURS, EARLY = "shap + segment-anything", "ours", "ours, with early stop"
CENTRE = Prompts(((0.0, 0.0),), (1,), None, (0.0,))  # where nothing speaks for the class: any point takes as long
Found = tuple[Tensor, Tensor]  # values (h, w) and masks (3, h, w)
Arm = Callable[[Tensor, int], Found]


def main() -> None:
    """Measure what is missing; print, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", default="efficientnet-lite0")
    parser.add_argument("--data", default="demo-photographs")
    parser.add_argument("--split", default="test")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--num-images", type=int, default=6)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--sam", default="small", choices=["small", *sam_model_registry])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=Path("docs/results/vale_speed.jsonl"))
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    rows = measure(options, Kept(options.results))
    write_result("Speed of VALE's visual half", __doc__ or "", report(rows, options), options.output)


# ---- the arms --------------------------------------------------------------------------------------------------------


def plain_arm(classifier: PixelClassifier, sam: Any, options: argparse.Namespace) -> Arm:
    """As the two libraries' pages put it; the explainer is built once, when the first image comes."""
    import shap

    predictor, made = SamPredictor(sam), {}

    def function(pixels: np.ndarray) -> np.ndarray:
        shown = torch.as_tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2).to(options.device)
        with torch.no_grad():
            return classifier.probabilities(classifier(shown)).cpu().numpy()

    def run(image: Tensor, target: int) -> Found:
        pixels = (image.float() / 255).permute(1, 2, 0).cpu().numpy()
        if not made:
            side = blur_kernel(image)
            made["explainer"] = shap.Explainer(function, shap.maskers.Image(f"blur({side},{side})", pixels.shape))
        np.random.seed(0)  # noqa: NPY002
        explained = made["explainer"](
            pixels[None], max_evals=options.budget, batch_size=options.batch_size, outputs=[target], silent=True
        )
        values = torch.from_numpy(explained.values[0, ..., 0].sum(-1))
        prompts = prompts_of(values, "points") or CENTRE
        predictor.set_image(image.permute(1, 2, 0).cpu().numpy())
        signs = (np.array(prompts.signs) > 0).astype(int)
        masks, _, _ = predictor.predict(np.array(prompts.points), signs, multimask_output=True)
        return values, torch.from_numpy(masks)

    return run


def our_arm(classifier: PixelClassifier, sam: Any, options: argparse.Namespace, early_stop: bool) -> Arm:
    """The same through our own functions."""
    segmenter = SamSegmenter(sam, "random weights, for the time alone", options.device)

    def run(image: Tensor, target: int) -> Found:
        found = attribute(
            classifier, image.to(options.device).float() / 255, target, budget=options.budget,
            batch_size=options.batch_size, early_stop=early_stop,
        )  # fmt: skip
        prompts = prompts_of(found.values, "points") or CENTRE
        return found.values, segmenter.masks(segmenter.embed(image), prompts)[0]

    return run


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, kept: Kept) -> list[dict[str, float]]:
    """Figures of each image: seconds and passes of each arm, and how far the values are apart."""
    names = ("classifier", "data", "split", "size", "budget", "batch_size", "sam", "device")
    settings = {**{name: getattr(options, name) for name in names}, "threads": torch.get_num_threads()}
    keys = [{**settings, "image": number} for number in range(options.num_images)]
    missing = [number for number, key in enumerate(keys) if kept.find(key) is None]
    if missing:
        classifier = load_classifier(options.classifier, options.device)
        images = load_images(options.data, options.split, options.size, channels=3).images
        arms = build_arms(classifier, options)
        for number in [-1, *missing]:  # the first image of a process is measured by itself
            figures = turn(arms, classifier, images[number % len(images)])
            kept.add({**settings, "first": True} if number < 0 else keys[number], figures)
    firsts = kept.find_all({**settings, "first": True})
    return [*firsts[:1], *(figures for key in keys for figures in kept.find_all(key)[:1])]


def build_arms(classifier: PixelClassifier, options: argparse.Namespace) -> dict[str, Arm]:
    """All arms, with one network to cut out."""
    torch.manual_seed(0)
    sam = build_sam(SamShape()) if options.sam == "small" else sam_model_registry[options.sam]()
    sam = sam.to(options.device).eval()
    return {
        PLAIN: plain_arm(classifier, sam, options),
        OURS: our_arm(classifier, sam, options, early_stop=False),
        EARLY: our_arm(classifier, sam, options, early_stop=True),
    }


def turn(arms: dict[str, Arm], classifier: PixelClassifier, image: Tensor) -> dict[str, float]:
    """Every arm once on an image, for the class that the classifier sees."""
    with torch.no_grad():
        target = int(classifier(image[None].to(classifier.mean) / 255).argmax())
    figures, found = {}, {}
    for name, arm in arms.items():
        began = time.perf_counter()
        with counted(classifier) as cost:
            found[name] = arm(image, target)
        figures |= {f"{name}: seconds": time.perf_counter() - began, f"{name}: passes": cost.forward_passes}
    plain, ours, early = (found[name][0].double().flatten() for name in arms)
    return figures | {
        "difference": float((plain - ours).abs().max()),
        "largest value": float(plain.abs().max()),
        "early correlation": float(torch.corrcoef(torch.stack([plain, early]))[0, 1]),
        "same mask pixels": float((found[PLAIN][1] == found[OURS][1]).float().mean()),
    }


# ---- the table -------------------------------------------------------------------------------------------------------


def report(rows: list[dict[str, float]], options: argparse.Namespace) -> str:
    """Seconds of the first image of a process and of a further one, and what a folder takes."""
    first, further = rows[0], rows[1:]
    lines = []
    for name in (PLAIN, OURS, EARLY):
        seconds = [row[f"{name}: seconds"] for row in further]
        ratio = statistics.median(row[f"{PLAIN}: seconds"] / row[f"{name}: seconds"] for row in further)
        folder = [first[f"{name}: seconds"] + count * statistics.mean(seconds) for count in (9, 99)]
        passes = statistics.mean(row[f"{name}: passes"] for row in further)
        lines.append(
            [name, f"{first[f'{name}: seconds']:.2f}", f"{statistics.median(seconds):.2f}", f"{ratio:.2f}",
             f"{passes:.0f}", *(f"{value:.0f}" for value in folder)]
        )  # fmt: skip
    heads = ["", "s, first image", "s, each further", "plain takes so many times as long", "passes an image",
             "s, folder of 10", "s, folder of 100"]  # fmt: skip
    apart = max(row["difference"] for row in further)
    largest = min(row["largest value"] for row in further)
    same = statistics.mean(row["same mask pixels"] for row in further)
    early = statistics.mean(row["early correlation"] for row in further)
    return (
        f"{options.classifier} at {options.size} px, {len(further)} images of {options.data}, budget {options.budget}, "
        f"batches of {options.batch_size}, {options.sam} SAM, {options.device}, {torch.get_num_threads()} threads.\n\n"
        f"{table(heads, lines)}\n\n"
        f"Values of a pixel differ by at most {apart:.1e} (the largest value of an image is at least {largest:.1e}); "
        f"{same:.2%} of the masks' pixels are the same. With early stop, values correlate {early:.3f} with the plain "
        "ones. The folders are the first image and so many further ones; the plain arm's first image includes what "
        "numba compiles."
    )


if __name__ == "__main__":
    main()
