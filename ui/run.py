"""`workbench run`: the job that a YAML file describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
import yaml

from ui.distill_config import DistillConfig
from ui.quickstart_config import QuickstartConfig
from ui.train import CONFIGS, train
from workbench.classification_config import ClassifyTrainConfig
from workbench.command import parse, polite
from workbench.config import from_mapping
from workbench.errors import UserError

RECIPES: dict[str, type] = {
    "quickstart": QuickstartConfig,
    "classify": ClassifyTrainConfig,
    "distill": DistillConfig,
    **CONFIGS,
}
DERIVED = ("global_batch_size",)  # written into a run's config.yaml, but no setting


@dataclass
class RunConfig:
    """Do what a recipe file says: the main job on your data, or a training run from its config.yaml.

    workbench run configs/quickstart.yaml
    workbench run runs/fashion/config.yaml

    Its `recipe` is quickstart, classify, distill, or one that `workbench train` knows; its other entries are that
    command's options.
    """

    recipe: tyro.conf.Positional[Path]
    """The YAML file."""
    overwrite: bool = False
    """Start anew where its output folder already holds results."""


def main(arguments: Sequence[str] | None = None, program: str = "workbench run") -> None:
    """Read the file and do its job; exits with 2 after a mistake."""
    with polite():
        config = parse(RunConfig, arguments, program)
        job = config_of(_read(config.recipe))
        job.overwrite = config.overwrite
        _do(job)


def config_of(values: Any) -> Any:
    """The settings of a job from a YAML mapping. Raises UserError for an unknown recipe or setting."""
    if not isinstance(values, Mapping) or values.get("recipe") not in RECIPES:
        named = values.get("recipe") if isinstance(values, Mapping) else None
        raise UserError(f"the file's recipe is {named!r}; write `recipe:` and one of {', '.join(RECIPES)}")
    kind = RECIPES[values["recipe"]]
    settings = {key: value for key, value in values.items() if key not in ("recipe", *DERIVED)}
    for folder in ("output", "output_dir"):
        if folder in settings:
            settings[folder] = Path(settings[folder])
    return from_mapping(kind, settings)


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {str(error).splitlines()[0]}; mend or replace it") from error


def _do(job: Any) -> None:
    if isinstance(job, QuickstartConfig):
        from ui.quickstart import quickstart

        print(f"\nDone. Open the report: {quickstart(job)}")
    elif isinstance(job, ClassifyTrainConfig):
        from ui.classify import train as train_classifier

        train_classifier(job)
    elif isinstance(job, DistillConfig):
        from ui.distill import run as distill

        distill(job)
    else:
        train(job)
