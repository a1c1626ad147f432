"""A distilled set on disk: bit for bit the same after a round trip, and a view of it that other programs open."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_sets import SPEC, digits, network, real_subset

import distill
from distill.data import as_float, checksum
from distill.distilled import Distilled
from distill.evaluate import measure
from distill.evaluation_config import TrainingRecipe
from distill.export import PICTURES, export_distilled, picture
from distill.preprocess import ZCA
from distill.product import METADATA, TENSORS, Origin, find_distilled, read_distilled, recipe_of, save_distilled
from workbench import seeds
from workbench.datasets import load_images
from workbench.errors import UserError
from workbench.verify import verify

RECIPE = TrainingRecipe(epochs=12, augmentation="crop_scale")
FIGURES = {"convnet": {"mean": 0.875, "std": 0.0125, "n": 5}}


def origin() -> Origin:
    return Origin("digits", checksum(digits()), FIGURES)


def soft(distilled: Distilled) -> Distilled:
    """The same with logits that agree with its labels."""
    logits = torch.randn(len(distilled.images), 3, generator=seeds.generator(4))
    return replace(distilled, labels=logits.scatter(1, distilled.labels[:, None], 4.0))


@pytest.fixture(params=["hard, standard", "soft, zca"])
def distilled(request: pytest.FixtureRequest) -> Distilled:
    made = real_subset(2, step_size=0.1 / 3)
    if request.param == "hard, standard":
        return made
    transform = ZCA.fit(as_float(digits()))
    return soft(replace(made, transform=transform, images=1.7 * made.images))


def test_round_trip_is_equal_bit_for_bit_and_so_is_the_accuracy(distilled: Distilled, tmp_path: Path) -> None:
    save_distilled(distilled, RECIPE, origin(), tmp_path / "set")
    read, metadata = read_distilled(tmp_path / "set")
    assert torch.equal(read.images, distilled.images)
    assert torch.equal(read.labels, distilled.labels)
    assert read.step_size == distilled.step_size
    assert read.label_names == distilled.label_names
    assert read.settings == distilled.settings | {"network": {**SPEC.to_mapping(), "size": [8, 6]}}
    real = as_float(digits("test"))
    assert torch.equal(read.transform.apply(real), distilled.transform.apply(real))
    before = measure(distilled, network(), RECIPE, digits("test"), 2)
    assert measure(read, network(), recipe_of(read, metadata), digits("test"), 2) == before


def test_loading_gives_what_training_takes(distilled: Distilled, tmp_path: Path) -> None:
    save_distilled(distilled, RECIPE, origin(), tmp_path)
    dataset, transform, recipe = distill.load_distilled(tmp_path)
    image, label = dataset[3]
    assert torch.equal(image, distilled.images[3])
    assert torch.equal(label, distilled.labels[3])
    assert recipe == replace(RECIPE, step_size=distilled.step_size)
    assert type(transform) is type(distilled.transform)


def test_training_on_a_set_in_one_call(tmp_path: Path) -> None:
    save_distilled(real_subset(10), replace(RECIPE, epochs=40), origin(), tmp_path)
    classifier = distill.train_on_distilled(tmp_path, seed=2, device="cpu")
    test = digits("test")
    said = classifier(as_float(test)).argmax(1)
    assert (said == test.labels).float().mean() > 0.8
    again = distill.train_on_distilled(tmp_path, seed=2, device="cpu")
    assert torch.equal(again(as_float(test)).argmax(1), said)
    assert classifier.label_names == ("nought", "one", "two")


def test_the_view_is_a_data_set_of_ours(distilled: Distilled, tmp_path: Path) -> None:
    export_distilled(distilled, RECIPE, origin(), tmp_path / "set")
    assert verify(tmp_path / "set" / PICTURES).ok
    seen = load_images(tmp_path / "set" / PICTURES)
    assert torch.equal(seen.images, distilled.pixels)
    assert torch.equal(seen.labels, distilled.classes)
    row = json.loads((tmp_path / "set" / PICTURES / "train" / "metadata.jsonl").read_text().splitlines()[0])
    assert row["source"] == "distilled"
    if distilled.labels.is_floating_point():
        assert row["soft_label"] == pytest.approx(distilled.labels[0].softmax(0).tolist(), abs=1e-6)


def test_the_view_is_of_unwhitened_clipped_pixels() -> None:
    made = real_subset(2)
    whitening = ZCA.fit(as_float(digits()))
    pixels = made.transform.invert(made.images)
    whitened = replace(made, transform=whitening, images=whitening.apply(pixels))
    assert (whitened.pixels.int() - made.pixels.int()).abs().max() <= 1
    bright = replace(made, images=made.images + 100)
    assert (bright.pixels == 255).all()


def test_the_card_says_how_to_train_and_how_good_it_is(distilled: Distilled, tmp_path: Path) -> None:
    export_distilled(distilled, RECIPE, origin(), tmp_path / "set")
    card = (tmp_path / "set" / "README.md").read_text()
    assert "| convnet | 87.5 ± 1.2 | 5 |" in card
    assert "learning rate 0.033333" in card
    assert "crop_scale" in card
    assert "nought, one, two" in card
    assert ("soft labels" in card) == distilled.labels.is_floating_point()
    assert (tmp_path / "set" / "grid.png").stat().st_size > 100


def test_the_picture_has_a_class_a_column() -> None:
    made = real_subset(2)
    drawn = picture(made)
    height, width = 8 * 8, 8 * 6  # each pixel a square of 8
    assert drawn.shape == (3, 2 * (height + 2) + 2, 3 * (width + 2) + 2)
    second_of_the_third = drawn[:1, height + 4 : 2 * height + 4, 2 * (width + 2) + 2 : -2]
    assert torch.equal(second_of_the_third[:, 4::8, 4::8], made.pixels[5])


def test_more_pictures_than_one_shard_holds(tmp_path: Path) -> None:
    made = real_subset(2)
    many = replace(made, images=made.images.repeat(170, 1, 1, 1), labels=made.labels.repeat(170))
    export_distilled(many, RECIPE, origin(), tmp_path / "set")
    assert torch.equal(load_images(tmp_path / "set" / PICTURES).images, many.pixels)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    first, second = real_subset(2, seed=0), real_subset(2, seed=1)
    export_distilled(first, RECIPE, origin(), tmp_path / "set")
    with pytest.raises(UserError, match="holds a distilled set already; give --overwrite"):
        export_distilled(second, RECIPE, origin(), tmp_path / "set")
    export_distilled(second, RECIPE, origin(), tmp_path / "set", overwrite=True)
    assert torch.equal(read_distilled(tmp_path / "set")[0].images, second.images)
    assert torch.equal(load_images(tmp_path / "set" / PICTURES).images, second.pixels)


def test_damage_is_told(tmp_path: Path) -> None:
    made = real_subset(2)
    for number, harm in enumerate(
        [
            lambda folder: (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-8]),
            lambda folder: (folder / TENSORS).unlink(),
            lambda folder: (folder / METADATA).write_text("{"),
            lambda folder: (folder / METADATA).write_text('{"format": "other", "format_version": 1}'),
        ]
    ):
        folder = tmp_path / str(number)
        save_distilled(made, RECIPE, origin(), folder)
        harm(folder)
        with pytest.raises(UserError, match="is no whole distilled set"):
            read_distilled(folder)
    with pytest.raises(UserError, match="is no distilled set; give a folder"):
        find_distilled(tmp_path / "nowhere")


def test_a_matching_runs_folder_and_the_zoo_are_known(tmp_path: Path) -> None:
    save_distilled(real_subset(1), RECIPE, origin(), tmp_path / "run" / "distilled")
    assert find_distilled(tmp_path / "run") == tmp_path / "run" / "distilled"
    with pytest.raises(UserError, match="zoo:distilled/unheard-of is no distilled set"):
        find_distilled("zoo:distilled/unheard-of")
