"""Methods of more than one training: each stage is a run of its own inside the folder, and is not trained twice."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from augment_synth.groups import GroupedImages
from augment_synth.robust_config import RobustConfig
from augment_synth.robust_recipe import RobustRecipe, publish
from workbench.classifiers import load_classifier
from workbench.config import to_mapping
from workbench.devices import choose_device
from workbench.errors import UserError
from workbench.files import user_errors_for_disk
from workbench.launch import command_line, processes_asked, versions
from workbench.pixel_classifier import PixelClassifier
from workbench.run_folder import RunFolder
from workbench.training import Training

Made = tuple[PixelClassifier, Mapping[str, Any]]


def trained(recipe: RobustRecipe) -> PixelClassifier:
    """The result of a recipe: trained now, or found finished in its folder."""
    run = Training(recipe)
    if recipe.config.overwrite or not run.folder.finished(recipe.config.max_train_steps):
        run.train()
    return load_classifier(str(run.folder.result), choose_device(recipe.config.device))


def in_stages(
    method: str,
    config: RobustConfig,
    train: GroupedImages,
    validation: GroupedImages | None,
    make: Callable[[], Made],
) -> Path:
    """Let `make` run the stages inside the folder, and publish the classifier it returns with what it says of it."""
    if (processes_asked() or 1) > 1:
        raise UserError(f"{method} trains in stages, in one process: start it without accelerate launch")
    folder = RunFolder(config.output_dir, RobustRecipe.result)
    settings = {"recipe": method, **to_mapping(config)}
    with user_errors_for_disk(folder.path):
        folder.check(settings, config.overwrite)
        folder.open(settings, config.overwrite)
        classifier, facts = make()
        record = {
            "command": command_line(), "versions": versions(), "settings": settings, "method": method, **facts,
        }  # fmt: skip
        folder.publish(config.max_train_steps, lambda place: publish(classifier, place, record, train, validation))
    return folder.result
