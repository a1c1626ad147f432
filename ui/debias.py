"""`workbench debias`: the six steps of ASPIRE on a data set and a classifier, each gone on with where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from augment_synth.debias_config import DebiasConfig
from ui.clock import Clock
from workbench.command import parse, polite
from workbench.config import parse_size, to_mapping
from workbench.errors import UserError

if TYPE_CHECKING:
    from augment_synth.debias_data import DebiasData
    from workbench.pixel_classifier import PixelClassifier

SETTINGS, REPORT = "debias.yaml", "report.html"
OUR_FOLDERS = ("steps", "tokens", "pairs", "augmented", "augmented.partial", "classifiers")
OUR_FILES = ("features.json", "edits.parquet", "metadata.csv", "manifest.json", "seconds.json", REPORT, SETTINGS)
FREE = {"overwrite", "device", "output"}  # settings that change no result
LATE = {"veto"}  # and one that a person changes after looking, for which the steps before are kept


def main(arguments: Sequence[str] | None = None, program: str = "workbench debias") -> None:
    """Read the settings and debias; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        report = debias(parse(DebiasConfig, arguments, program))
        print(f"\nDone. Open the report: {report}")


def debias(config: DebiasConfig) -> Path:
    """Do all steps that are not done yet; returns the report's path. Raises UserError for what cannot be used."""
    config.check()
    open_folder(config)
    output = config.output
    if (output / REPORT).exists():
        print(f"{output} is complete; nothing to do (--overwrite starts anew)")
        return output / REPORT
    from augment_synth import aspire, debias_files, retraining
    from augment_synth.debias_report import debias_report
    from augment_synth.edit_log import StepCache, write_edits
    from augment_synth.personalise import synthetic_images

    data, test, measured_on, classifier = _inputs(config)
    clock = Clock(output / "seconds.json")
    with clock.stage("1 of 4", "find what the classifier relies on"):
        discovery = aspire.discover(config, data, classifier, StepCache(output / "steps"))
    with clock.stage("2 of 4", "write the edits and the augmented data set"):
        edits = aspire.augmentation(discovery, config.mode, config.max_label_change)
        debias_files.write_features(output / "features.json", discovery, config.mode)
        write_edits(output / "edits.parquet", discovery.rows)
        debias_files.write_pairs(output / "pairs", discovery)
        synthetic = synthetic_images(config, discovery, edits, output / "tokens")
        identity = {key: value for key, value in to_mapping(config).items() if key not in FREE}
        augmented = debias_files.write_augmented(
            output / "augmented", data, discovery, synthetic, identity, config.data
        )
        debias_files.write_group_csv(output / "metadata.csv", augmented, output.resolve())
    with clock.stage("3 of 4", "train without and with the new images"):
        comparison = retraining.retrain(
            config, data, test, measured_on, classifier, discovery, synthetic, output / "classifiers"
        )
    with clock.stage("4 of 4", "write the report"):
        manifest = {
            "config": to_mapping(config),
            "components": [asdict(component) for component in discovery.components],
            "counts": {
                "training images": len(data), "correct images screened": len(discovery.pool),
                "edits": len(discovery.rows), "edits without stopping early": discovery.grid,
                "edits not made": sum(not row.made for row in discovery.rows), "edits of spurious features": len(edits),
                "synthetic images trained on": len(synthetic),
                **{f"left out, {name}": count for name, count in synthetic.left_out.items()},
            },
            "accuracy": {name: table.figures() for name, table in comparison.tables.items()},
            "flip rates on fresh edits": comparison.fresh_flips,
            "seconds": clock.seconds,
        }  # fmt: skip
        _write_json(output / "manifest.json", manifest)
        report = debias_report(config, discovery, synthetic, comparison, manifest)
        return report.write(output / REPORT)


def _inputs(config: DebiasConfig) -> tuple[DebiasData, DebiasData, str, PixelClassifier]:
    """Training images, images to measure on and which these are, and the classifier."""
    from augment_synth.debias_data import load_data
    from workbench.classifiers import load_classifier
    from workbench.datasets import available_splits
    from workbench.devices import choose_device

    classifier = load_classifier(config.classifier, choose_device(config.device))
    size = parse_size(config.resolution) if config.resolution else classifier.preprocessing.size
    if size is None:
        raise UserError(f"{config.classifier} takes images of any size; say at which to edit them with --resolution")
    splits = available_splits(config.data)
    split = next((name for name in ("test", "validation") if name in splits), "train")
    data = load_data(config.data, "train", size, config.caption_column, config.group_column)
    test = data
    if split != "train":
        known = data.attribute_names
        test = load_data(config.data, split, size, config.caption_column, config.group_column, known)
    measured_on = f"the {split} split" + (", which was trained on: these figures flatter" if split == "train" else "")
    return data, test, measured_on, classifier


def open_folder(config: DebiasConfig) -> None:
    """Make or reopen the output folder. Raises UserError when it holds other settings, or something else.

    A changed veto is no other run: what comes before it is kept, and what comes after it is made again.
    """
    from workbench.files import make_folder, user_errors_for_disk, write_atomic

    path = config.output / SETTINGS
    settings = {key: value for key, value in to_mapping(config).items() if key not in FREE}
    if config.overwrite and path.exists():
        _forget(config.output, OUR_FOLDERS, OUR_FILES)
    elif path.exists():
        stored = yaml.safe_load(path.read_text()) or {}
        changed = {key for key in settings if stored.get(key) != settings[key]}
        if changed - LATE:
            raise UserError(
                f"{config.output} holds a run with another {', '.join(sorted(changed - LATE))}; give the same "
                "settings, another --output, or --overwrite to start anew"
            )
        if changed:
            _forget(config.output, OUR_FOLDERS[1:], OUR_FILES)
    elif config.output.is_dir() and any(config.output.iterdir()):
        raise UserError(f"{config.output} holds files that are not of workbench debias; choose another --output")
    with user_errors_for_disk(config.output):
        make_folder(config.output)
        write_atomic(path, yaml.safe_dump(settings, sort_keys=False))


def _forget(output: Path, folders: Sequence[str], files: Sequence[str]) -> None:
    """Remove an earlier run's results, and nothing that a person has put beside them."""
    for name in folders:
        shutil.rmtree(output / name, ignore_errors=True)
    for name in files:
        (output / name).unlink(missing_ok=True)


def _write_json(path: Path, content: Any) -> None:
    from workbench.files import write_atomic

    write_atomic(path, json.dumps(content, indent=1, default=str) + "\n")
