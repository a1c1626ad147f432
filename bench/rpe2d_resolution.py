"""RPE-2D against other positional encodings: trained at one resolution, generating at others.

    python bench/rpe2d_resolution.py shapes --folder runs/resolution --output docs/results/rpe2d_resolution.md
    python bench/rpe2d_resolution.py fashion --folder runs/resolution --output docs/results/rpe2d_fashion.md

shapes: analytic shapes, trained at 32 px, with true references at 24, 32, 48, 64 and 32x64. fashion: Fashion-MNIST,
trained at 16 px, asked for at 28 px, against the real test images. All arms share width, data, steps, seeds, labels,
noise and sampler; every inference trick is given to every method. What is finished is kept in --folder: call again to go
on, or call several at once with different --seeds.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
import torch
from resolution_methods import EXTRA, METHODS, TRICKS, Task, images_of, train_arm

SHAPES = Task(
    "shapes", "shapes", 32, ((24, 24), (32, 32), (48, 48), (64, 64), (32, 64)), patch_size=4, max_positions=16
)
FASHION = Task("fashion", "fashion-mnist", 16, ((16, 16), (28, 28)), patch_size=2, max_positions=16)
TASKS = {task.name: task for task in (SHAPES, FASHION)}
NUM_SCENES = 16384


def main() -> None:
    """Train, sample and measure what is missing; then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--inference-steps", type=int, default=25)
    parser.add_argument("--methods", nargs="+", default=[m.key for m in METHODS])
    parser.add_argument("--sizes", nargs="+")
    parser.add_argument("--tricks", nargs="+", default=["none", "lambda + shift"], choices=TRICKS)
    options = parser.parse_args()
    task = prepared(TASKS[options.task], options)
    for seed in options.seeds:
        for method in (*METHODS, *EXTRA):
            if method.key in options.methods:
                train_arm(task, method.arm, seed, options.folder)
                for size in task.sizes:
                    for tricks in options.tricks:
                        sample(task, method, size, tricks, seed, options)


def prepared(task: Task, options: argparse.Namespace) -> Task:
    """The task with its data on disk and the settings of this call."""
    from dataclasses import replace

    settings = {
        "preset": options.preset, "max_train_steps": options.steps, "learning_rate": options.learning_rate,
        "ema_decay": 0.999, "checkpointing_steps": 1000,
    }  # fmt: skip
    data = str(write_shapes(options.folder / "shapes-64")) if task is SHAPES else task.data
    sizes = tuple(s for s in task.sizes if not options.sizes or f"{s[0]}x{s[1]}" in options.sizes)
    return replace(task, data=data, settings=settings, sizes=sizes)


def sample(task, method, size, tricks, seed, options):
    native = size == (task.resolution, task.resolution)
    if native and tricks != "none":
        return
    images_of(
        task,
        method,
        size,
        tricks,
        seed,
        options.folder,
        options.images,
        {"num_inference_steps": options.inference_steps},
    )


def write_shapes(folder: Path) -> Path:
    """Renders at twice the training resolution, so that a crop has its own true pixels."""
    from workbench.records import DatasetWriter
    from workbench.scenes import shapes

    if not (folder / "dataset.json").exists():
        scenes = shapes(range(NUM_SCENES), 64, seed=1)
        writer = DatasetWriter(folder, scenes.label_names, {"seed": 1}, shard_size=1024)
        for shard in writer.missing_shards(NUM_SCENES):
            part = slice(shard * 1024, (shard + 1) * 1024)
            rows = [{"label": int(label), "source": "real"} for label in scenes.labels[part]]
            writer.write_shard(shard, list(scenes.images[part].numpy()), rows)
        writer.finish(seed=1)
    return folder


if __name__ == "__main__":
    main()
