"""A served folder with a little of everything, and the app running over it."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def write_classifier(folder: Path, names: tuple[str, str] = CLASSES, width: int = 4) -> None:
    """A small network of ours with random weights."""
    import torch

    from workbench.classifiers import PixelClassifier, build_classifier, save_classifier
    from workbench.pixel_classifier import Preprocessing

    torch.manual_seed(0)
    network = build_classifier("convnet", num_classes=2, channels=3, width=width, depth=2, image_size=(16, 16))
    preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, (16, 16))
    save_classifier(PixelClassifier(network, preprocessing, names), folder, {})


def write_explainer(run: Path, classifier: Path) -> None:
    """A module of T-TAME that was trained for two steps."""
    import torch

    from explain.ttame_recipe import fit
    from workbench.classifiers import load_classifier

    images = torch.randint(0, 256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    settings = {"max_train_steps": 2, "train_batch_size": 4, "device": "cpu", "mixed_precision": "no"}
    fit(load_classifier(classifier), images, run, validation_steps=0, **settings)


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
    figures = {"convnet": {"mean": 0.512, "std": 0.01, "n": 3}}
    facts = {"label_names": list(CLASSES), "images_per_class": 1, "figures": figures, "other": 1}
    (folder / "metadata.json").write_text(json.dumps(facts))
    (folder / "README.md").write_text("---\nlicense: x\n---\n# A set\n\n![All](grid.png)\n\nAccuracy 0.5\n")
    Image.new("L", (6, 4)).save(folder / "grid.png")


def write_debiasing(folder: Path) -> None:
    """What a finished run of `workbench debias` shows: a feature that is relied on, and one that is not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    feature = {
        "class": CLASSES[1], "label": 1, "kind": "background", "name": "grass", "phrases": ["grass"], "edits": 2,
        "replaced_by": "gravel", "flip_rate": 0.5, "lower": 0.1, "placebo_edits": 2, "placebo_flip_rate": 0.0,
        "kept": True, "reason": "relied on",
    }  # fmt: skip
    other = feature | {"kind": "object", "name": "ball", "phrases": ["ball"], "kept": False, "reason": "too few edits"}
    (folder / "features.json").write_text(json.dumps({"features": [feature, other], "notes": ["one *note*"]}))
    groups = [{"group": "coat, grass", "n": 4, "accuracy": 0.5}]
    accuracy = {"trained": {"worst": 0.5, "average": 0.5, "groups": groups}}
    (folder / "manifest.json").write_text(json.dumps({"accuracy": accuracy}))
    (folder / "debias.yaml").write_text("data: x\n")
    (folder / "report.html").write_text("<!DOCTYPE html>")
    png = io.BytesIO()
    Image.new("RGB", (8, 6), "green").save(png, "PNG")
    row = {"label": 1, "kind": "background", "phrase": "grass", "replaced_by": "gravel", "made": True, "placebo": False,
           "image_id": "0", "p_before": 0.75, "p_after": 0.25, "png": png.getvalue()}  # fmt: skip
    edits = [row | {"position": position, "flipped": position == 1} for position in range(2)]
    pq.write_table(pa.Table.from_pylist(edits), folder / "edits.parquet")


def furnish(root: Path) -> None:
    """A folder with one of each: two generators, an inpainter, a data set, a classifier, a run, a distilled set, a
    debiasing."""
    from tiny_inpaint_pipelines import tiny_pipeline
    from tiny_models import random_pipeline

    random_pipeline().save_pretrained(root / "tiny")
    random_pipeline(seed=1, pos_embed_type="sincos").save_pretrained(root / "other")
    tiny_pipeline().save_pretrained(root / "filler")
    write_data_set(root / "data" / "noise")
    write_classifier(root / "classifier")
    write_run(root / "run")
    write_distilled(root / "small")
    write_debiasing(root / "debias")


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[str]:
    """The address of the app over a folder; the limit that it puts on all decoders goes with it."""
    from ui.app import build_app, launch

    config = AppConfig(folder=folder, port=0, device="cpu", **settings)
    app, limit = build_app(config), Image.MAX_IMAGE_PIXELS
    try:
        yield launch(app, config, wait=False)
    finally:
        app.close(verbose=False)
        Image.MAX_IMAGE_PIXELS = limit
