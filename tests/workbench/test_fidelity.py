"""Fidelity through a toy network with known answers: floors, copies, sizes, labels, and almost no images."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench import fidelity
from workbench.datasets import LabelledImages
from workbench.distances import frechet_distance, manifold
from workbench.errors import UserError
from workbench.feature_network import FeatureNetwork
from workbench.fidelity import Fidelity, measure, measure_by_size
from workbench.seeds import generator

SIZE = (6, 4)


class HalfBrightness(nn.Module):
    """Two features, the brightness of the upper and of the lower half; the brighter half is the class."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        middle = images.shape[2] // 2
        return torch.stack([half.float().mean((1, 2, 3)) for half in (images[:, :, :middle], images[:, :, middle:])], 1)


def toy_network(label_names: tuple[str, ...] = ("up", "down"), accuracy: float | None = 0.9) -> FeatureNetwork:
    return FeatureNetwork(HalfBrightness(), "toy", 1, SIZE, label_names, accuracy)


def pictures(count: int, seed: int, size: tuple[int, int] = SIZE, name: str = "pictures") -> LabelledImages:
    """Noise in which the half of the class ("up", "down") is brighter by 100."""
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 156, (count, 1, *size), generator=generator(seed), dtype=torch.uint8)
    upper = (torch.arange(size[0]) < size[0] // 2)[None, :] == (labels == 0)[:, None]
    return LabelledImages(noise + 100 * upper[:, None, :, None].to(torch.uint8), labels, ("up", "down"), name)


def test_figures_are_those_of_the_distances() -> None:
    network, generated, reference = toy_network(), pictures(50, 0), pictures(60, 1)
    result = measure(generated, reference, pictures(90, 2), network)
    fake, real = network.features(generated.images), network.features(reference.images)
    assert result.figures.frechet_distance == pytest.approx(frechet_distance(real, fake))
    overlap = manifold(real, fake)
    assert (result.figures.precision, result.figures.coverage) == (overlap.precision, overlap.coverage)
    assert (result.figures.n, result.n_reference, result.size, result.network) == (50, 60, SIZE, "toy")


def test_equal_sets_are_perfect_and_other_sets_are_worse_than_the_floor() -> None:
    reference, training = pictures(200, 1), pictures(300, 2)
    same = measure(reference, reference, training, toy_network()).figures
    assert same.frechet_distance == pytest.approx(0, abs=1e-6)
    assert (same.precision, same.recall, same.coverage, same.class_agreement) == (1, 1, 1, 1)
    images = reference.images
    assert isinstance(images, Tensor)
    dark = measure(replace(reference, images=images // 2), reference, training, toy_network())
    assert dark.floor is not None
    assert dark.figures.frechet_distance > 20 * dark.floor.frechet_distance
    assert dark.figures.kernel_distance > dark.floor.kernel_distance + 3 * dark.floor.kernel_error
    assert dark.figures.precision < 0.5 < dark.floor.precision


def test_the_floor_is_what_as_many_training_images_measure() -> None:
    result = measure(pictures(40, 0), pictures(80, 1), pictures(200, 2), toy_network())
    assert result.floor is not None
    assert result.floor.n == 40
    assert 0.5 < result.floor.density < 1.5
    assert result.floor.class_agreement == 1  # the toy network on the reference
    again = measure(pictures(40, 9), pictures(80, 1), pictures(200, 2), toy_network())
    assert again.floor == result.floor


@pytest.mark.parametrize("same", [True, False])
def test_without_held_out_images_the_floor_is_two_halves(same: bool) -> None:
    reference = pictures(80, 1)
    training = pictures(80, 1, name="the same under another name") if same else None
    result = measure(pictures(40, 0), reference, training, toy_network(accuracy=0.9))
    assert result.floor is not None
    assert (result.floor.n, result.floor.class_agreement) == (40, 0.9)
    assert result.memorisation is None
    assert any("Memorisation was not checked" in warning for warning in result.warnings)


# Memorisation


def test_planted_copies_are_found() -> None:
    training, generated = pictures(400, 2), pictures(60, 0)
    images = generated.images
    assert isinstance(images, Tensor)
    assert isinstance(training.images, Tensor)
    images[[3, 17, 40, 41]] = training.images[[100, 399, 0, 7]]
    images[50] = training.images[33]
    images[50, 0, 0, 0] ^= 1  # a near copy
    result = measure(generated, pictures(200, 1), training, toy_network())
    check = result.memorisation
    assert check is not None
    assert (check.copies, check.held_out_copies) == (4, 0)
    assert [(p.generated, p.training) for p in check.closest[:5]] == [(3, 100), (17, 399), (40, 0), (41, 7), (50, 33)]
    assert check.closest[4].pixel_distance == pytest.approx(24**-0.5)
    assert check.pixels.share_nearer == pytest.approx(5 / 60, abs=1.5 / 60)
    assert any("4 generated images are exact copies" in warning for warning in result.warnings)


def test_fresh_images_are_not_flagged_and_near_copies_are() -> None:
    training, reference = pictures(400, 2), pictures(300, 1)
    fresh = measure(pictures(300, 0), reference, training, toy_network())
    assert fresh.memorisation is not None
    assert fresh.memorisation.pixels.median_ratio == pytest.approx(1, abs=0.05)
    assert fresh.memorisation.pixels.share_nearer < 0.04
    assert not any("cop" in warning for warning in fresh.warnings)
    images = training.images
    assert isinstance(images, Tensor)
    near = measure(replace(training, images=images ^ 1), reference, training, toy_network())
    assert near.memorisation is not None
    assert (near.memorisation.copies, near.memorisation.pixels.share_nearer) == (0, 1)
    assert near.memorisation.pixels.median_ratio is not None
    assert near.memorisation.pixels.median_ratio < 0.1
    assert any("look at the closest pairs" in warning for warning in near.warnings)


def test_of_many_images_some_are_drawn_and_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "MOST_IMAGES", 50)
    training, generated = pictures(90, 2), pictures(200, 0)
    assert isinstance(generated.images, Tensor)
    generated.images[:100] = training.images[5]
    result = measure(generated, pictures(70, 1), training, toy_network())
    assert (result.figures.n, result.n_reference) == (50, 50)
    assert result.memorisation is not None
    copies = {pair.generated for pair in result.memorisation.closest if pair.pixel_distance == 0}
    assert copies
    assert max(copies) < 100
    assert 15 < result.memorisation.copies < 35


# Labels


def test_classes_are_matched_by_name_and_missing_labels_left_out() -> None:
    generated = pictures(40, 0)
    reference, training = pictures(40, 1), pictures(60, 2)
    swapped = replace(generated, labels=1 - generated.labels)
    half_wrong = replace(generated, labels=torch.zeros_like(generated.labels))
    some = replace(half_wrong, labels=torch.where(generated.labels == 0, 0, -1))
    renamed = replace(swapped, label_names=("down", "up"))
    expected = [(swapped, 0), (half_wrong, 0.5), (some, 1), (renamed, 1)]
    for images, agreement in expected:
        assert measure(images, reference, training, toy_network()).figures.class_agreement == agreement


def test_class_agreement_is_none_without_common_classes() -> None:
    generated, reference, training = pictures(40, 0), pictures(40, 1), pictures(60, 2)
    unlabelled = replace(generated, labels=torch.full((40,), -1))
    strangers = replace(generated, label_names=("cat", "dog"))
    for images, network in ((unlabelled, toy_network()), (strangers, toy_network()), (generated, toy_network(()))):
        result = measure(images, reference, training, network)
        assert result.figures.class_agreement is None
        assert any("Class agreement was not measured" in warning for warning in result.warnings)


# Sizes


def mixed(*sets: LabelledImages) -> LabelledImages:
    labels = torch.cat([images.labels for images in sets])
    return LabelledImages([image for images in sets for image in images.images], labels, ("up", "down"), "mixed")


def test_each_size_is_measured_by_itself() -> None:
    training, tall, wide = pictures(60, 2), pictures(32, 0, size=(12, 8)), pictures(40, 3, size=(6, 10))
    copies = training.select([8, 9])
    results = measure_by_size(mixed(tall, wide, copies), pictures(50, 1), training, toy_network())
    assert [(r.size, r.figures.n) for r in results] == [((6, 10), 40), ((12, 8), 32), (SIZE, 2)]
    for result, images in zip(results, (wide, tall, copies), strict=True):
        assert result.figures == measure(images, pictures(50, 1), training, toy_network()).figures
        assert result.memorisation is not None
    assert {(p.generated, p.training) for p in results[2].memorisation.closest} == {(72, 8), (73, 9)}  # type: ignore[union-attr]


def test_rare_sizes_are_measured_together_and_one_image_is_left_out() -> None:
    rare = mixed(*(pictures(2, seed, size=(8, 5 + seed)) for seed in range(5)))
    (result,) = measure_by_size(rare, pictures(50, 1), None, toy_network())
    assert (result.size, result.figures.n) == (None, 10)
    assert "several sizes" in result.caption
    stray = mixed(pictures(32, 0), pictures(1, 1, size=(9, 9)))
    (result,) = measure_by_size(stray, pictures(50, 1), None, toy_network())
    assert (result.size, result.figures.n) == (SIZE, 32)
    assert any("One image was left out" in warning for warning in result.warnings)
    (result,) = measure_by_size(pictures(5, 0), pictures(50, 1), None, toy_network())
    assert result.size == SIZE


# Results


def test_the_seed_decides_what_is_drawn() -> None:
    sets = pictures(41, 0), pictures(80, 1), pictures(200, 2)
    assert measure(*sets, toy_network(), seed=3) == measure(*sets, toy_network(), seed=3)
    assert measure(*sets, toy_network(), seed=3).floor != measure(*sets, toy_network(), seed=4).floor


def test_rows_are_one_table_of_words_and_numbers() -> None:
    result = measure(pictures(50, 0), pictures(60, 1), pictures(90, 2), toy_network())
    rows = {row["measure"]: row for row in result.rows()}
    assert all(list(row) == ["measure", "generated", "real", "best"] for row in result.rows())
    assert rows["precision"]["generated"] == f"{result.figures.precision:.4g}"
    assert "±" in rows["Frechet distance"]["real"]
    assert rows["exact copies of training images"]["generated"] == "0"
    assert len(rows) == len(result.rows()) == 12
    assert "50 images of pictures (6x4 px) against 60 of pictures, seen by toy" in result.caption


def check_finite(result: Fidelity) -> None:
    json.dumps(result.to_dict(), allow_nan=False)
    assert result.figures.frechet_distance >= 0
    assert all(all(cell for cell in row.values()) for row in result.rows())


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 7), st.booleans(), st.integers(0, 9))
def test_a_few_images_or_equal_ones_give_finite_results(n: int, m: int, k: int, black: bool, seed: int) -> None:
    sets = [pictures(count, seed + i) for i, count in enumerate((n, m, k))]
    if black:
        sets = [replace(images, images=torch.zeros(len(images), 1, *SIZE, dtype=torch.uint8)) for images in sets]
    result = measure(sets[0], sets[1], sets[2] if k else None, toy_network())
    check_finite(result)
    assert any("too large" in warning for warning in result.warnings)


def test_one_image_cannot_be_measured() -> None:
    for sets in ((pictures(1, 0), pictures(9, 1)), (pictures(9, 0), pictures(1, 1)), (pictures(0, 0), pictures(9, 1))):
        with pytest.raises(UserError, match="give at least 2"):
            measure(*sets, None, toy_network())


def test_a_broken_network_is_named() -> None:
    network = toy_network()
    network.module.forward = lambda images: torch.full((len(images), 2), torch.nan)
    with pytest.raises(UserError, match="not finite"):
        measure(pictures(9, 0), pictures(9, 1), None, network)
