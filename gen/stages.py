"""Recipes that are several recipes in a row, each a run in a folder of its own."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from workbench.config import TrainingConfig, to_mapping
from workbench.run_folder import RunFolder

Config = TypeVar("Config", bound=TrainingConfig)
NOT_HANDED_DOWN = {"output_dir", "dry_run", "max_train_steps"}


class Stage(NamedTuple):
    """A recipe's settings, and the name of its result's folder."""

    config: TrainingConfig
    result: str

    @property
    def run(self) -> RunFolder:
        """Where it is trained."""
        return RunFolder(Path(self.config.output_dir), self.result)


def stage_config(config: TrainingConfig, kind: type[Config], folder: str, steps: int | None, **settings: Any) -> Config:
    """A stage's settings: those of the whole that it knows too and that are given, and `settings` of its own."""
    known = {f.name for f in fields(kind)} & {f.name for f in fields(config)}
    given = {name: getattr(config, name) for name in known - NOT_HANDED_DOWN if getattr(config, name) is not None}
    own = {"output_dir": config.output_dir / folder, "max_train_steps": steps or config.max_train_steps}
    return kind(**{**given, **own, **settings})


def train_stages(
    name: str,
    config: TrainingConfig,
    stages: Sequence[Stage],
    train: Callable[[TrainingConfig], None],
    publish: Callable[[Path], object],
) -> None:
    """Train each stage that is not finished; then let `publish` fill the folder of the whole recipe's result."""
    for stage in stages:
        stage.config.check()
    if config.dry_run:
        print(yaml.safe_dump_all([to_mapping(stage.config) for stage in stages], sort_keys=False), end="")
        return
    folder = RunFolder(Path(config.output_dir), "pipeline")
    with _processes(config) as main:
        if main:
            _open(name, config, folder, stages)
        for stage in stages:
            if config.overwrite or not stage.run.finished(stage.config.max_train_steps):
                train(stage.config)
        if main:
            folder.publish(config.max_train_steps, publish)
            print(f"All stages are done. The pipeline is in {folder.result}")


@contextmanager
def _processes(config: TrainingConfig) -> Iterator[bool]:
    """Keep the processes together from stage to stage, since they can meet only once; says whether this one is main."""
    from accelerate import PartialState

    from workbench.devices import choose_device
    from workbench.training import PATIENCE

    state = PartialState(cpu=choose_device(config.device).type == "cpu", timeout=PATIENCE)
    try:
        yield state.is_main_process
    finally:
        state.destroy_process_group()


def _open(name: str, config: TrainingConfig, folder: RunFolder, stages: Sequence[Stage]) -> None:
    """Make or reopen the folder of the whole; anew, it begins without any stage's run."""
    settings = {"recipe": name, **to_mapping(config)}
    folder.check(settings, config.overwrite)
    folder.open(settings, config.overwrite)
    if config.overwrite:
        for stage in stages:
            shutil.rmtree(stage.config.output_dir, ignore_errors=True)
