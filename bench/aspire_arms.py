"""A planted set of the benchmark of ASPIRE: the steps of `workbench debias` on it, and classifiers trained after."""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from aspire_sets import BALANCED, GENERATOR, SETTINGS, Planted, generator_of, planted_set, settings_of, stand_ins

from augment_synth import retraining
from augment_synth.aspire import Discovery, augmentation, discover
from augment_synth.debias_config import DebiasConfig
from augment_synth.edit_log import EditRow, StepCache, content_hash
from augment_synth.groups import GroupedImages, GroupTable, group_table
from augment_synth.personalise import Concept, images_to_make, new_images, open_learner, synthetic_images
from augment_synth.scoring import ScoredFeature
from augment_synth.synthetic import Synthetic, direct
from workbench import seeds
from workbench.pixel_classifier import PixelClassifier

Figures = dict[str, float]
FOLDER = (*SETTINGS, *GENERATOR)  # options that a folder's content depends on
CHOICE_STREAM = 71
ERM, BALANCED_SET = "erm", "erm, balanced set"
NONE, DIRECT, GENERATED = "none", "direct", "generated"
BOTH = "direct and placebos"
FEWER, OTHERS, PLAIN, ALONE = "direct, as many", "other edits, as many", "generated without token", "direct alone"


class Case:
    """A planted set and a seed; every step is done when it is first asked for, and found again in the folder."""

    def __init__(self, items: str, plant: str, seed: int, options: argparse.Namespace) -> None:
        self.items, self.plant, self.seed, self.options = items, plant, seed, options
        self.made: dict[str, Synthetic | None] = {}
        self.folder: Path = options.folder / items / f"{plant}-{seed}-{content_hash(settings_of(options, FOLDER))}"

    def part(self, split: str, count: int, correlation: float | None = None) -> Planted:
        """Scenes of this case."""
        return planted_set(self.items, self.plant, self.seed, split, count, self.options.animals, correlation)

    @cached_property
    def train(self) -> Planted:
        """What ASPIRE gets."""
        return self.part("train", self.options.train_images)

    @cached_property
    def test(self) -> Planted:
        """What is measured on."""
        return self.part("test", self.options.test_images)

    @cached_property
    def config(self) -> DebiasConfig:
        """The command's settings: its defaults, but for the stand-ins and the training that the options name."""
        captioner, segmenter = stand_ins(self.items, self.options)
        return DebiasConfig(
            data=f"{self.items}-{self.plant}", classifier="erm", output=self.folder, captioner=str(captioner),
            segmenter=str(segmenter), max_train_steps=self.options.steps, width=self.options.width, seed=self.seed,
            min_support=self.options.min_support, personalisation_steps=self.options.personalisation_steps,
            device=self.options.device,
        )  # fmt: skip

    # ---- the steps of the command ------------------------------------------------------------------------------------

    @cached_property
    def base(self) -> PixelClassifier:
        """The classifier that is looked into: ERM."""
        return self.classifier(ERM, NONE)

    @cached_property
    def discovery(self) -> Discovery:
        """Steps 1 to 4."""
        return discover(self.config, self.train.data, self.base, StepCache(self.folder / "steps"))

    @cached_property
    def edits(self) -> list[EditRow]:
        """Edits to train on."""
        return augmentation(self.discovery, "default", self.config.max_label_change)

    def synthetic(self, addition: str) -> Synthetic | None:
        """What is added to the training images, made once; None where there is nothing to add."""
        if addition not in self.made:
            made = ADDITIONS[addition](self)
            self.made[addition] = made if made is not None and len(made) else None
        return self.made[addition]

    def classifier(self, method: str, addition: str) -> PixelClassifier:
        """Trained as the command trains, by a method, with an addition."""
        folder = (
            self.folder / method.replace(", ", "-").replace(" ", "-") / addition.replace(", ", "-").replace(" ", "-")
        )
        config = replace(self.config, method=method.split(",")[0])
        if addition == ALONE:
            config = replace(config, synthetic_share=1.0)
        return retraining.trained(config, self.training_images(method, addition), folder)

    def training_images(self, method: str, addition: str) -> GroupedImages:
        """Real ones, and those added."""
        if method == BALANCED_SET:
            return self.part("train", self.options.train_images, BALANCED).data.grouped()
        made = self.synthetic(addition)
        return self.train.data.grouped() if made is None else retraining.joined(self.train.data, made)

    # ---- figures -----------------------------------------------------------------------------------------------------

    def accuracy(self, method: str, addition: str) -> Figures:
        """Of the worst group and of all test images, after training; nothing to add is nothing to train."""
        began, added = time.perf_counter(), 0
        if addition != NONE:
            added = len(self.synthetic(addition) or ())
            if not added:
                return {"added": 0.0}
        counts = self.train.data.grouped().group_counts()
        found: GroupTable = group_table(
            self.classifier(method, addition), self.test.data.grouped(), train_counts=counts
        )
        return {
            "worst": found.worst, "average": found.average, "weighted": found.weighted or 0.0, "added": float(added),
            "seconds": time.perf_counter() - began,
        }  # fmt: skip

    def found(self) -> Figures:
        """What ASPIRE's ranking is worth against what was planted, and its stand-ins against the scenes."""
        assert self.base  # what is timed is ASPIRE alone
        began = time.perf_counter()
        discovery = self.discovery
        seconds = time.perf_counter() - began
        return {
            **ranking_figures(discovery.ranking, self.train.truth),
            **stand_in_figures(discovery, self.train),
            "edits": float(len(discovery.rows)), "edits_without_screening": float(discovery.grid), "seconds": seconds,
        }  # fmt: skip


