"""The main job, end to end at a tiny size: what it leaves, resumes and refuses."""

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ui import quickstart as job
from ui.quickstart import quickstart, train_generator
from ui.quickstart_config import QuickstartConfig
from ui.run import config_of
from workbench import feature_network
from workbench.dataset_format import read_dataset_info
from workbench.errors import UserError
from workbench.feature_training import FeatureSettings
from workbench.verify import verify


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twelve 20x16 images: bright above, bright below."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    for number in range(24):
        picture = pixels.integers(0, 80, (20, 16, 3), dtype=np.uint8)
        below = number % 2
        picture[10 * below : 10 * below + 10] += 150
        folder = root / ("below" if below else "above")
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return root


@pytest.fixture
def config(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QuickstartConfig:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(feature_network, "FeatureSettings", functools.partial(FeatureSettings, max_train_steps=3))
    return QuickstartConfig(
        data=str(images), output=tmp_path / "out", resolution="16", size=["16", "24x16"], num_images=12,
        max_train_steps=3, train_batch_size=4, num_inference_steps=2, classifier_steps=3, classifier_width=4,
        classifier_seeds=2, device="cpu",
    )  # fmt: skip


def test_main_job(config: QuickstartConfig, capsys: pytest.CaptureFixture[str]) -> None:
    report = quickstart(config)
    text = report.read_text()
    assert report == config.output / "report.html"
    assert not re.search(r"(?:src|href)=.https?:", text)  # self-contained
    assert "24x16" in text
    assert "above" in text

    found = verify(config.output / "dataset")
    assert found.ok
    assert found.num_images == 12
    card = (config.output / "dataset" / "README.md").read_text()
    assert "class agreement, 24x16" in card or "class agreement" in card
    assert (config.output / "generator" / "pipeline" / "model_index.json").exists()
    assert len(list((config.output / "classifiers").iterdir())) == 6
    assert set(json.loads((config.output / "seconds.json").read_text())) >= {"generate a data set"}

    before = report.stat().st_mtime_ns
    capsys.readouterr()
    assert quickstart(config) == report
    assert "is complete; nothing to do" in capsys.readouterr().out
    assert report.stat().st_mtime_ns == before


def test_a_trained_generator_is_taken_where_it_makes_the_classes(
    config: QuickstartConfig, images: Path, tmp_path: Path
) -> None:
    train_generator(config)
    taking = replace(config, output=tmp_path / "second", generator=str(config.output / "generator"))
    text = quickstart(taking).read_text()
    assert "was trained before" in text
    assert not (taking.output / "generator").exists()
    assert read_dataset_info(taking.output / "dataset")["config"]["pipeline"] == taking.generator
    (images / "above").rename(images / "over")
    try:
        with pytest.raises(UserError, match=r"makes above, below, and .* has below, over; give --generator train"):
            quickstart(replace(taking, output=tmp_path / "third"))
    finally:
        (images / "over").rename(images / "above")


def test_fashion_mnist_has_a_generator_in_the_zoo() -> None:
    assert QuickstartConfig().source == QuickstartConfig(data="fashion-mnist").source == "zoo:fashion-rpe2d"
    assert QuickstartConfig(generator="train").source == QuickstartConfig(data="path/to/images").source == "train"


def test_interrupted_job_goes_on(config: QuickstartConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*rest: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quickstart(config)
    trained = (config.output / "generator" / "finished.json").stat().st_mtime_ns
    made = (config.output / "dataset" / "dataset.json").stat().st_ino
    assert quickstart(config).exists()
    assert (config.output / "generator" / "finished.json").stat().st_mtime_ns == trained
    assert verify(config.output / "dataset").ok
    assert made


def test_other_settings_are_refused_by_name(config: QuickstartConfig) -> None:
    config.output.mkdir()
    (config.output / "quickstart.yaml").write_text(yaml.safe_dump({"data": "other"}))
    with pytest.raises(UserError, match="another data"):
        quickstart(config)


def test_foreign_folders_are_left_alone(config: QuickstartConfig) -> None:
    config.output.mkdir()
    (config.output / "thesis.txt").write_text("three years")
    config.overwrite = True
    with pytest.raises(UserError, match="not a quickstart"):
        quickstart(config)
    assert (config.output / "thesis.txt").read_text() == "three years"


def test_one_class_fails_before_any_training(config: QuickstartConfig, images: Path, tmp_path: Path) -> None:
    config.data = str(images / "above")
    with pytest.raises(UserError):
        quickstart(config)
    assert not (config.output / "generator").exists()


@pytest.mark.parametrize("size", ["30", "68", "64x80", "0", "a"])
def test_impossible_sizes_fail_at_once(size: str) -> None:
    with pytest.raises(UserError):
        QuickstartConfig(size=[size], generator="train").check()


def test_recipe_file_of_the_job(tmp_path: Path) -> None:
    made = config_of({"recipe": "quickstart", "data": "fashion-mnist:extract", "output": "x", "num-images": 5})
    assert made == QuickstartConfig(output=Path("x"), num_images=5)
    with pytest.raises(UserError, match="did you mean 'num_images'"):
        config_of({"recipe": "quickstart", "num_image": 5})
    with pytest.raises(UserError, match="recipe is 'quick'"):
        config_of({"recipe": "quick"})


def test_overwrite_starts_anew_and_spares_what_is_not_ours(config: QuickstartConfig) -> None:
    first = quickstart(config).stat().st_mtime_ns
    (config.output / "thesis.txt").write_text("three years")
    config.overwrite, config.seed = True, 1
    report = quickstart(config)
    assert report.stat().st_mtime_ns > first
    assert (config.output / "thesis.txt").read_text() == "three years"
    assert yaml.safe_load((config.output / "quickstart.yaml").read_text())["seed"] == 1
