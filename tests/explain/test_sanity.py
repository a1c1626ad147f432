"""Alike maps, seed stability, weight randomisation, another class's map."""

import copy

import pytest
import torch
from scipy.stats import spearmanr
from toy_classifiers import pixels, quadrants, small_cnn

from explain.maps import Maps
from explain.measures.randomisation import randomisation, randomised
from explain.measures.similarity import rank_correlation, seed_stability
from explain.measures.target_shift import target_shift
from explain.saliency import explain
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

SIZE = (9, 14)


def test_rank_correlation_equals_scipy() -> None:
    first, second = pixels(4, *SIZE), (pixels(4, *SIZE, seed=1) * 5).round()  # with ties
    second[1] = -(first[1] ** 3)
    ours = rank_correlation(first, second)
    for n in range(4):
        assert float(ours[n]) == pytest.approx(spearmanr(first[n].flatten(), second[n].flatten())[0], abs=1e-6)
    assert float(rank_correlation(first[:1], torch.ones(1, *SIZE))) == 0


def test_seed_stability_of_equal_and_of_disjoint_maps() -> None:
    values = pixels(3, *SIZE)
    torch.testing.assert_close(seed_stability([values, values, values * 2]), torch.ones(3))
    left, right = torch.zeros(2, 1, *SIZE)
    left[:, :, :5], right[:, :, 9:] = 1, 1
    assert float(seed_stability([left, right])) == 0
    a, b = torch.zeros(2, 1, 4, 10)
    a[:, :, :2], b[:, :, 1:3] = 1, 1  # of 8 pixels each, 4 are shared
    assert float(seed_stability([a, b], share=0.2)) == pytest.approx(4 / 12)


def test_randomisation_goes_from_the_output_to_the_input() -> None:
    classifier = small_cnn()
    before = copy.deepcopy(classifier.state_dict())
    names, copies = zip(*randomised(classifier, stages=3, seed=0), strict=True)
    assert names == ("6", "2", "0")
    for stage, changed in enumerate(copies):
        for number, layer in enumerate(("6", "2", "0")):
            weight = changed.network.get_submodule(layer).weight
            assert torch.equal(weight, before[f"network.{layer}.weight"]) == (number > stage)
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    again = [changed for _, changed in randomised(classifier, stages=3, seed=0)]
    assert torch.equal(again[2].network[0].weight, copies[2].network[0].weight)  # type: ignore[index]


def test_a_map_of_the_image_alone_fails_the_sanity_check() -> None:
    classifier, images, targets = small_cnn(), pixels(3, 3, 24, 32), torch.tensor([[0], [1], [2]])

    def by(method: str) -> dict[str, torch.Tensor]:
        def explainer(other: PixelClassifier) -> Maps:
            return explain(method, other, images, targets)

        return randomisation(explainer, classifier, stages=3)

    assert all(value.allclose(torch.ones(3, dtype=value.dtype)) for value in by("edges").values())
    assert by("hirescam")["0"].mean() < 0.7


def test_a_map_of_the_image_alone_is_the_same_for_every_class() -> None:
    classifier, images, targets = quadrants(24, 32), pixels(3, 3, 24, 32), torch.tensor([[0, 1], [2, 3], [3, 0]])
    asked: list[torch.Tensor] = []

    def by(method: str) -> torch.Tensor:
        def explainer(wanted: torch.Tensor) -> Maps:
            asked.append(wanted)
            return explain(method, classifier, images, wanted)

        return target_shift(explainer, targets, num_classes=4)

    assert by("edges").allclose(torch.ones(6, dtype=torch.float64))
    assert by("ig").max() < 0.2  # what speaks for a class is in a quadrant of its own
    own, other = asked[:2]
    assert torch.equal(own, targets)
    assert (other != targets).all()
    assert other.unique().tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="has one class"):
        target_shift(lambda wanted: explain("edges", classifier, images, wanted), targets * 0, num_classes=1)
