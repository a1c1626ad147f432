"""A served folder with a little of everything, and the app running over it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ui.app_config import AppConfig

sys.path.append(str(Path(__file__).parents[1] / "gen"))

CLASSES = ("bag", "<b>coat</b>")


def write_data_set(folder: Path, count: int = 6) -> None:
    """Gray images of two classes, one of whose names is HTML."""
    from workbench.records import DatasetWriter

    random = np.random.default_rng(0)
    writer = DatasetWriter(folder, CLASSES, {"seed": 0})
    images = [random.integers(0, 256, (1, 6, 9), dtype=np.uint8) for _ in range(count)]
    writer.missing_shards(count)
    writer.write_shard(0, images, [{"label": k % 2, "source": "generated", "seed": k} for k in range(count)])
    writer.finish({"description": "Noise."}, command="test", seed=0)


def write_classifier(folder: Path) -> None:
    """A small network of ours with random weights."""
    import torch

    from workbench.classifiers import PixelClassifier, build_classifier, save_classifier
    from workbench.pixel_classifier import Preprocessing

    torch.manual_seed(0)
    network = build_classifier("convnet", num_classes=2, channels=3, width=4, depth=2, image_size=(16, 16))
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, (16, 16))
    save_classifier(PixelClassifier(network, preprocessing, CLASSES), folder, {})


def write_run(folder: Path, steps: int = 5) -> None:
    """What a run leaves while it trains, with a figure whose name is HTML."""
    (folder / "samples").mkdir(parents=True)
    rows = [{"step": k + 1, "loss": 1 / (k + 1), "<i>norm</i>": k * 2.0} for k in range(steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 6, "lo')
    (folder / "config.yaml").write_text("recipe: rpe2d\n")
    Image.new("RGB", (8, 6), "red").save(folder / "samples" / "step-5.png")


def write_distilled(folder: Path) -> None:
    """The files of a distilled set that the page reads."""
    folder.mkdir(parents=True)
    (folder / "distilled.safetensors").write_bytes(b"weights")
    (folder / "metadata.json").write_text(json.dumps({"classes": list(CLASSES), "method": "ftd", "other": 1}))
    (folder / "README.md").write_text("---\nlicense: x\n---\n# A set\n\n![All](grid.png)\n\nAccuracy 0.5\n")
    Image.new("L", (6, 4)).save(folder / "grid.png")


def furnish(root: Path) -> None:
    """A folder with one of each: a generator, an inpainter, a data set, a classifier, a run, a distilled set."""
    from tiny_inpaint_pipelines import tiny_pipeline
    from tiny_models import random_pipeline

    random_pipeline().save_pretrained(root / "tiny")
    tiny_pipeline().save_pretrained(root / "filler")
    write_data_set(root / "data" / "noise")
    write_classifier(root / "classifier")
    write_run(root / "run")
    write_distilled(root / "small")


@contextmanager
def served(folder: Path, **settings: int) -> Iterator[str]:
    """The address of the app over a folder; the limit that it puts on all decoders goes with it."""
    from ui.app import build_app, launch

    config = AppConfig(folder=folder, port=0, device="cpu", **settings)
    app, limit = build_app(config), Image.MAX_IMAGE_PIXELS
    try:
        yield launch(app, config, wait=False)
    finally:
        app.close(verbose=False)
        Image.MAX_IMAGE_PIXELS = limit
