"""Quality of T-TAME's maps against other explanations and controls: faithful, on the object, told apart, at what cost.

    python bench/ttame_quality.py --folder runs/explanations --output docs/results/ttame_quality.md
    python bench/ttame_quality.py --tasks fashion-mnist sonar.parquet --networks convnet --folder runs/explanations

Tasks are `shapes` and `planted`, whose objects have exact masks, or the data set of a name or path, which has none. The
classifiers are trained here, until they are right on 95 % of the scenes. Methods that draw, and T-TAME, which is
trained, have a row of each seed. Figures are kept beside the table as they come (RESULTS.jsonl), and only what is
missing is trained and measured: call again to go on.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
import torch
from kept import Kept
from measured import write_result
from ttame_arms import ARMS, measured, trained_module
from ttame_table import quality_table
from ttame_tasks import NETWORKS, Task, load_classifier, load_task

from explain.ttame import TTame
from workbench.allocator import keep_freed_memory
from workbench.pixel_classifier import PixelClassifier


def main() -> None:
    """Measure what is missing; print, and write the table where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for classifiers and trained modules")
    parser.add_argument("--tasks", nargs="+", default=["shapes", "planted"], help="or names and paths of data sets")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train-images", type=int, default=8000)
    parser.add_argument("--test-images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=500, help="of T-TAME's training")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--fill", default="mean", help="what T-TAME's training sees where the mask is 0")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--results", type=Path, default=Path("docs/results/ttame_quality.jsonl"))
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    keep_freed_memory()
    kept = Kept(options.results)
    found = {
        (task, network): results_of(task, network, options, kept)
        for task in options.tasks
        for network in options.networks
    }
    write_result("Quality of explanations", __doc__ or "", quality_table(found, options), options.output)


def results_of(task_name: str, network: str, options: argparse.Namespace, kept: Kept) -> dict[str, Any]:
    """The accuracy of a classifier, and the figures of each method, one for each of its seeds."""
    task = load_task(task_name, options.train_images, options.test_images)
    folder = options.folder / Path(task_name).stem / network
    classifier, accuracy = load_classifier(network, task, folder, options.device)
    rows: dict[str, list[dict[str, float]]] = {}
    for name in options.methods:
        arm = ARMS[name]
        if network in arm.networks and (name != "true mask" or task.test.masks is not None):
            seeds = options.seeds if arm.draws else [0]
            rows[name] = [figures_of(name, seed, task_name, network, task, classifier, options, kept) for seed in seeds]
    return {"accuracy": accuracy, "rows": rows}


def figures_of(
    name: str,
    seed: int,
    task_name: str,
    network: str,
    task: Task,
    classifier: PixelClassifier,
    options: argparse.Namespace,
    kept: Kept,
) -> dict[str, float]:
    """Kept ones, or measured now."""
    settings = {
        "task": Path(task_name).name, "network": network, "method": name, "seed": seed, **dict(ARMS[name].options),
        "train_images": options.train_images, "test_images": options.test_images,
    } | (training(options) if name == "T-TAME" else {})  # fmt: skip
    figures = kept.find(settings)
    if figures is None:
        folder = options.folder / Path(task_name).stem / network
        figures = measured(name, task, classifier, module_of(name, task, classifier, folder, seed, options), seed)
        kept.add(settings, figures)
    return figures


def module_of(
    name: str, task: Task, classifier: PixelClassifier, folder: Path, seed: int, options: argparse.Namespace
) -> TTame | None:
    """T-TAME's trained module; other methods have none."""
    if name != "T-TAME":
        return None
    return trained_module(task, classifier, folder, seed, {**training(options), "device": options.device})


def training(options: argparse.Namespace) -> dict[str, Any]:
    """T-TAME's settings that are not the preset's."""
    return {"max_train_steps": options.steps, "learning_rate": options.learning_rate, "fill": options.fill}


if __name__ == "__main__":
    main()
