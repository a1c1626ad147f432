"""Robust training on images with a planted background: accuracy of the worst group, by method and by synthetic images.

    python bench/robust_methods.py --folder runs/robust --output docs/results/robust_methods.md

Scenes of `workbench.planted`: the background follows the class with probability 0.95 in training and 0.5 in validation
and test. Every method is trained on the real images alone; and on them with synthetic ones, half of each batch:
`swapped` are the same training images on the background of the other class, with their group known, the true
counterfactual, so an upper bound for any edit; `same background` are as many on their own background, the control. The
balanced set, with a correlation of 0.5, is the other bound. Settings are one for all methods, none is tuned, and the
last step is measured. Figures are kept beside the table as they come (RESULTS.jsonl), and only what is missing is
trained and measured: call again to go on.
"""

import argparse
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, stdev

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
import torch
from kept import Kept, Settings
from measured import table, write_result
from torch import Tensor

from augment_synth.groups import GroupedImages, group_table, grouped
from augment_synth.robust import METHODS, train_robust
from augment_synth.robust_config import RobustSettings
from workbench.allocator import keep_freed_memory
from workbench.planted import BACKGROUNDS, SEEN_BACKGROUNDS, planted
from workbench.scenes import Scenes

SIZE = 32
CORRELATION = 0.95
ADDITIONS = ("none", "same background", "swapped")
BALANCED = "erm, balanced set"


@dataclass(frozen=True)
class Data:
    """What one seed trains and measures on."""

    train: GroupedImages
    validation: GroupedImages
    test: GroupedImages


def main() -> None:
    """Measure what is missing; print, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the runs")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--additions", nargs="+", default=list(ADDITIONS), choices=ADDITIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train-images", type=int, default=2000)
    parser.add_argument("--synthetic-images", type=int, default=1000)
    parser.add_argument("--validation-images", type=int, default=400)
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--width", type=int, default=32, help="channels of the convnet")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=Path("docs/results/robust_methods.jsonl"))
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    kept = Kept(options.results)
    arms = [(method, addition) for method in options.methods for addition in options.additions]
    arms.append((BALANCED, "none"))
    found = {arm: [figures_of(*arm, seed, options, kept) for seed in options.seeds] for arm in arms}
    write_result("Robust training", __doc__ or "", body(found), options.output)


def figures_of(method: str, addition: str, seed: int, options: argparse.Namespace, kept: Kept) -> dict[str, float]:
    """Kept ones, or measured now."""
    settings: Settings = {
        "method": method, "addition": addition, "seed": seed, "steps": options.steps, "width": options.width,
        "train_images": options.train_images, "synthetic_images": options.synthetic_images,
        "validation_images": options.validation_images, "test_images": options.test_images,
    }  # fmt: skip
    figures = kept.find(settings)
    if figures is None:
        figures = measured(method, addition, seed, options)
        kept.add(settings, figures)
    return figures


def measured(method: str, addition: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Accuracy of the worst group and of all, on test images."""
    correlation = 0.5 if method == BALANCED else CORRELATION
    sizes = (options.train_images, options.synthetic_images, options.validation_images, options.test_images)
    data = load(addition, seed, correlation, *sizes)
    settings = RobustSettings(
        max_train_steps=options.steps, jtt_identification_steps=options.steps // 4, width=options.width, seed=seed,
        lr_warmup_steps=20, random_flip=True, random_shift=2, device=options.device, overwrite=True,
    )  # fmt: skip
    folder = options.folder / method.replace(", ", "-").replace(" ", "-") / addition.replace(" ", "-") / str(seed)
    classifier = train_robust(method.split(",")[0], data.train, data.validation, settings, folder)
    counts = data.train.select(~data.train.synthetic).group_counts()
    found = group_table(classifier, data.test, train_counts=counts)
    return {"worst": found.worst, "average": found.average, "weighted": found.weighted or 0.0}


@cache
def load(addition: str, seed: int, correlation: float, real: int, synthetic: int, validation: int, test: int) -> Data:
    """Scenes; other seeds are other scenes."""
    scenes = planted(range(real), SIZE, seed=seed, split="train", correlation=correlation)
    parts = [as_grouped(scenes)]
    if addition != "none":
        parts.append(edited(scenes, synthetic, seed, correlation, swap=addition == "swapped"))
    held_out = [
        as_grouped(planted(range(count), SIZE, seed=seed, split=split))
        for count, split in ((validation, "validation"), (test, "test"))
    ]
    return Data(joined(parts), *held_out)


def edited(scenes: Scenes, count: int, seed: int, correlation: float, *, swap: bool) -> GroupedImages:
    """The first scenes once more, on the class's other background; without `swap` as they are."""
    own = scenes.backgrounds[:count]
    if not swap:
        return as_grouped(scenes, own, synthetic=True)
    target = (own + 1) % SEEN_BACKGROUNDS
    images = scenes.images[:count].clone()
    for number, name in enumerate(list(BACKGROUNDS)[:SEEN_BACKGROUNDS]):
        chosen = (target == number).nonzero().flatten()
        same = planted(chosen, SIZE, seed=seed, split="train", correlation=correlation, background=name)
        images[chosen] = same.images
    return grouped(images, scenes.labels[:count], scenes.label_names, target, names(), torch.ones(count).bool())


def as_grouped(scenes: Scenes, backgrounds: Tensor | None = None, *, synthetic: bool = False) -> GroupedImages:
    """The first scenes, as many as there are backgrounds, in groups of class and background."""
    backgrounds = scenes.backgrounds if backgrounds is None else backgrounds
    count = len(backgrounds)
    made = torch.full((count,), synthetic)
    return grouped(scenes.images[:count], scenes.labels[:count], scenes.label_names, backgrounds, names(), made)


def names() -> tuple[str, ...]:
    """Of the backgrounds that are seen."""
    return tuple(BACKGROUNDS)[:SEEN_BACKGROUNDS]


def joined(parts: list[GroupedImages]) -> GroupedImages:
    """All images in one set."""
    images, labels, synthetic = (
        torch.cat([getattr(part, field) for part in parts]) for field in ("images", "labels", "synthetic")
    )
    groups = torch.cat([part.known_groups() for part in parts])
    return GroupedImages(images, labels, parts[0].label_names, groups, parts[0].group_names, synthetic)


def body(found: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    """Percent, mean and standard deviation over seeds."""
    heads = ["method", "synthetic images", "worst group", "average", "weighted as in training", "seeds"]
    rows = [
        [
            *arm,
            *(spread([one[name] for one in figures]) for name in ("worst", "average", "weighted")),
            str(len(figures)),
        ]
        for arm, figures in found.items()
    ]
    return table(heads, rows)


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, in percent."""
    return f"{100 * fmean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
