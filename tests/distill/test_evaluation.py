"""The figures of a set: which there are, that they are kept, and that they say what they should."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_sets import real_subset, write_digits

from distill import evaluation
from distill.data import as_float, checksum, load_sources
from distill.distilled import Distilled
from distill.evaluation import as_table, evaluate
from distill.evaluation_config import EvaluateConfig, TrainingRecipe
from distill.export import export_distilled
from distill.ledger import summary
from distill.preprocess import Standard
from distill.product import Origin
from workbench.errors import UserError

RECIPE = TrainingRecipe(epochs=12, augmentation="crop_scale")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of six real images of the digits on disk, as a product."""
    data = write_digits(tmp_path / "digits")
    sources = load_sources(str(data))
    made = real_subset(2)
    fitted = replace(made, transform=Standard.fit(as_float(sources.train)))
    export_distilled(fitted, RECIPE, Origin(str(data), checksum(sources.train)), tmp_path / "set")
    return tmp_path / "set"


def asked(folder: Path, **changes: object) -> EvaluateConfig:
    settings = {"networks": ["convnet"], "num_networks": 2, "random_subsets": 2, "device": "cpu"}
    return EvaluateConfig(distilled=str(folder), **{**settings, **changes})


def test_all_figures(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    figures = evaluate(asked(folder, output=output, networks=["convnet", "alexnet"]))
    assert list(figures) == [
        "convnet",
        "convnet, without augmentation",
        "convnet, 8-bit copies",
        "convnet, 8-bit copies by a plain pipeline",
        "random real images, convnet",
        "convnet minus random real images",
        "alexnet",
    ]
    assert all(one["n"] == 2 and -1 < one["mean"] <= 1 for one in figures.values())
    gain = figures["convnet"]["mean"] - figures["random real images, convnet"]["mean"]
    assert figures["convnet minus random real images"]["mean"] == pytest.approx(gain)
    assert json.loads(output.read_text())["figures"] == figures
    assert not list(tmp_path.glob("*.partial"))
    assert as_table(figures).count("\n") == 6
    with pytest.raises(UserError, match=r"figures.json is there already; give --overwrite"):
        evaluate(asked(folder, output=output))


def test_what_was_measured_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, calls = tmp_path / "figures.json", []

    def counted(distilled: Distilled, *rest: object) -> list[float]:
        calls.append(rest[-1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [0.5, 0.7]

    monkeypatch.setattr(evaluation, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked(folder, output=output, random_subsets=0))
    figures = evaluate(asked(folder, output=output, random_subsets=0))
    assert len(calls) == 5
    assert len(figures) == 4
    assert figures["convnet"] == summary([0.5, 0.7])
    evaluate(asked(folder, output=output, random_subsets=0, seed=1, overwrite=True))
    assert len(calls) == 9  # another seed, all anew


def test_pictures_are_read_from_disk_and_lose_what_is_outside_the_range(folder: Path) -> None:
    figures = evaluate(asked(folder, random_subsets=0, num_networks=1))
    assert abs(figures["convnet, 8-bit copies"]["mean"] - figures["convnet"]["mean"]) < 0.05  # real images: all inside


def test_other_real_images_are_told(folder: Path, tmp_path: Path) -> None:
    first = next((tmp_path / "digits" / "train").rglob("*.png"))
    second = next(path for path in sorted((tmp_path / "digits" / "train").rglob("*.png")) if path != first)
    first.write_bytes(second.read_bytes())
    with pytest.raises(UserError, match="does not hold the images that the set was made from; give --data"):
        evaluate(asked(folder))
    assert evaluate(asked(folder, data=str(tmp_path / "digits"), random_subsets=0))


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"num_networks": 0}, "num-networks is 0"), ({"networks": []}, "names none"), ({"epochs": 0}, "epochs is 0")],
)
def test_impossible_settings_are_told(changes: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        evaluate(asked(tmp_path, **changes))