# ---- what is added to the training images ----------------------------------------------------------------------------


def nothing(case: Case) -> None:
    """The real images alone."""


def all_edits(case: Case) -> Synthetic:
    """As the command does with --generator direct."""
    return synthetic_images(case.config, case.discovery, case.edits, case.folder / "tokens")


def generated(case: Case) -> Synthetic:
    """As the command does with a generator, trained on the training images of this set."""
    return synthetic_images(with_generator(case), case.discovery, case.edits, case.folder / "tokens")


def generated_without_token(case: Case) -> Synthetic | None:
    """As many images of the same generator, with nothing learned."""
    made = case.synthetic(GENERATED)
    if made is None:
        return None
    config, wanted = with_generator(case), counts(made)
    learner = open_learner(config, case.train.data.label_names)
    parts = [
        new_images(config, learner, Concept(label, "", torch.zeros(1), "", 0, ""), count, case.train.data)
        for label, count in sorted(wanted.items())
    ]
    return Synthetic(torch.cat([part.images for part in parts]), [row for part in parts for row in part.rows])


def with_generator(case: Case) -> DebiasConfig:
    """The settings with this set's own generator."""
    generator = generator_of(case.train.data, case.folder, case.seed, case.options)
    return replace(case.config, generator=str(generator))


def edits_and_placebos(case: Case) -> Synthetic:
    """With as many that put another cut of the same background there: edited or not says nothing of the background."""
    features = {(feature.label, feature.kind, name) for feature in case.discovery.spurious for name in feature.phrases}
    placebos = [
        row for row in case.discovery.rows
        if row.made and row.placebo and (row.label, row.kind, row.phrase) in features
    ]  # fmt: skip
    return direct(case.discovery, [*case.edits, *placebos])


def fewer_edits(case: Case) -> Synthetic:
    """As many edits as a generator makes images, or as there are other edits of a class if those are less."""
    return direct(case.discovery, as_many(case.edits, equal_counts(case), case.seed))


def other_edits(case: Case) -> Synthetic:
    """As many edits that take away nothing spurious: of other features, and placebos."""
    return direct(case.discovery, as_many(others(case), equal_counts(case), case.seed))


