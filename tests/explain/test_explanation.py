"""One image explained: what is found, what is written, and the page that is made of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab
from toy_classifiers import pixels, quadrants, small_cnn

from explain.explanation import (
    Explanation,
    Finding,
    Settings,
    explain_image,
    file_stems,
    slug,
    write_explanation,
)
from explain.overlays import SHORTEST, as_picture, colour_map, coloured, overlay, picture_size
from explain.report import add_explanation, add_overview
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier
from workbench.report import Report

HEIGHT, WIDTH = 24, 32


def bright_quadrant(k: int) -> torch.Tensor:
    """A dark image of which a quarter is bright."""
    image = torch.full((3, HEIGHT, WIDTH), 60, dtype=torch.uint8)
    rows, columns = divmod(k, 2)
    image[:, rows * 12 : rows * 12 + 12, columns * 16 : columns * 16 + 16] = 220
    return image


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    settings = Settings(keep=0.25, options={"num_steps": 16}, measured_fills=("black", "blur"))
    return explain_image(quadrants(HEIGHT, WIDTH), bright_quadrant(2), ["ig", "uniform"], "top2", settings, "toy")


# ---- what is found ---------------------------------------------------------------------------------------------------


def test_every_method_explains_every_target(explanation: Explanation) -> None:
    assert [(finding.method, finding.target) for finding in explanation.findings][:2] == [
        ("ig", 2),
        ("ig", explanation.findings[1].target),
    ]
    assert len(explanation.findings) == 4
    assert explanation.predictions[0][0] == "class 2"
    assert sum(probability for _, probability in explanation.predictions) == pytest.approx(1)
    assert explanation.costs["ig"]["forward_passes"] == 2 * 16
    assert explanation.costs["uniform"]["forward_passes"] == 0


def test_the_views_hold_what_they_say(explanation: Explanation) -> None:
    """The brightest quarter of the map is the bright quadrant: what is left of it is computed anew."""
    gradients, uniform = explanation.findings[0], explanation.findings[2]
    pixels, classifier = bright_quadrant(2)[None].float() / 255, quadrants(HEIGHT, WIDTH)
    inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    inside[12:, :16] = True
    for name, seen in (("kept", inside), ("removed", ~inside)):
        view = torch.where(seen, pixels, pixels.mean())
        with torch.no_grad():
            expected = float(classifier(view).softmax(-1)[0, 2])
        assert gradients.figures[f"probability_{name}"] == pytest.approx(expected)
    assert gradients.figures["probability_kept"] > uniform.figures["probability_kept"]
    assert torch.equal(gradients.kept[:, 100:, :100], as_picture(bright_quadrant(2))[:, 100:, :100])
    assert gradients.kept[:, 0, 0].tolist() == [100] * 3
    assert {"deletion_black", "insertion_blur", "average_drop_15", "mask_mean"} <= set(gradients.figures)
    assert gradients.saliency.shape == (HEIGHT, WIDTH)
    assert (float(gradients.saliency.min()), float(gradients.saliency.max())) == (0, 1)


def test_notes_say_when_a_map_says_nothing() -> None:
    sure = quadrants(HEIGHT, WIDTH, strength=60)
    found = explain_image(sure, bright_quadrant(1), ["uniform"], [0], Settings(measured_fills=()))
    assert any("the same everywhere" in note for note in found.findings[0].notes)
    assert any("extrapolation" in note for note in found.findings[0].notes)


def test_large_images_are_seen_no_larger_than_the_classifier_does() -> None:
    classifier = PixelClassifier.wrap(small_cnn().network, mean=0.5, std=0.25, size=(16, 16))
    image = (pixels(1, 48, 80) * 255).to(torch.uint8)
    found = explain_image(classifier, image, ["gradcam"], settings=Settings(options={"layer": "2"}))
    assert found.seen_size == (16, 16)
    assert found.findings[0].saliency.shape == (48, 80)
    said = classifier.probabilities(classifier(image[None].float() / 255)).amax()
    assert found.findings[0].probability == pytest.approx(said.item(), abs=1e-5)


def test_a_classifier_in_half_precision_is_explained_and_measured() -> None:
    classifier = small_cnn()
    classifier.network.bfloat16()
    found = explain_image(classifier, bright_quadrant(0), ["gradcam"]).findings[0]
    assert found.saliency.dtype == torch.float32
    assert 0 <= found.figures["deletion_blur"] <= 1


def test_a_size_that_the_classifier_cannot_see_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"cannot see images of 24x32 pixels .*give images of its own size"):
        explain_image(quadrants(16, 20), bright_quadrant(0), ["ig"])


def test_multi_label_probabilities_are_each_by_themselves() -> None:
    classifier = PixelClassifier.wrap(small_cnn().network, mean=0.5, std=0.25, multi_label=True)
    found = explain_image(classifier, bright_quadrant(0), ["centre"], "top4", Settings(measured_fills=()))
    assert sum(probability for _, probability in found.predictions) > 1.2


# ---- what is written -------------------------------------------------------------------------------------------------


def test_files_read_back(explanation: Explanation, tmp_path: Path) -> None:
    write_explanation(explanation, tmp_path, {"classifier": "toy"})
    result = json.loads((tmp_path / "explanation.json").read_text())
    assert result["classifier"] == "toy"
    assert result["size"] == [HEIGHT, WIDTH]
    for finding, row in zip(explanation.findings, result["findings"], strict=True):
        values = np.load(tmp_path / f"{row['file']}.npy")
        np.testing.assert_array_equal(values, finding.saliency.numpy())
        assert row["probability_kept"] == finding.figures["probability_kept"]
        for ending in (".png", "-kept.png", "-removed.png"):
            with Image.open(tmp_path / f"{row['file']}{ending}") as picture:
                assert picture.height == picture_size(HEIGHT, WIDTH)[0]
    assert [row["sees_the_class"] for row in result["findings"]] == [True, True, False, False]


def test_names_of_files() -> None:
    assert slug("Egyptian cat") == "egyptian-cat"
    assert slug("T-shirt/top") == "t-shirt-top"
    assert slug("../..") == "unnamed"

    def finding(target: int, label: str) -> Finding:
        nothing = torch.zeros(3, 1, 1, dtype=torch.uint8)
        return Finding("rise", target, label, 0.5, torch.zeros(1, 1), nothing, nothing, {}, ())

    found = [finding(134, "crane"), finding(517, "crane"), finding(1, "cat")]
    assert file_stems(found) == ["rise-crane-134", "rise-crane-517", "rise-cat"]


def test_the_page_is_made_of_the_files(explanation: Explanation, tmp_path: Path) -> None:
    write_explanation(explanation, tmp_path, {})
    report = Report("Toy")
    add_overview(report, [tmp_path])
    add_explanation(report, tmp_path)
    html = report.html()
    assert html.count("<img") == 1 + 4 * 3
    assert "class 2, " in html
    assert f"without it: {explanation.findings[0].figures['probability_removed']:.1%}" in html
    assert "integrated gradients" in html


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_the_colour_map_is_even_to_the_eye() -> None:
    """Against CIELAB, of another library: lightness rises all the way, with no step more than twice the mean."""
    lab = rgb2lab(colour_map().numpy()[None] / 255.0)[0]
    coarse = lab[::15]
    steps = np.diff(coarse[:, 0])
    assert (steps > 0).all()
    assert steps.max() < 2 * steps.mean()
    assert coarse[0, 0] < 15
    assert coarse[-1, 0] > 90
    assert coloured(torch.tensor([[0.0, 1.0]]))[:, 0].T.tolist() == colour_map()[[0, -1]].tolist()


@pytest.mark.parametrize(
    ("size", "shown"),
    [((28, 28), (224, 224)), ((10, 50), (50, 250)), ((300, 451), (300, 451)), ((2000, 1000), (640, 320))],
)
def test_pictures_are_of_a_size_to_look_at(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert picture_size(*size) == shown
    image = (pixels(3, *size) * 255).to(torch.uint8)
    assert as_picture(image).shape == (3, *shown)
    laid = overlay(image, pixels(*size))
    assert laid.shape[1] == shown[0]
    assert laid.shape[2] > shown[1], "no colour bar"
    if max(size) < SHORTEST:
        scale = shown[0] // size[0]
        assert torch.equal(as_picture(image)[:, ::scale, ::scale], image)


def test_an_overlay_shows_the_map_and_the_image() -> None:
    image = torch.zeros(1, 224, 224, dtype=torch.uint8)
    image[:, :112] = 255
    saliency = torch.zeros(224, 224)
    saliency[:, :112] = 1
    laid = overlay(image, saliency).float()
    corners = [laid[:, row, column].mean() for row in (10, 200) for column in (10, 200)]
    assert corners[0] > corners[1] > corners[3]
    assert corners[0] > corners[2] > corners[3]


def test_impossible_targets_are_a_sentence() -> None:
    with pytest.raises(UserError, match="no class number 9"):
        explain_image(quadrants(HEIGHT, WIDTH), bright_quadrant(0), ["centre"], [9])
