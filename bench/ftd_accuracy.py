"""Distilled sets against their rivals: test accuracy of fresh networks, and how far students stray from experts.

    python bench/ftd_accuracy.py digits --folder runs/ftd --output docs/results/ftd_digits.md
    python bench/ftd_accuracy.py fashion --folder runs/ftd --images-per-class 1 --seeds 0
    python bench/ftd_accuracy.py cifar10 --folder runs/ftd --data cifar10-train.parquet --seeds 0 --networks 10

digits: scikit-learn's 8x8 digits. fashion: the extract of Fashion-MNIST with a narrow network. fashion-full, cifar10:
the published scale. All arms share the held-out split, the transform, the first images, the network, its evaluation
and the number of images; a seed's experts share their initial weights and batches. What a method leaves open (its
step size, its iteration) is chosen on held-out training images; test images are measured once. Each figure is kept
beside the table as it comes (ftd_TASK.jsonl), with its settings, and only what is missing is made and measured: call
again to go on, or call several at once, with different --seeds and without --output.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
from ftd_arms import ARMS, figures_of
from ftd_table import accuracy_table
from ftd_tasks import TASKS, Task, prepared
from kept import Kept
from measured import write_result


def main() -> None:
    """Make and measure what is missing; then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--folder", type=Path, required=True, help="for experts and distilled sets")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="for the figures")
    parser.add_argument("--data", help="in place of the task's own")
    parser.add_argument("--images-per-class", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--networks", type=int, default=5, help="fresh ones behind every figure")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    task = prepared(TASKS[options.task], options)
    rows = [
        row
        for count in options.images_per_class
        for seed in options.seeds
        for arm in options.arms
        if (row := result_of(task, arm, count, seed, options))
    ]
    if options.output:
        write_result("Distilled sets against their rivals", __doc__ or "", accuracy_table(task, rows), options.output)


def result_of(
    task: Task, arm: str, images_per_class: int, seed: int, options: argparse.Namespace
) -> dict[str, Any] | None:
    """The figures of one arm and seed; None where the arm has no such number of images, or the task no such arm."""
    if not ARMS[arm].fits(task, images_per_class):
        return None
    kept = Kept(options.results / f"ftd_{task.name}.jsonl")
    cell = {"arm": arm, "images_per_class": images_per_class, "seed": seed}
    settings = {**cell, "networks": options.networks, "task": task.settings()}
    found = kept.find(settings)
    if found is None:
        kept.add(settings, found := figures_of(task, arm, images_per_class, seed, options))
    return {**cell, **found}


if __name__ == "__main__":
    main()
