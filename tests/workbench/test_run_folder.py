"""What a run's folder may hold, and how its result is published. (In a run: test_resume.py.)"""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from explain.train import CONFIGS as EXPLAINERS
from gen.train import CONFIGS as GENERATORS
from workbench.config import TrainingConfig, to_mapping
from workbench.errors import UserError
from workbench.run_folder import FREE, RunFolder

SETTINGS: dict[str, Any] = {"recipe": "toy", "lr_scheduler": "cosine", "max_train_steps": 10, "classes": ["a", "b"]}


def opened(path: Path, settings: dict[str, Any] = SETTINGS, overwrite: bool = False) -> RunFolder:
    folder = RunFolder(path, "result")
    folder.check(settings, overwrite)
    folder.open(settings, overwrite)
    return folder


def write(folder: Path) -> None:
    (folder / "weights").write_text("new")


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        folder = opened(tmp_path / "deep" / "run")
    assert folder.samples.is_dir()
    assert yaml.safe_load(folder.config.read_text()) == SETTINGS


def test_every_setting_reads_back_equal(tmp_path: Path) -> None:
    """What YAML stores is what the next start compares with."""
    settings = to_mapping(TrainingConfig(output_dir=tmp_path, classes=["no", "1", "ø"], adam_epsilon=1e-08))
    for _ in range(2):
        opened(tmp_path / "run", settings)


def test_free_settings_are_settings() -> None:
    assert {field.name for config in (GENERATORS | EXPLAINERS).values() for field in fields(config)} >= FREE


@given(st.sampled_from(["recipe", "classes"]))
def test_other_settings_are_named(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("run")
    opened(path)
    with pytest.raises(UserError, match=f"{name} was .* and is now 'other'; give the same settings to resume it"):
        opened(path, {**SETTINGS, name: "other"})


def test_only_dot_files_are_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("")
    opened(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_result_without_its_run_is_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "result").mkdir()
    with pytest.raises(UserError, match="holds files that are not a training run"):
        opened(tmp_path, overwrite=overwrite)


def test_publishing_replaces_the_result_and_marks_the_run(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    assert not folder.finished(10)
    (folder.result).mkdir()
    (folder.result / "old").write_text("")
    (tmp_path / "result.partial").mkdir()
    (tmp_path / "result.partial" / "half").write_text("")
    folder.publish(10, write)
    assert [p.name for p in folder.result.iterdir()] == ["weights"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "finished.json", "result", "samples"]
    assert folder.finished(10)
    assert folder.finished(9)
    assert not folder.finished(11)
    with pytest.raises(UserError, match=r"is finished, its result is .*result; give --overwrite"):
        opened(tmp_path)


def test_a_failed_publication_leaves_the_old_result(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.publish(10, write)

    def fail(partial: Path) -> None:
        (partial / "weights").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        folder.publish(20, fail)
    assert (folder.result / "weights").read_text() == "new"
    assert not folder.finished(20)


def test_overwrite_drops_all_but_the_result(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    folder.publish(10, write)
    folder.metrics.write_text("{}")
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    opened(tmp_path, {**SETTINGS, "recipe": "other"}, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "result", "samples"]
    assert yaml.safe_load(folder.config.read_text())["recipe"] == "other"
    assert (folder.result / "weights").read_text() == "new"
