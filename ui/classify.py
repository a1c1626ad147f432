"""`workbench classify train` and `workbench classify eval`."""

import json
from collections.abc import Sequence
from typing import Any

from augment_synth.robust_config import RobustTrainConfig
from workbench.classification_config import ClassifyEvalConfig, ClassifyTrainConfig
from workbench.command import parse, polite
from workbench.errors import UserError


def classify(arguments: Sequence[str] | None = None, program: str = "workbench classify") -> None:
    """Train or measure a classifier; exits with 2 after a mistake."""
    with polite():
        config = parse(
            {"train": RobustTrainConfig, "eval": ClassifyEvalConfig},
            arguments,
            program,
            "Train or measure a classifier.",
        )
        if isinstance(config, ClassifyEvalConfig):
            evaluate(config)
        else:
            config.check()
            train(config.plain()) if config.method is None else train_by_method(config)


def train(config: ClassifyTrainConfig) -> None:
    """Train a classifier and say how well it does."""
    config.check()
    from workbench.classification import ClassifierRecipe
    from workbench.training import Training

    run = Training(ClassifierRecipe(config))
    if config.dry_run:
        print(run.describe(), end="")
        return
    result = run.train()
    if run.main:
        figures = json.loads((result / "config.json").read_text())["test"]
        print(f"Done. Accuracy {figures['accuracy']:.3f} on {figures['images']} images. The classifier is in {result}")


def train_by_method(config: RobustTrainConfig) -> None:
    """Train by a robust method, and say how well the classifier does in each group."""
    from augment_synth.robust import chosen
    from augment_synth.robust_data import robust_data

    train, test = robust_data(config)
    result = chosen(config.method or "erm")(config.robust(), train, test)
    figures = json.loads((result / "config.json").read_text())
    print(f"Done. Accuracy {figures['test']['accuracy']:.3f} on {figures['test']['images']} images:")
    for row in figures["groups"]["groups"]:
        print(f"  {row['accuracy']:.3f}  {row['group']} ({row['n']} images)")
    print(f"The classifier is in {result}")


def evaluate(config: ClassifyEvalConfig) -> None:
    """Print a classifier's accuracy, overall and by class."""
    if config.output and config.output.exists() and not config.overwrite:
        raise UserError(f"{config.output} is there already; give --overwrite to replace it, or another --output")
    from workbench import classification
    from workbench.classifiers import load_classifier
    from workbench.datasets import available_splits, load_images
    from workbench.devices import choose_device
    from workbench.files import user_errors_for_disk, write_atomic

    split = config.split or ("test" if "test" in available_splits(config.data) else "train")
    classifier = load_classifier(config.classifier, choose_device(config.device))
    data = load_images(config.data, split, classifier.preprocessing.size, crop=False)
    figures = {"classifier": config.classifier, "data": config.data, "split": split}
    figures |= classification.evaluate(classifier, data, config.batch_size)
    if config.output:
        with user_errors_for_disk(config.output):
            write_atomic(config.output, json.dumps(figures, indent=1))
    print(json.dumps(figures) if config.json else _table(figures))


def _table(figures: dict[str, Any]) -> str:
    rows = [f"accuracy {figures['accuracy']:.4f} on {figures['images']} images ({figures['data']}, {figures['split']})"]
    return "\n".join([*rows, *(f"  {value:.3f}  {name}" for name, value in figures["per_class"].items())])