def others(case: Case) -> list[EditRow]:
    """Edits that were made but are not trained on."""
    taken = {id(row) for row in case.edits}
    return [row for row in case.discovery.rows if row.made and id(row) not in taken]


def equal_counts(case: Case) -> dict[int, int]:
    """Images of each class that can be had in all ways."""
    edited, left = (Counter(row.label for row in rows) for rows in (case.edits, others(case)))
    return {label: min(images_to_make(case.train.data, label), edited[label], left[label]) for label in edited}


def as_many(rows: Sequence[EditRow], wanted: Mapping[int, int], seed: int) -> list[EditRow]:
    """So many of each class, at random."""
    chosen = []
    for label, count in sorted(wanted.items()):
        own = [row for row in rows if row.label == label]
        order = torch.randperm(len(own), generator=seeds.generator(seed, CHOICE_STREAM, label))
        chosen += [own[k] for k in order[:count].tolist()]
    return chosen


def counts(synthetic: Synthetic) -> Counter[int]:
    """Images of each class."""
    return Counter(row["label"] for row in synthetic.rows)


ADDITIONS: dict[str, Callable[[Case], Synthetic | None]] = {
    NONE: nothing, DIRECT: all_edits, BOTH: edits_and_placebos, FEWER: fewer_edits, OTHERS: other_edits,
    ALONE: all_edits, GENERATED: generated, PLAIN: generated_without_token,
}  # fmt: skip


# ---- against what was planted ----------------------------------------------------------------------------------------


def ranking_figures(ranking: Sequence[ScoredFeature], truth: frozenset[tuple[int, str, str]]) -> Figures:
    """Of a ranking, best first: where the planted features stand, how many are kept, and how many others are.

    Where nothing is planted, or nothing ranked, only the false ones can be counted.
    """
    right = [(feature.label, feature.kind, feature.name) in truth for feature in ranking]
    kept = [feature.kept for feature in ranking]
    figures = {
        "false": float(sum(k and not r for k, r in zip(kept, right, strict=True))),
        "features": float(len(ranking)),
    }
    if not truth:
        return figures
    places = [place for place, one in enumerate(right, 1) if one]
    firsts = [next((r for r, f in zip(right, ranking, strict=True) if f.label == label), False) for label, *_ in truth]
    return figures | {
        "precision_at_1": float(right[0]) if right else 0.0,
        "first_of_its_class": sum(firsts) / len(firsts),
        "recall_at_k": sum(right[: len(truth)]) / len(truth),
        "kept": sum(k and r for k, r in zip(kept, right, strict=True)) / len(truth),
        "reciprocal_rank": 1 / places[0] if places else 0.0,
        "auroc": auroc([feature.score for feature in ranking], right),
    }


def auroc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """How often a planted feature scores above another one; ties count half."""
    pairs = [
        (a > b) + (a == b) / 2
        for a, one in zip(scores, right, strict=True) if one
        for b, other in zip(scores, right, strict=True) if not other
    ]  # fmt: skip
    return sum(pairs) / len(pairs) if pairs else 1.0


def stand_in_figures(discovery: Discovery, planted: Planted) -> Figures:
    """How right the captions are on the training images, and how near the masks are to the true ones."""
    scenes, subject = planted.scenes, discovery.editing.subject
    said, shown = subject.features, [scenes.background_names[k] for k in scenes.backgrounds]
    objects = [
        len(set(own.foreground) & set(true)) / max(1, len(set(own.foreground) | set(true)))
        if own.foreground or true else 1.0
        for own, true in zip(said, scenes.distractors, strict=True)
    ]  # fmt: skip
    both = (subject.label_masks & scenes.masks).sum((1, 2))
    either = (subject.label_masks | scenes.masks).sum((1, 2))
    return {
        "backgrounds_right": sum(f.background == true for f, true in zip(said, shown, strict=True)) / len(said),
        "objects_right": sum(objects) / len(objects),
        "label_iou": float((both / either.clamp(min=1)).mean()),
    }
