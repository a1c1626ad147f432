"""Planted sets for the benchmark of ASPIRE, and what its stand-ins learn from: scenes in which nothing goes together.

What a set hands to ASPIRE is images and classes. The rest of what is known of its scenes is in `Planted.scenes` and
`Planted.truth`, for figures, and in the groups, which are measured by and which methods ask for that need groups.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from animal_silhouettes import animals

from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import content_hash
from explain.caption_config import CaptionConfig
from explain.segment_config import SegmentConfig
from explain.train import make_recipe
from gen.rpe2d.config import RPE2DConfig
from gen.rpe2d.recipe import RPE2DRecipe
from workbench.config import TrainingConfig
from workbench.datasets import LabelledImages
from workbench.planted import PLANTED_OBJECT, PLANTED_OBJECT_CLASS, planted
from workbench.records import DatasetWriter
from workbench.run_folder import RunFolder
from workbench.scenes import Scenes
from workbench.training import Training

SIZE = 32
BALANCED = 0.5  # the correlation of a set whose groups are of one size
CORPUS_SEED = 1000  # of scenes that stand-ins learn from; sets have other seeds
BRICK_SHARE = 3  # one of their scenes in so many stands on the background that no class owns
CLASSES: dict[str, Sequence[str] | Mapping[str, Sequence[str]]] = {
    "fashion": ("Bag", "Ankle boot"),
    "animals": {"Bird/Giraffe": ("Bird", "Giraffe"), "Elephant/Bear": ("Elephant", "Bear")},
}
STAND_INS = ("corpus_images", "captioner_steps", "segmenter_steps")  # options that they depend on
SETTINGS = ("train_images", "test_images", "steps", "width", "min_support", *STAND_INS)  # and a set's figures
GENERATOR = ("generator_steps", "personalisation_steps")  # and figures of generated images
Truth = frozenset[tuple[int, str, str]]  # class, kind, phrase


@dataclass(frozen=True)
class Planted:
    """A set as ASPIRE gets it, and what is true of it."""

    data: DebiasData
    scenes: Scenes
    truth: Truth


def settings_of(options: argparse.Namespace, names: Sequence[str] = SETTINGS) -> dict[str, int]:
    """The options of these names."""
    return {name: getattr(options, name) for name in names}


@cache
def items_of(kind: str, wheel: Path | None) -> LabelledImages | None:
    """What scenes show; None: the extract of Fashion-MNIST."""
    return animals(wheel) if kind == "animals" and wheel else None


def planted_set(
    kind: str, plant: str, seed: int, split: str, count: int, wheel: Path | None, correlation: float | None = None
) -> Planted:
    """Scenes of a split, without captions and masks; the correlation is 0.95 in training and else 0.5, unless given."""
    scenes = planted(
        range(count), SIZE, seed=seed, split=split, plant=plant, correlation=correlation, classes=CLASSES[kind],
        items=items_of(kind, wheel),
    )  # fmt: skip
    attributes, names = attributes_of(scenes, plant)
    data = DebiasData(
        images=scenes.images, labels=scenes.labels, label_names=scenes.label_names,
        ids=tuple(f"{split}/{number:06d}" for number in range(count)), captions=None, masks=None,
        attributes=attributes, attribute_names=names, notes=(),
    )  # fmt: skip
    return Planted(data, scenes, truth_of(scenes, plant))


def truth_of(scenes: Scenes, plant: str) -> Truth:
    """The planted features: class k has the background k, the second class the ball."""
    found: set[tuple[int, str, str]] = set()
    if plant in ("background", "both"):
        found |= {(label, "background", scenes.background_names[label]) for label in range(len(scenes.label_names))}
    if plant in ("object", "both"):
        found.add((PLANTED_OBJECT_CLASS, "object", scenes.distractor_names[PLANTED_OBJECT]))
    return frozenset(found)


def attributes_of(scenes: Scenes, plant: str) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The attribute that makes the groups: what is planted, and of the set without any the background."""
    grounds = scenes.background_names[: len(scenes.label_names)]
    thing = scenes.distractor_names[PLANTED_OBJECT]
    has = torch.tensor([thing in objects for objects in scenes.distractors]).long()
    if plant == "object":
        return has, (f"no {thing}", thing)
    if plant == "both":
        names = tuple(f"{ground}{word}" for ground in grounds for word in ("", f" with a {thing}"))
        return 2 * scenes.backgrounds + has, names
    return scenes.backgrounds, grounds


