"""Training a classifier on a folder of images, and measuring any classifier."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from workbench.classification import ClassifierRecipe, evaluate, moved, predict, training_and_test
from workbench.classification_config import ClassifyTrainConfig
from workbench.classifiers import PixelClassifier, load_classifier
from workbench.datasets import LabelledImages, load_images
from workbench.errors import UserError
from workbench.metrics_log import read_metrics
from workbench.training import Training

SIZE = (12, 16)
NAMES = ("left", "right", "upper")


def picture(name: str, random: np.random.Generator) -> np.ndarray:
    """Noise with one bright half, which is the class."""
    pixels = random.integers(0, 90, (*SIZE, 3), dtype=np.uint8)
    halves: dict[str, Any] = {"left": np.s_[:, :8], "right": np.s_[:, 8:], "upper": np.s_[:6]}
    pixels[halves[name]] += 150
    return pixels


def make_folder(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """`counts` images of each class, in a folder of its name."""
    random = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(picture(name, random)).save(root / name / f"{k:03d}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("halves")
    make_folder(root / "train", dict.fromkeys(NAMES, 24))
    make_folder(root / "test", dict.fromkeys(NAMES, 8), seed=1)
    return root


def config(data: Path, output: Path, **changes: Any) -> ClassifyTrainConfig:
    settings: dict[str, Any] = {
        "data": str(data), "output_dir": output, "resolution": "12x16", "max_train_steps": 30, "train_batch_size": 16,
        "width": 8, "random_shift": 1, "lr_warmup_steps": 0, "learning_rate": 1e-2, "ema_decay": 0.9, "device": "cpu",
        "mixed_precision": "no", "logging_steps": 10,
    }  # fmt: skip
    return ClassifyTrainConfig(**settings | changes)


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    Training(ClassifierRecipe(config(folder, run, validation_steps=15))).train()
    return run


def test_it_learns(trained: Path, folder: Path) -> None:
    stored = json.loads((trained / "classifier" / "config.json").read_text())
    assert stored["test"]["accuracy"] > 0.95
    assert stored["test"]["images"] == 24
    assert stored["label_names"] == list(NAMES)
    assert stored["resolution"] == [12, 16]
    assert stored["settings"]["width"] == 8
    validated = [row for row in read_metrics(trained / "metrics.jsonl") if "test_accuracy" in row]
    assert [(row["step"], row["test_images"]) for row in validated] == [(15, 24), (30, 24)]
    assert read_metrics(trained / "metrics.jsonl")[-2]["train_accuracy"] > 0.9


@pytest.mark.parametrize("place", [".", "classifier"])
def test_the_result_loads_by_its_folder_or_its_runs(trained: Path, folder: Path, place: str) -> None:
    classifier = load_classifier(trained / place)
    assert not classifier.training
    figures = evaluate(classifier, load_images(folder, "test", SIZE))
    assert figures == json.loads((trained / "classifier" / "config.json").read_text())["test"]


def test_resnet_trains_too(folder: Path, tmp_path: Path) -> None:
    recipe = ClassifierRecipe(config(folder, tmp_path / "run", network="resnet18", max_train_steps=1))
    Training(recipe).train()
    assert load_classifier(tmp_path / "run").label_names == NAMES


def test_equal_seeds_begin_equal(folder: Path, tmp_path: Path) -> None:
    first, same, other = (
        ClassifierRecipe(config(folder, tmp_path, seed=seed)).model.state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_normalisation_is_that_of_the_data(folder: Path, tmp_path: Path) -> None:
    recipe = ClassifierRecipe(config(folder, tmp_path))
    pixels = load_images(folder, "train", SIZE).images
    assert isinstance(pixels, Tensor)
    model = recipe.model
    assert isinstance(model, PixelClassifier)
    normalised = (pixels.float() / 255 - model.mean) / model.std
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_switches_of_the_movement(folder: Path, tmp_path: Path) -> None:
    def drawn(**changes: Any) -> dict[str, Tensor]:
        return ClassifierRecipe(config(folder, tmp_path, **changes)).draw(500, torch.Generator().manual_seed(0), 1)

    still = drawn(random_shift=0)
    assert not still["shift"].any()
    assert not still["flip"].any()
    lively = drawn(random_shift=2, random_flip=True)
    assert sorted(lively["shift"].unique().tolist()) == [-2, -1, 0, 1, 2]
    assert 200 < lively["flip"].sum() < 300


# ---- which images ----------------------------------------------------------------------------------------------------


def test_without_a_test_split_a_tenth_is_held_out(folder: Path, tmp_path: Path) -> None:
    data = folder / "train"
    train, test = training_and_test(config(data, tmp_path))
    assert (len(train), len(test)) == (65, 7)
    assert train.file_names is not None
    assert test.file_names is not None
    assert sorted(train.file_names + test.file_names) == sorted(load_images(data).file_names or ())
    assert training_and_test(config(data, tmp_path))[1].file_names == test.file_names
    assert training_and_test(config(data, tmp_path, seed=1))[1].file_names != test.file_names


def test_other_sets_are_matched_by_class_name(folder: Path, tmp_path: Path) -> None:
    """The others count the classes otherwise, and have one more."""
    first = make_folder(tmp_path / "first", {"left": 9, "right": 9})
    other = make_folder(tmp_path / "other", {"right": 3, "upper": 5, "left": 4}, seed=2)
    (other / "left").rename(other / "zz")
    (other / "metadata.jsonl").write_text("".join(
        json.dumps({"file_name": f"{name}/{k:03d}.png", "label_name": "left" if name == "zz" else name}) + "\n"
        for name, count in {"upper": 5, "right": 3, "zz": 4}.items() for k in range(count)
    ))  # fmt: skip
    train, test = training_and_test(config(first, tmp_path, extra_data=str(other), test_data=str(other)))
    for data, counts in ((train, [13, 12]), (test, [4, 3])):
        assert data.label_names == ("left", "right")
        assert data.labels.bincount().tolist() == counts
        assert isinstance(data.images, Tensor)
        bright = data.images.float().mean((1, 2))
        assert torch.equal(bright[:, :8].mean(1) < bright[:, 8:].mean(1), data.labels == 1)


def test_extra_images_stay_out_of_the_test_set(folder: Path, tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"left": 10, "right": 10})
    train, test = training_and_test(config(data, tmp_path, extra_data=str(folder)))
    assert (len(train), len(test)) == (18 + 48, 2)


def test_gray_and_colour_together(tmp_path: Path) -> None:
    gray = make_folder(tmp_path / "gray", {"left": 4, "right": 4})
    for path in gray.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    colour = make_folder(tmp_path / "colour", {"left": 4, "right": 4})
    assert training_and_test(config(gray, tmp_path, extra_data=str(colour)))[0].channels == 1
    assert training_and_test(config(colour, tmp_path, extra_data=str(gray)))[0].channels == 3


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"left": 5}, r"has 1 class \(left\).* at least 2 are needed"),
        ({"left": 5, "right": 1}, r"too few images of right \(1\): add some, to 2 or more"),
    ],
)
def test_too_few_to_train_on(tmp_path: Path, counts: dict[str, int], told: str) -> None:
    data = make_folder(tmp_path / "data", counts)
    with pytest.raises(UserError, match=told):
        ClassifierRecipe(config(data, tmp_path / "run"))


def test_unlabelled_images_cannot_be_learnt(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", {"left": 5})
    for path in (data / "left").iterdir():
        path.rename(data / path.name)
    (data / "left").rmdir()
    with pytest.raises(UserError, match=r"5 of 5 images .* have no label: put each class in a folder of its name"):
        ClassifierRecipe(config(data, tmp_path / "run"))


# ---- movement --------------------------------------------------------------------------------------------------------


def clipped(place: int, length: int) -> int:
    return min(max(place, 0), length - 1)


def moved_slowly(image: Tensor, down: int, right: int, flip: bool) -> Tensor:
    """Pixel by pixel: where each comes from."""
    _, height, width = image.shape
    result = torch.empty_like(image)
    for row in range(height):
        for column in range(width):
            across = width - 1 - column if flip else column
            result[:, row, column] = image[
                :, min(max(row - down, 0), height - 1), min(max(across - right, 0), width - 1)
            ]
    return result


@given(height=st.integers(1, 5), width=st.integers(1, 5), channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_moving_pixel_by_pixel(height: int, width: int, channels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (6, channels, height, width), generator=generator).byte()
    shift = torch.randint(-3, 4, (6, 2), generator=generator)
    flip = torch.rand(6, generator=generator) < 0.5
    rows = zip(images, shift.tolist(), flip.tolist(), strict=True)
    expected = torch.stack([moved_slowly(image, down, right, mirrored) for image, (down, right), mirrored in rows])
    assert torch.equal(moved(images, shift, flip), expected)


def test_moving_is_down_and_right() -> None:
    images = torch.zeros(2, 1, 3, 4, dtype=torch.uint8)
    images[:, 0, 1, 1] = 9
    result = moved(images, torch.tensor([[1, 2], [1, 2]]), torch.tensor([False, True]))
    assert result.nonzero().tolist() == [[0, 0, 2, 3], [1, 0, 2, 0]]


# ---- measuring -------------------------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Predicts the class that the first pixel names."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs, self.weight = outputs, nn.Parameter(torch.ones(()))

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        chosen = (pixels[:, 0, 0, 0] * 255).round().long()
        return self.weight * nn.functional.one_hot(chosen, self.outputs).float()


def oracle(names: Sequence[str] | None, outputs: int = 3) -> PixelClassifier:
    return PixelClassifier.wrap(Oracle(outputs), mean=0.0, std=1.0, class_names=names)


def labelled(truth: Sequence[int], predictions: Sequence[int], names: tuple[str, ...]) -> LabelledImages:
    images = torch.tensor(predictions, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 3)
    return LabelledImages(images, torch.tensor(truth), names, "hand-made")


TRUTH, PREDICTIONS = [0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 0, 1, 2]


def test_figures_by_hand() -> None:
    figures = evaluate(oracle(["a", "b", "c"]), labelled(TRUTH, PREDICTIONS, ("a", "b", "c")), batch_size=3)
    assert figures == {
        "accuracy": 5 / 8,
        "images": 8,
        "per_class": pytest.approx({"a": 2 / 3, "b": 1.0, "c": 1 / 3}),
        "worst_class": "c",
        "confusion": [[2, 1, 0], [0, 2, 0], [1, 1, 1]],
    }


def test_classes_are_matched_by_name() -> None:
    """The data counts them in another order, and names one more that it does not use."""
    order = [1, 2, 0]
    data = labelled([order[k] for k in TRUTH], PREDICTIONS, ("c", "a", "b", "unused"))
    assert evaluate(oracle(["a", "b", "c"]), data) == evaluate(
        oracle(["a", "b", "c"]), labelled(TRUTH, PREDICTIONS, ("a", "b", "c"))
    )


def test_a_classifier_that_knows_more_classes() -> None:
    figures = evaluate(oracle(["z", "b", "a"]), labelled([0, 0, 1, 1], [2, 0, 1, 1], ("a", "b")))
    assert figures["accuracy"] == 3 / 4
    assert figures["per_class"] == {"b": 1.0, "a": 0.5}
    assert figures["confusion"] == [[0, 0, 0], [0, 2, 0], [1, 0, 1]]


def test_without_names_classes_are_matched_by_number() -> None:
    data = labelled([0, 1, 1], [0, 2, 1], ("a", "b"))
    figures = evaluate(oracle(None), data)
    assert figures["per_class"] == {"a": 1.0, "b": 0.5}
    assert figures["confusion"] == [[1, 0], [0, 1]]  # what was taken for class 2 is in no column
    with pytest.raises(UserError, match=r"has 3 classes but the classifier tells only 2 apart"):
        evaluate(oracle(None, outputs=2), labelled(TRUTH, [0] * 8, ("a", "b", "c")))


def test_unlabelled_images_are_left_out() -> None:
    names = ("a", "b", "c")
    figures = evaluate(oracle(names), labelled([*TRUTH, -1], [*PREDICTIONS, 2], names))
    assert figures["images"] == 8
    with pytest.raises(UserError, match="hand-made has no labelled images to measure on"):
        evaluate(oracle(names), labelled([-1], [0], names))


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(UserError, match="does not know the class 'dog' of hand-made; it knows a, b, c: rename"):
        evaluate(oracle(["a", "b", "c"]), labelled([0, 1], [0, 1], ("a", "dog")))


def test_images_of_several_sizes(trained: Path, folder: Path) -> None:
    """As a list, each at its own size: resized to the classifier's."""
    classifier = load_classifier(trained)
    data = load_images(folder, "test", SIZE)
    images = [image.repeat_interleave(1 + k % 2, -1) for k, image in enumerate(data.images)]
    mixed = LabelledImages(images, data.labels, data.label_names, "mixed")
    torch.testing.assert_close(predict(classifier, mixed)[::2], predict(classifier, data)[::2])
    assert evaluate(classifier, mixed)["accuracy"] > 0.95
