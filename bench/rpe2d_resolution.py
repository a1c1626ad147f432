"""RPE-2D against other positional encodings: trained at one resolution, generating at others.

    python bench/rpe2d_resolution.py shapes --folder runs/resolution --output docs/results/rpe2d_resolution.md
    python bench/rpe2d_resolution.py fashion --folder runs/resolution --output docs/results/rpe2d_fashion.md

shapes: analytic shapes, trained at 32 px, with true references at 24, 32, 48, 64 and 32x64. fashion: Fashion-MNIST,
trained at 16 px, asked for at 28 px, against the real test images. All arms share width, data, steps, seeds, labels,
noise and sampler; every inference trick is given to every method. Each figure is kept beside the table as it comes
(docs/results/rpe2d_TASK.jsonl), with its settings, and only what is missing is trained, sampled and measured: call
again to go on, or call several at once, with different --seeds or --methods and without --output.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as our commands do
from kept import Kept
from measured import write_result
from resolution_methods import EXTRA, METHODS, TRICKS, UPSCALED, Method, Size, Task, images_of
from resolution_table import resolution_table

from workbench.records import DatasetWriter
from workbench.scenes import shapes

SHAPES = Task(
    "shapes", "shapes", 32, ((24, 24), (32, 32), (48, 48), (64, 64), (32, 64)), patch_size=4, max_positions=16
)
FASHION = Task("fashion", "fashion-mnist", 16, ((16, 16), (28, 28)), patch_size=2, max_positions=16)
TASKS = {task.name: task for task in (SHAPES, FASHION)}
NUM_SCENES, SCENE_SHARD = 16384, 1024
ALL = (*METHODS, UPSCALED, *EXTRA)


def main() -> None:
    """Train, sample and measure what is missing; then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--folder", type=Path, required=True, help="for trained models and images")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="for the figures")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-positions", type=int, default=16, help="of the methods with random positions")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--inference-steps", type=int, default=25)
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    parser.add_argument("--methods", nargs="+", default=[m.key for m in (*METHODS, UPSCALED)])
    parser.add_argument("--sizes", nargs="+", help="such as 48x48; all unless given")
    parser.add_argument("--tricks", nargs="+", default=["lambda + shift"], choices=TRICKS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", help="markdown file for the table")
    options = parser.parse_args()
    task = prepared(TASKS[options.task], options)
    found = [
        row
        for seed in options.seeds
        for method in ALL
        if method.key in options.methods
        for row in results_of(task, method, seed, options)
    ]
    if options.output:
        write_result(
            "RPE-2D at other resolutions", __doc__ or "", resolution_table(task, found, options), options.output
        )


def prepared(task: Task, options: argparse.Namespace) -> Task:
    """The task with its data on disk and the settings of this call."""
    settings = {
        "preset": options.preset, "max_train_steps": options.steps, "train_batch_size": options.batch_size,
        "learning_rate": 2e-3, "optimizer": "muon", "ema_decay": 0.999, "checkpointing_steps": 1000,
        "device": options.device,
    }  # fmt: skip
    data = str(write_shapes(options.folder / "shapes-64")) if task is SHAPES else task.data
    sizes = tuple(size for size in task.sizes if not options.sizes or f"{size[0]}x{size[1]}" in options.sizes)
    return replace(task, data=data, settings=settings, sizes=sizes, max_positions=options.max_positions)


def results_of(task: Task, method: Method, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What was measured of a method's images at each size with each of the tricks."""
    kept = Kept(options.results / f"rpe2d_{task.name}.jsonl")
    found = []
    for size in task.sizes:
        for tricks in tricks_at(task, method, size, options):
            cell = {"method": method.key, "seed": seed, "size": list(size), "tricks": tricks}
            settings = {**cell, **protocol(options)}
            measured = kept.find(settings)
            if measured is None:
                images = images_of(task, method, size, tricks, seed, options.folder, sampling(options))
                kept.add(settings, measured := figures(task, images, size, options))
            found.append({**cell, "size": size, **measured})
    return found


def protocol(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that every cell of a table shares."""
    names = "preset steps batch_size max_positions images inference_steps guidance_scale"
    return {name: getattr(options, name) for name in names.split()}


def tricks_at(task: Task, method: Method, size: Size, options: argparse.Namespace) -> list[str]:
    """At the training size the tricks do nothing, and upscaling has none."""
    native = size == (task.resolution, task.resolution)
    return ["none"] if native or method is UPSCALED else options.tricks


def sampling(options: argparse.Namespace) -> dict[str, Any]:
    """Number of images, steps and guidance."""
    return {
        "count": options.images,
        "num_inference_steps": options.inference_steps,
        "guidance_scale": options.guidance_scale,
    }


def figures(task: Task, images: Any, size: Size, options: argparse.Namespace) -> dict[str, float]:
    """Measures of one set of images."""
    if task.name == "fashion":
        from fashion_measures import measure_fashion

        return measure_fashion(images, size)
    import torch
    from shape_measures import measure, real_shapes
    from shape_network import shape_network

    labels = torch.arange(len(images)) % 4
    return measure(images, labels, real_shapes(size, len(images))[0], shape_network(options.folder / "networks"))


def write_shapes(folder: Path) -> Path:
    """Renders at twice the training resolution, so that a crop has its own true pixels."""
    if not (folder / "dataset.json").exists():
        scenes = shapes(range(NUM_SCENES), 64, seed=1)
        writer = DatasetWriter(folder, scenes.label_names, {"seed": 1}, shard_size=SCENE_SHARD)
        for shard in writer.missing_shards(NUM_SCENES):
            part = slice(shard * SCENE_SHARD, (shard + 1) * SCENE_SHARD)
            rows = [{"label": int(label), "source": "real"} for label in scenes.labels[part]]
            writer.write_shard(shard, list(scenes.images[part].numpy()), rows)
        writer.finish(seed=1)
    return folder


if __name__ == "__main__":
    main()
