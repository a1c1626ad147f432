"""Does self-supervised pre-training of the encoder pay, and does a one-step model work? EPG's claims on small images.

    python bench/pixel_pretraining.py --folder runs/pixel --output docs/results/pixel_pretraining.md
    python bench/pixel_pretraining.py --data path/to/cifar10-train.parquet --resolution 32 --preset small \\
        --folder runs/pixel-cifar --output docs/results/pixel_pretraining_cifar10.md

All arms share network, data, steps, seeds, labels and noise. "From nothing, longer" has the steps that pre-training and
fine-tuning cost together. Figures come from a small network trained on the real training images, against the test
images; no label is guided. What is finished is kept in --folder: call again to go on, or call several at once with
different --seeds, then once with all of them and --output.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
from kept import Kept
from measured import write_result
from pixel_arms import CONSISTENCY, DIFFUSION, ENCODERS, Task, sample, train_consistency, train_diffusion, train_encoder
from pixel_measures import floor, measure_images
from pixel_table import LONGER, MANY, Found, pixel_tables

from workbench.devices import choose_device
from workbench.metrics_log import read_metrics

FEW = (1, 2, 4)


def main() -> None:
    """Train and measure what is missing; then write the tables."""
    options = parsed()
    task = Task(
        options.data, options.resolution, options.folder, options.pretraining_steps, options.steps,
        options.consistency_steps, settings_of(options),
    )  # fmt: skip
    bench = Bench(task, options)
    found = [row for seed in options.seeds for row in bench.measure_seed(seed)]
    if options.output:
        real = floor(task.data, task.resolution, options.images)
        text = pixel_tables(task, found, real, options)
        write_result("Pre-training for pixels", __doc__ or "", text, options.output)


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--resolution", type=int, default=28)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--patch-size", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretraining-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=4000, help="of a diffusion model")
    parser.add_argument("--consistency-steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--optimizer", default="muon", help="muon needs half of adamw's steps here")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--arms", nargs="+", default=[*DIFFUSION, LONGER, *CONSISTENCY])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", help="markdown file for the tables")
    return parser.parse_args()


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Those of all stages: a constant rate, so that a longer run is a shorter one that went on."""
    return {
        "preset": options.preset, "patch_size": options.patch_size, "train_batch_size": options.batch_size,
        "optimizer": options.optimizer, "learning_rate": options.learning_rate, "adam_weight_decay": 0.01,
        "lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 50, "ema_decay": 0.995, "random_flip": True,
        "device": options.device, "logging_steps": 100,
    }  # fmt: skip


class Bench:
    """One call of the benchmark: trains and measures what `--folder` does not hold yet."""

    def __init__(self, task: Task, options: argparse.Namespace) -> None:
        self.task, self.options = task, options
        self.device = choose_device(options.device).type
        self.kept = Kept(task.folder / "results.jsonl")

    def measure_seed(self, seed: int) -> list[Found]:
        """All arms of a seed."""
        arms = self.options.arms
        rows = [row for name in ENCODERS for row in self.probes(name, seed)]
        for name in (name for name in DIFFUSION if name in arms):
            rows += [self.figures(name, seed, steps, MANY) for steps in self.task.milestones]
            rows += [self.figures(name, seed, self.task.steps, few) for few in FEW]
        for name in (name for name in CONSISTENCY if name in arms):
            rows += [self.figures(name, seed, self.task.consistency_steps, few) for few in FEW[:2]]
        if LONGER in arms:  # goes on with the run from nothing, which has to be measured before
            rows.append(self.figures(LONGER, seed, self.task.longer("full"), MANY))
        return rows

    def figures(self, name: str, seed: int, steps: int, evaluations: int) -> Found:
        """What is measured of an arm's images after so many steps."""
        about = {"arm": name, "seed": seed, "steps": steps, "evaluations": evaluations, "images": self.options.images}
        settings = {**about, "settings": {**self.task.settings, "device": None}, "work": self.work(name)}
        figures = self.kept.find(settings)
        if figures is None:
            run = self.train(name, seed, steps)
            images = sample(run, evaluations, self.options.images, self.device)
            figures = measure_images(self.task.data, images)
            self.kept.add(settings, figures)
        return Found(name, seed, steps, evaluations, figures)

    def train(self, name: str, seed: int, steps: int) -> Path:
        """The arm's run after so many steps."""
        if name in CONSISTENCY:
            return train_consistency(self.task, name, seed)
        return train_diffusion(self.task, "scratch" if name == LONGER else name, seed, steps)

    def work(self, name: str) -> list[int]:
        """The steps of what an arm starts from: other figures are another arm's."""
        task = self.task
        return [task.pretraining_steps, task.steps] if name in CONSISTENCY else [task.pretraining_steps]

    def probes(self, name: str, seed: int) -> list[Found]:
        """What the neighbours of an image tell of its class after a pre-training, by noise level."""
        used = {arm.start for key, arm in (DIFFUSION | CONSISTENCY).items() if key in self.options.arms}
        if name not in used:
            return []
        run = train_encoder(self.task, name, seed)
        rows = [row for row in read_metrics(run / "metrics.jsonl") if "neighbour_accuracy_at_2" in row]
        figures = {key: value for key, value in rows[-1].items() if key.startswith("neighbour")}
        return [Found(name, seed, self.task.pretraining_steps, 0, figures)]


if __name__ == "__main__":
    main()
