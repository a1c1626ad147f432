"""The rivals as sets: as many images of each class, from where they say, in the training space of all."""

from pathlib import Path

import pytest
import torch
from tiny_models import NAMES, random_pipeline
from tiny_sets import SPEC, digits, network, real_subset

from distill.baselines import rivals
from distill.baselines.generated import is_generator, other_images
from distill.baselines.rivals import Problem, chosen, features, from_images
from distill.data import as_float
from workbench import seeds
from workbench.datasets import LabelledImages
from workbench.errors import UserError
from workbench.records import DatasetWriter

PROBLEM = Problem(digits(), real_subset().transform, SPEC, "crop_scale")


@pytest.mark.parametrize("method", ["random", "herding", "k-center", "k-means"])
def test_chosen_images_are_real_ones_of_their_class(method: str) -> None:
    theta = network().initial(seeds.generator(0))
    made = chosen(PROBLEM, method, 4, seed=3, theta=theta)
    assert made.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert made.settings["method"] == method
    real = PROBLEM.images()
    for image, label in zip(made.images, made.labels, strict=True):
        assert (real[digits().labels == label] == image).flatten(1).all(1).any()


def test_features_are_what_the_head_sees() -> None:
    flat, theta = network(), network().initial(seeds.generator(1))
    rows = features(PROBLEM, theta)
    head = flat.unflatten(theta)
    logits = rows @ head["head.weight"].T + head["head.bias"]
    torch.testing.assert_close(logits, flat(theta, PROBLEM.images()).detach())


@pytest.mark.parametrize("method", ["dm", "dc", "dsa"])
def test_optimised_rivals_go_on_where_they_stopped(method: str, tmp_path: Path) -> None:
    options = {"batch_real": 8} if method == "dm" else {"batch_real": 8, "updates": 2, "network_epochs": 1}
    make = getattr(rivals, method)
    whole = make(PROBLEM, 2, tmp_path / "whole", iterations=2, seed=5, **options)
    make(PROBLEM, 2, tmp_path / "run", iterations=1, seed=5, **options)
    assert torch.equal(make(PROBLEM, 2, tmp_path / "run", iterations=2, seed=5, **options).images, whole.images)
    assert whole.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert whole.settings["method"] == method
    began = chosen(PROBLEM, "random", 2, seed=5).images
    assert (whole.images - began).abs().max() < 2 or method == "dc"  # dc begins from noise


def write(folder: Path, data: LabelledImages) -> Path:
    writer = DatasetWriter(folder, data.label_names, {})
    rows = [{"label": int(label), "source": "generated"} for label in data.labels]
    writer.write_shard(0, list(data.images), rows)
    return writer.finish()


def test_images_of_another_data_set(tmp_path: Path) -> None:
    folder = write(tmp_path / "made", digits("test"))
    other = other_images(str(folder), digits(), 2, tmp_path)
    assert not is_generator(str(folder))
    made = from_images(PROBLEM, other, "generated", 2, seed=1)
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2]
    pixels = as_float(digits("test"))
    back = PROBLEM.transform.invert(made.images)
    assert all((pixels - image).abs().flatten(1).max(1).values.min() < 1e-5 for image in back)


def test_images_of_a_generator(tmp_path: Path) -> None:
    random_pipeline().save_pretrained(tmp_path / "run" / "pipeline")
    like = LabelledImages(torch.zeros(4, 1, 8, 12, dtype=torch.uint8), torch.arange(4) % 2, NAMES[:2], "like")
    source = str(tmp_path / "run")
    assert is_generator(source)
    made = other_images(source, like, 3, tmp_path / "work", device="cpu")
    assert made.images.shape == (6, 1, 8, 12)
    assert made.label_names == like.label_names
    assert torch.bincount(made.labels).tolist() == [3, 3]
    strange = LabelledImages(like.images, like.labels, ("cat", NAMES[0]), "strange")
    with pytest.raises(UserError, match="does not make cat of strange; it makes"):
        other_images(source, strange, 3, tmp_path / "other", device="cpu")