# ---- what is trained beforehand --------------------------------------------------------------------------------------


def stand_ins(kind: str, options: argparse.Namespace) -> tuple[Path, Path]:
    """A captioner and a segmenter of scenes with these items in which nothing goes together; once for all sets."""
    folder = options.folder / kind / f"stand-ins-{content_hash(settings_of(options, STAND_INS))}"
    corpus = write_corpus(folder / "corpus", kind, options)
    common = {"data": str(corpus), "device": options.device, "checkpoints_total_limit": 1, "validation_steps": 0}
    captioner = CaptionConfig(
        **common, output_dir=folder / "captioner", resolution=str(SIZE), patch_size=4, random_shift=2,
        max_train_steps=options.captioner_steps,
    )  # fmt: skip
    segmenter = SegmentConfig(
        **common, output_dir=folder / "segmenter", resolution=str(2 * SIZE), max_train_steps=options.segmenter_steps
    )
    return trained(captioner, "captioner"), trained(segmenter, "segmenter")


def write_corpus(folder: Path, kind: str, options: argparse.Namespace) -> Path:
    """Scenes of the training split's items with captions and masks, as a data set."""
    items = items_of(kind, options.animals)
    writer = DatasetWriter(folder, tuple(CLASSES[kind]), {"seed": CORPUS_SEED, "images": options.corpus_images})
    for shard in writer.missing_shards(options.corpus_images):
        numbers = range(options.corpus_images)[shard * writer.shard_size :][: writer.shard_size]
        brick = [n for n in numbers if n // len(CLASSES[kind]) % BRICK_SHARE == 0]
        others = [n for n in numbers if n // len(CLASSES[kind]) % BRICK_SHARE]
        parts = [
            planted(
                part, SIZE, seed=CORPUS_SEED, plant="none", background=ground, classes=CLASSES[kind], items=items
            )
            for part, ground in ((brick, "brick"), (others, None))
            if part
        ]  # fmt: skip
        writer.write_shard(shard, torch.cat([p.images for p in parts]), [row for p in parts for row in p.rows()])
    writer.finish()
    return folder


def generator_of(train: DebiasData, folder: Path, seed: int, options: argparse.Namespace) -> Path:
    """A class-conditional RPE-2D generator of the training images alone."""
    writer = DatasetWriter(folder / "real", train.label_names, {"images": len(train)})
    for shard in writer.missing_shards(len(train)):
        part = slice(shard * writer.shard_size, (shard + 1) * writer.shard_size)
        writer.write_shard(shard, train.images[part], [{"label": label} for label in train.labels[part].tolist()])
    writer.finish()
    settings = RPE2DConfig(
        data=str(folder / "real"), output_dir=folder / "generator", resolution=str(SIZE), max_positions=str(SIZE // 4),
        random_flip=True, crop_probability=0.0, train_batch_size=64, learning_rate=2e-3, optimizer="muon",
        ema_decay=0.995, num_layers=4, max_train_steps=options.generator_steps, checkpoints_total_limit=1,
        validation_steps=options.generator_steps, seed=seed, device=options.device,
    )  # fmt: skip
    return trained(settings, "pipeline")


def trained(config: TrainingConfig, result: str) -> Path:
    """The result of a run, which may be finished or half done."""
    run = RunFolder(config.output_dir, result)
    if not run.finished(config.max_train_steps):
        Training(RPE2DRecipe(config) if isinstance(config, RPE2DConfig) else make_recipe(config)).train()
    return run.result
