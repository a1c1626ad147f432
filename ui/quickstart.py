"""The main job: real images in; a generator, a measured synthetic data set and a report out.

`quickstart` below reads top to bottom as what is done. Each stage leaves a folder that says that it is complete, so
that a second call goes on where the first one stopped, or says that all is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ui.clock import Clock
from ui.quickstart_config import PATCH, QuickstartConfig
from workbench.command import parse, polite
from workbench.config import parse_size, to_mapping
from workbench.errors import UserError

OUR_FOLDERS = ("generator", "dataset", "dataset.partial", "classifiers")
OUR_FILES = ("report.html", "fidelity.json", "seconds.json", "quickstart.yaml")
FREE = {"overwrite", "device", "output"}  # settings that change no result


def main(arguments: Sequence[str] | None = None, program: str = "workbench quickstart") -> None:
    """Read the settings and do the main job; exits with 2 after a mistake, 130 or 143 when stopped."""
    with polite():
        report = quickstart(parse(QuickstartConfig, arguments, program))
        print(f"\nDone. Open the report: {report}")


def quickstart(config: QuickstartConfig) -> Path:
    """Do all stages that are not done yet; returns the report's path.

    Raises UserError when the output folder holds something else, or the data cannot be used.
    """
    config.check()
    _open(config)
    report = config.output / "report.html"
    if report.exists():
        print(f"{config.output} is complete; nothing to do (--overwrite starts anew)")
        return report

    _check_data(config)
    clock = Clock(config.output / "seconds.json")
    if config.source == "train":
        with clock.stage("1 of 5", f"train a generator on {config.data}"):
            generator = train_generator(config)
    else:
        with clock.stage("1 of 5", f"take the generator {config.source}"):
            generator = take_generator(config)
    with clock.stage("2 of 5", "generate a data set"):
        dataset = generate(config, generator)
    with clock.stage("3 of 5", "measure it against real images"):
        measured = measure(config, dataset)
    with clock.stage("4 of 5", "train classifiers on real, on generated, and on both"):
        accuracies = compare_classifiers(config, dataset)
    with clock.stage("5 of 5", "write the report"):
        from ui.quickstart_report import write_report

        return write_report(config, generator, dataset, measured, accuracies, clock.seconds)


# ---- the stages ---------------------------------------------------------------------------------------------------


def take_generator(config: QuickstartConfig) -> str:
    """The trained generator that the settings name. Raises UserError unless it makes the data's classes."""
    from gen.loading import load_generator
    from workbench.datasets import open_split

    made, wanted = load_generator(config.source).label_names, open_split(config.data).label_names
    if tuple(made) != tuple(wanted):
        raise UserError(
            f"{config.source} makes {', '.join(made) or 'images without labels'}, and {config.data} has "
            f"{', '.join(wanted) or 'none'}; give --generator train"
        )
    return config.source


def train_generator(config: QuickstartConfig) -> str:
    """Train the RPE-2D generator; returns its run's folder."""
    from gen.rpe2d.config import RPE2DConfig
    from gen.rpe2d.recipe import RPE2DRecipe

    run = config.output / "generator"
    settings = RPE2DConfig(
        data=config.data, output_dir=run, resolution=config.resolution, max_train_steps=config.max_train_steps,
        train_batch_size=config.train_batch_size, max_positions=config.max_positions, learning_rate=2e-3,
        checkpointing_steps=200, checkpoints_total_limit=1, validation_steps=config.max_train_steps,
        patch_size=PATCH, num_layers=4, optimizer="muon", ema_decay=0.995, seed=config.seed, device=config.device,
    )  # fmt: skip
    _train(RPE2DRecipe, settings)
    return str(run / "pipeline")


def generate(config: QuickstartConfig, generator: str) -> Path:
    """Sample the generator at all sizes; returns the data set's folder."""
    from gen.sample import sample
    from gen.sampling_config import SampleConfig

    settings = SampleConfig(
        pipeline=generator, output=config.output / "dataset", num_images=config.num_images,
        size=config.size, guidance_scale=config.guidance_scale, num_inference_steps=config.num_inference_steps,
        shard_size=500, seed=config.seed, device=config.device,
    )  # fmt: skip
    return sample(settings)[0]


