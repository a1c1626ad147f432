"""Step 6: train again without and with the edited images, and measure both alike."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from augment_synth.aspire import Discovery, class_probabilities
from augment_synth.debias_config import DebiasConfig
from augment_synth.debias_data import DebiasData
from augment_synth.edits import Editing
from augment_synth.groups import GroupedImages, GroupTable, group_table, grouped
from augment_synth.screening import requests
from augment_synth.synthetic import Synthetic
from workbench.pixel_classifier import PixelClassifier

FRESH_IMAGES = 200  # of each spurious feature
GIVEN, PLAIN, WITH = "given classifier", "trained", "trained with ASPIRE"


@dataclass(frozen=True)
class Comparison:
    """Accuracy by group of the given classifier, of one trained on the data, and of one trained with the edits; and
    how often fresh edits of the spurious features flip each."""

    method: str
    measured_on: str
    tables: dict[str, GroupTable]
    fresh_flips: list[dict[str, Any]]


def retrain(
    config: DebiasConfig, data: DebiasData, test: DebiasData, measured_on: str, classifier: PixelClassifier,
    discovery: Discovery, synthetic: Synthetic, folder: Path,
) -> Comparison:  # fmt: skip
    """Train by the method without and with synthetic images; where there are none, only without."""
    plain = data.grouped()
    judges = {GIVEN: classifier, PLAIN: trained(config, plain, folder / "without-aspire")}
    if len(synthetic):
        judges[WITH] = trained(config, joined(data, synthetic), folder / "with-aspire")
    counts = plain.group_counts() if plain.groups is not None else None
    tables = {name: group_table(judge, test.grouped(), config.batch_size, counts) for name, judge in judges.items()}
    flips = [row for name, judge in judges.items() for row in fresh_flips(config, discovery, name, judge)]
    return Comparison(config.method, measured_on, tables, flips)


def joined(data: DebiasData, synthetic: Synthetic) -> GroupedImages:
    """Real and synthetic images. An edit has the attribute of the background that it was given, else none is known."""
    images = torch.cat([data.images, synthetic.images])
    labels = torch.cat([data.labels, torch.tensor([row["label"] for row in synthetic.rows])])
    made = torch.arange(len(images)) >= len(data)
    if data.attributes is None:
        return GroupedImages(images, labels, data.label_names, None, (), made)
    numbers = {name: number for number, name in enumerate(data.attribute_names)}
    given = torch.tensor([numbers.get(row["replaced_by"], -1) for row in synthetic.rows])
    return grouped(images, labels, data.label_names, torch.cat([data.attributes, given]), data.attribute_names, made)


def trained(config: DebiasConfig, train: GroupedImages, folder: Path) -> PixelClassifier:
    """A classifier by the method of the settings; its run may be finished or half done."""
    from augment_synth.robust import train_robust
    from augment_synth.robust_config import RobustSettings
    from workbench.classifiers import load_classifier
    from workbench.devices import choose_device

    if (folder / "classifier" / "config.json").exists():
        return load_classifier(folder / "classifier", choose_device(config.device))
    settings = RobustSettings(
        synthetic_share=config.synthetic_share, max_train_steps=config.max_train_steps, width=config.width,
        train_batch_size=config.train_batch_size, learning_rate=config.learning_rate, seed=config.seed,
        device=config.device, checkpoints_total_limit=1,
    )  # fmt: skip
    return train_robust(config.method, train, None, settings, folder)


def fresh_flips(config: DebiasConfig, discovery: Discovery, name: str, judge: PixelClassifier) -> list[dict[str, Any]]:
    """Flip rates of the spurious features on new edits, among images that this classifier gets right."""
    old = discovery.editing
    data = old.subject.data

    def classify(images: UInt8[Tensor, "n 3 h w"]) -> Tensor:
        return class_probabilities(judge, images, data.label_names, config.batch_size)

    subject = replace(old.subject, probabilities=classify(data.images))
    identity = {**old.identity, "classifier": judge.fingerprint(), "seed": config.seed + 1}
    editing = Editing(subject, old.remover, old.swapper, classify, old.cache, identity, config.seed + 1)
    rows = []
    for feature in discovery.spurious:
        made = [
            row
            for candidate in discovery.candidates
            if (candidate.label, candidate.kind, candidate.name) == (feature.label, feature.kind, feature.name)
            for row in editing.make(requests(candidate, candidate.images[:FRESH_IMAGES], placebos=False))
        ]
        counted = [row for row in made if row.made and row.pred_before == row.label]
        rows.append({
            "classifier": name, "class": data.label_names[feature.label], "feature": feature.name,
            "edits": len(counted), "flip rate": sum(row.flipped for row in counted) / max(1, len(counted)),
        })  # fmt: skip
    return rows
