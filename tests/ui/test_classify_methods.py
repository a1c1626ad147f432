"""`workbench classify train --method`: with groups, with synthetic images, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from ui.cli import main
from workbench.records import DatasetWriter

NAMES = ("left", "right")
BRIEF = ("--device", "cpu", "--resolution", "8x12", "--max-train-steps", "2", "--train-batch-size", "8", "--width", "4")


def run(*words: str) -> int:
    """Exit code of the command."""
    try:
        main(["classify", "train", *words, *BRIEF])
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def write_set(folder: Path, splits: dict[str, int], seed: int = 0) -> str:
    """Noise in two classes and two places."""
    writer = DatasetWriter(folder, NAMES, {"seed": seed})
    for split, count in splits.items():
        writer.missing_shards(count, split)
        images = torch.randint(0, 255, (count, 3, 8, 12), generator=torch.Generator().manual_seed(seed)).byte()
        rows = [{"label": k % 2, "place": ("top", "bottom")[k // 2 % 2], "source": "real"} for k in range(count)]
        writer.write_shard(0, images, rows, split)
    return str(writer.finish())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_set(tmp_path_factory.mktemp("grouped") / "data", {"train": 24, "test": 8})


def test_a_method_with_groups(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    assert run("--data", data, "--method", "group-dro", "--group-column", "place", "--output", str(output)) == 0
    said = capsys.readouterr().out
    assert "left, top (2 images)" in said
    figures = json.loads((output / "classifier" / "config.json").read_text())
    assert figures["method"] == "group-dro"
    assert [row["train_n"] for row in figures["groups"]["groups"]] == [6] * 4


def test_extra_data_count_as_synthetic(data: str, tmp_path: Path) -> None:
    extra = write_set(tmp_path / "extra", {"train": 10}, seed=1)
    words = ("--data", data, "--extra-data", extra, "--method", "group-dro", "--group-column", "place")
    assert run(*words, "--output", str(tmp_path / "groups")) == 0
    assert run(*words[:6], "--output", str(tmp_path / "none")) == 2  # group-dro without groups
    assert run("--data", data, "--extra-data", extra, "--method", "mixup", "--output", str(tmp_path / "mixup")) == 0
    figures = json.loads((tmp_path / "mixup" / "classifier" / "config.json").read_text())
    assert [row["group"] for row in figures["groups"]["groups"]] == list(NAMES)


def test_without_a_method_it_is_the_training_it_was(data: str, tmp_path: Path) -> None:
    assert run("--data", data, "--output", str(tmp_path / "run")) == 0
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["recipe"] == "classify"
    assert not {"method", "group_column", "synthetic_share"} & set(settings)


def test_what_it_refuses(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert run(*words, "--output", str(tmp_path / "run")) == 2
        return capsys.readouterr().err

    assert "--group-column" in refused("--data", data, "--group-column", "place")
    assert "--dry-run" in refused("--data", data, "--method", "erm", "--dry-run")
    assert "no column 'sky'" in refused("--data", data, "--method", "erm", "--group-column", "sky")
    alone = write_set(tmp_path / "alone", {"train": 8})
    assert "no test or validation split" in refused("--data", alone, "--method", "erm", "--group-column", "place")
    named = ("--method", "erm", "--group-column", "place", "--classes", "left", "right")
    assert "leave out --classes" in refused("--data", data, *named)
    assert not (tmp_path / "run").exists()