def measure(config: QuickstartConfig, dataset: Path) -> list[dict[str, Any]]:
    """Compare each size with real images; the figures also go into the data set's card."""
    from ui.datasheet import card_figures, measure_against
    from workbench.datasets import load_images
    from workbench.datasheet import update_card
    from workbench.files import write_atomic

    path = config.output / "fidelity.json"
    if not path.exists():
        results = measure_against(load_images(dataset), config.data, seed=config.seed, device=config.device)
        update_card(dataset, measured=card_figures(results))
        found = [{**result.to_dict(), "caption": result.caption, "rows": result.rows()} for result in results]
        write_atomic(path, json.dumps(found))
    return json.loads(path.read_text())


def compare_classifiers(config: QuickstartConfig, dataset: Path) -> dict[str, list[float]]:
    """Accuracy on real test images of classifiers trained on real, on generated, and on both; one for each seed."""
    sources: dict[str, dict[str, Any]] = {
        "real": {"data": config.data},
        "generated": {"data": str(dataset), "test_data": config.data},
        "real and generated": {"data": config.data, "extra_data": str(dataset)},
    }
    return {
        name: [_classifier_accuracy(config, name, source, config.seed + k) for k in range(config.classifier_seeds)]
        for name, source in sources.items()
    }


def _classifier_accuracy(config: QuickstartConfig, name: str, source: dict[str, Any], seed: int) -> float:
    from workbench.classification import ClassifierRecipe
    from workbench.classification_config import ClassifyTrainConfig

    run = config.output / "classifiers" / f"{name.replace(' ', '-')}-{seed}"
    settings = ClassifyTrainConfig(
        **source, output_dir=run, resolution=config.resolution, max_train_steps=config.classifier_steps,
        width=config.classifier_width, learning_rate=5e-3, checkpoints_total_limit=1, seed=seed, device=config.device,
    )  # fmt: skip
    _train(ClassifierRecipe, settings)
    return float(json.loads((run / "classifier" / "config.json").read_text())["test"]["accuracy"])


def _check_data(config: QuickstartConfig) -> None:
    """Fail now rather than after the generator is trained: classifiers need two classes of two images."""
    from workbench.datasets import load_images, require_classes

    require_classes(load_images(config.data, "train", parse_size(config.resolution)))


def _train(recipe: Any, settings: Any) -> None:
    from workbench.run_folder import RunFolder
    from workbench.training import Training

    if not RunFolder(settings.output_dir, recipe.result).finished(settings.max_train_steps):
        Training(recipe(settings)).train()


def _forget(output: Path) -> None:
    """Remove an earlier quickstart's results, and nothing that a person has put beside them."""
    for name in OUR_FOLDERS:
        shutil.rmtree(output / name, ignore_errors=True)
    for name in OUR_FILES:
        (output / name).unlink(missing_ok=True)


def _open(config: QuickstartConfig) -> None:
    """Make or reopen the output folder. Raises UserError when it holds other settings, or something else."""
    from workbench.files import make_folder, user_errors_for_disk, write_atomic

    path = config.output / "quickstart.yaml"
    settings = {key: value for key, value in to_mapping(config).items() if key not in FREE}
    began_anew = config.overwrite and path.exists()
    if began_anew:
        _forget(config.output)
    if path.exists():
        stored = yaml.safe_load(path.read_text()) or {}
        changed = [key for key in settings if stored.get(key) != settings[key]]
        if changed:
            raise UserError(
                f"{config.output} holds a quickstart with another {', '.join(changed)}; give the same settings, "
                "another --output, or --overwrite to start anew"
            )
    elif not began_anew and config.output.is_dir() and any(config.output.iterdir()):
        raise UserError(f"{config.output} holds files that are not a quickstart; choose another --output")
    with user_errors_for_disk(config.output):
        make_folder(config.output)
        write_atomic(path, yaml.safe_dump(settings, sort_keys=False))
