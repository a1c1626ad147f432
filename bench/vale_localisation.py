"""VALE's regions against true masks, its captions against the truth, and its regions on photographs and sonar images.

    python bench/vale_localisation.py scenes --folder runs/vale --output docs/results/vale_scenes.md
    python bench/vale_localisation.py captions --captioner zoo:small-captioner --output docs/results/vale_captions.md
    python bench/vale_localisation.py pictures --classifier efficientnet-lite0 --output docs/results/vale_photographs.md
    python bench/vale_localisation.py pictures --classifier runs/sonar --data sonar-test.parquet --num-images 20 \\
        --picture docs/images/vale_sonar.png --output docs/results/vale_sonar.md

scenes: four classes of items on photographs of ground, each classifier trained on scenes of its seed; prompts from
Shapley values, from the true mask (a bound for the segmenter) and from nowhere, with several segmenters. captions: what
the captioner states of scenes. pictures: the chosen region against regions of its shape elsewhere, kept and removed,
and deletion and insertion of the map; all images are in the picture, also those where it fails. Each figure is kept
beside the table as it comes (vale_PART.jsonl), and only what is missing is measured: call again to go on.
"""

import argparse
import os
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
import torch
from kept import Kept
from measured import table, write_result
from vale_arms import ARMS, cases, factuality, localisation, scenes_task, trained
from vale_pictures import measure_pictures

from explain.captioner import Captioner, captioner_folder
from workbench.allocator import keep_freed_memory

Rows = list[dict[str, Any]]
READING = """All hidden: the probability with the whole picture in its mean colour, which hides pixels in all columns.
Half of it in: the share of the picture that holds the strongest half of what speaks for the class. Best E: of the masks
offered, share of that evidence minus share of the picture; below 0.1 none is drawn, nor where it does no more than
regions elsewhere."""
WORDS = ("image", "label", "drawn by")  # of a picture; all else are figures


def main() -> None:
    """Measure what is missing; print, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--folder", type=Path, default=Path("runs/vale"), help="for classifiers and Shapley values")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="for the figures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--num-train", type=int, default=4000)
    parser.add_argument("--num-images", type=int, default=200, help="to measure on")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument("--small-sam", default="zoo:small-sam", help="the zoo's, or the folder of another")
    parser.add_argument("--captioner", default="zoo:small-captioner", help="the zoo's, or the folder of another")
    parser.add_argument("--classifier", default="efficientnet-lite0")
    parser.add_argument("--data", default="demo-photographs")
    parser.add_argument("--segmenter", default="auto")
    parser.add_argument("--picture", type=Path, default=Path("docs/images/vale_photographs.png"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    body = PARTS[options.part](options, Kept(options.results / f"vale_{options.part}.jsonl"))
    write_result(f"VALE: {options.part}", __doc__ or "", body, options.output)


def scenes_part(options: argparse.Namespace, kept: Kept) -> str:
    """IoU with the true masks, arm by arm and seed by seed."""
    rows: dict[str, Rows] = {arm: [] for arm in options.arms}
    for seed in options.seeds:
        common = {name: getattr(options, name) for name in ("num_train", "num_images", "size", "budget")}
        settings = {arm: _arm_settings(arm, seed, common, options) for arm in options.arms}
        missing = [arm for arm in options.arms if kept.find(settings[arm]) is None]
        if missing:
            task = scenes_task(seed, options.num_train, options.num_images, options.size)
            folder = options.folder / f"seed-{seed}"
            classifier, accuracy = trained(task, folder, options.device)
            for arm in missing:
                found = cases(classifier, task, folder, options.budget, seed, ARMS[arm].fill)
                figures = localisation(arm, classifier, found, options.small_sam, seed)
                kept.add(settings[arm], {"accuracy": accuracy, **figures})
        for arm in options.arms:
            rows[arm].append(kept.find(settings[arm]) or {})
    heads = (
        "accuracy",
        "iou",
        "chosen",
        "point_inside",
        "right_place",
        "keep",
        "control_keep",
        "remove",
        "control_remove",
    )
    lines = [[arm, *(_spread([row[name] for row in found]) for name in heads)] for arm, found in rows.items()]
    seeds = f"Means over {len(options.seeds)} seeds, with their standard deviation."
    return f"{seeds}\n\n{table(['arm', *heads], lines)}"


def _arm_settings(arm: str, seed: int, common: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    sam = {"small_sam": options.small_sam} if "small SAM" in arm else {}
    return {"arm": arm, "seed": seed, **common, "fill": ARMS[arm].fill, **sam}


def captions_part(options: argparse.Namespace, kept: Kept) -> str:
    """What the captioner states of scenes that it has not seen, for each seed of them."""
    folder = captioner_folder(options.captioner)
    lines = []
    for seed in options.seeds:
        settings = {"captioner": options.captioner, "seed": seed, "num_images": options.num_images}
        figures = kept.find(settings)
        if figures is None:
            captioner = Captioner.load(folder or options.captioner, options.device)
            kept.add(settings, figures := factuality(captioner, seed, options.num_images))
        lines.append([str(seed), *(f"{value:.3g}" for value in figures.values())])
    return table(["seed", *figures], lines)


def pictures_part(options: argparse.Namespace, kept: Kept) -> str:
    """The region of each image against regions of its shape elsewhere; a picture of all."""
    rows = measure_pictures(options, kept)
    heads = [name for name in rows[0] if name not in WORDS]
    lines = [[*(row[name] for name in WORDS), *(f"{row[name]:.3f}" for name in heads)] for row in rows]
    means = ["mean", "", "", *(f"{fmean(row[name] for row in rows if row[name] == row[name]):.3f}" for name in heads)]
    beside = os.path.relpath(options.picture, Path(options.output or options.results / "table.md").parent)
    found = table(["image", "class", "drawn by", *heads], [*lines, means])
    return f"{READING}\n\n{found}\n\n![All of them]({beside})"


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


PARTS = {"scenes": scenes_part, "captions": captions_part, "pictures": pictures_part}


if __name__ == "__main__":
    main()
