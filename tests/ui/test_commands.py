"""The small commands: exit codes, what they print, what they leave."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest

from ui.cli import main
from workbench import feature_network
from workbench.classifiers import PixelClassifier, build_classifier, save_classifier
from workbench.dataset_format import read_dataset_info
from workbench.feature_training import FeatureSettings
from workbench.records import DatasetWriter


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Forty gray images of 12x8 in two classes."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 12, 8), dtype=np.uint8)
    writer = DatasetWriter(tmp_path / "data", ("a", "b"), {"seed": 0})
    writer.write_shard(0, list(pixels), [{"label": k % 2, "source": "generated", "seed": k} for k in range(40)])
    return writer.finish(seed=0)


def code_of(*words: str) -> int:
    """Exit code of a command."""
    try:
        main(list(words))
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_verify_tells_good_from_damaged(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("verify", str(dataset)) == 0
    assert "all good" in capsys.readouterr().out
    (dataset / "train" / "0000" / "000003.png").write_bytes(b"no picture")
    assert code_of("verify", str(dataset)) == 1
    assert "000003.png" in capsys.readouterr().out


def test_mistakes_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("verify", str(tmp_path / "nowhere")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_export_and_back(dataset: Path, tmp_path: Path) -> None:
    other, back = tmp_path / "parquet", tmp_path / "back"
    assert code_of("export", str(dataset), "--format", "parquet", "--output", str(other)) == 0
    assert code_of("export", str(other), "--format", "folder", "--output", str(back)) == 0
    assert (back / "train" / "metadata.jsonl").read_bytes() == (dataset / "train" / "metadata.jsonl").read_bytes()
    assert code_of("export", str(dataset), "--format", "folder", "--output", str(back)) == 2
    assert code_of("export", str(dataset), "--format", "folder", "--output", str(back), "--overwrite") == 0


def test_datasheet_writes_the_card(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(feature_network, "FeatureSettings", functools.partial(FeatureSettings, max_train_steps=2))
    assert code_of("datasheet", str(dataset), "--reference", str(dataset), "--device", "cpu", "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["figures"]["n"] == 40
    assert result["size"] == [12, 8]
    measured = read_dataset_info(dataset)["card"]["measured"]
    assert any(name.startswith("precision") for name in measured)
    assert "precision" in (dataset / "README.md").read_text()
    assert code_of("datasheet", str(dataset), "--reference", str(dataset)) == 2  # measured already
    assert code_of("verify", str(dataset)) == 0


def test_classify_eval(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = build_classifier("convnet", 2, 1, (12, 8), width=4, depth=2)
    classifier = PixelClassifier.wrap(network, mean=0.5, std=0.25, class_names=("a", "b"), size=(12, 8))
    folder = save_classifier(classifier, tmp_path / "classifier", {})
    words = ("classify", "eval", "--classifier", str(folder), "--data", str(dataset), "--device", "cpu", "--json")
    assert code_of(*words, "--output", str(tmp_path / "figures.json")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 40
    assert np.sum(figures["confusion"]) == 40
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert code_of(*words, "--output", str(tmp_path / "figures.json")) == 2
