"""Shapley values against the shap library, against their definition, and the promises of an attribution."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from explain.hiding import blur_kernel, hiding
from explain.owen import Block, Credits
from explain.saliency import explain
from explain.shapley import Attribution, attribute, scores
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

TARGET = 1


class Bumpy(nn.Module):
    """A small convolutional network of random weights in double precision, with interactions all over the image."""

    def __init__(self, classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(channels, 6, 5, stride=2), nn.Tanh(), nn.Conv2d(6, 6, 3), nn.Tanh(),
                nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, classes),
            ).double()  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        return 4 * self.layers(pixels)


def bumpy(channels: int = 3, **options: Any) -> PixelClassifier:
    return PixelClassifier.wrap(Bumpy(channels=channels), mean=(0.5,) * channels, std=(0.25,) * channels, **options)


def picture(height: int = 24, width: int = 36, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, channels, 5, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    return (smooth * 255).round() / 255  # as a file holds it


def library_values(
    classifier: PixelClassifier, image: Tensor, masker: Any, factor: float, scale: str, **call: Any
) -> np.ndarray:
    """shap used as its documentation shows: an NHWC function, a masker, PartitionExplainer by shap.Explainer."""
    shap = pytest.importorskip("shap")

    def function(pixels: np.ndarray) -> np.ndarray:
        shown = torch.as_tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2) / factor
        with torch.no_grad():
            return scores(classifier, shown, scale).numpy()

    explainer = shap.Explainer(function, masker)
    pixels = (image.permute(1, 2, 0) * factor).numpy()
    np.random.seed(0)  # noqa: NPY002
    found = explainer(pixels[None], outputs=[TARGET], silent=True, **call)
    return found.values[0, ..., 0].sum(-1)


def masker_of(image: Tensor, fill: str, factor: float = 1.0) -> Any:
    shap = pytest.importorskip("shap")
    height, width = image.shape[1:]
    shape = (height, width, len(image))
    if fill == "mean":
        colour = image.mean((1, 2)) * factor
        return shap.maskers.Image(np.broadcast_to(colour.numpy(), shape).astype(np.float32), shape)
    side = blur_kernel(image)
    return shap.maskers.Image(f"blur({side},{side})" if fill == "blur" else "inpaint_telea", shape)


@pytest.mark.parametrize(
    ("fill", "budget", "batch_size", "size", "scale"),
    [
        ("mean", 100, 50, (24, 36), "probability"),
        ("mean", 101, 7, (24, 36), "log-odds"),
        ("mean", 500, 50, (28, 20), "probability"),
        ("blur", 200, 20, (24, 36), "probability"),
        ("blur", 300, 64, (31, 17), "log-odds"),
        ("inpaint", 60, 10, (24, 36), "probability"),
    ],
)
def test_the_values_are_those_of_shap(
    fill: str, budget: int, batch_size: int, size: tuple[int, int], scale: Any
) -> None:
    if fill != "mean":
        pytest.importorskip("cv2")
    classifier, image, factor = bumpy(), picture(*size), 255.0 if fill == "inpaint" else 1.0
    masker = masker_of(image, fill, factor)
    found = attribute(classifier, image, TARGET, budget=budget, fill=fill, scale=scale, batch_size=batch_size)
    wanted = library_values(classifier, image, masker, factor, scale, max_evals=budget, batch_size=batch_size)
    np.testing.assert_allclose(found.values.numpy(), wanted, atol=1e-6)
    assert abs(wanted).max() > 1e-4  # not all alike
    assert found.additivity_error < 1e-6


def test_ties_go_as_in_shap_with_the_same_seed() -> None:
    """A classifier that counts bright pixels: one in each quarter, so all four tie, and the budget ends among them."""
    classifier = PixelClassifier.wrap(BrightPixels(), mean=0.0, std=1.0, multi_label=True)
    image = torch.zeros(3, 16, 16)
    image[:, ::8, ::8] = 1
    how: dict[str, Any] = {"scale": "log-odds", "batch_size": 4}
    found = [attribute(classifier, image, TARGET, budget=20, fill="mean", seed=s, **how).values for s in range(4)]
    assert any(not torch.equal(found[0], other) for other in found)
    wanted = library_values(classifier, image, masker_of(image, "mean"), 1.0, "log-odds", max_evals=20, batch_size=4)
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=1e-6)


class BrightPixels(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        count = (pixels.amin(1) > 0.5).double().sum((1, 2))
        return torch.stack([-count, count], 1)


def test_halves_of_halves_are_shapley_values_of_four_players() -> None:
    """Where players do not interact across the first cut, Owen's values are Shapley's; else against their definition:
    the average over the orders in which the halves, and in each the quarters, may come."""
    classifier, image = bumpy(), picture(24, 24)
    found = attribute(classifier, image, TARGET, budget=10_000, fill="mean", grid=2)
    hide = hiding(image, "mean")
    places = [(slice(r, r + 12), slice(c, c + 12)) for r in (0, 12) for c in (0, 12)]

    def value(players: frozenset[int]) -> float:
        shown = torch.zeros(1, 24, 24, dtype=torch.bool)
        for player in players:
            shown[0][places[player]] = True
        with torch.no_grad():
            return float(scores(classifier, hide(shown))[0, TARGET])

    orders = [
        (*top, *bottom) for first, second in (((0, 1), (2, 3)), ((2, 3), (0, 1)))
        for top in itertools.permutations(first) for bottom in itertools.permutations(second)
    ]  # fmt: skip
    wanted = torch.zeros(4, dtype=torch.float64)
    for order in orders:
        for k, player in enumerate(order):
            wanted[player] += (value(frozenset(order[: k + 1])) - value(frozenset(order[:k]))) / len(orders)
    got = torch.stack([found.values[place].double().sum() for place in places])
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


def test_all_classes_come_with_the_same_evaluations() -> None:
    classifier, image = bumpy(), picture()
    found = attribute(classifier, image, TARGET, budget=120)
    assert found.all_values is not None
    assert torch.equal(found.all_values[TARGET], found.values)
    assert found.all_values.sum(0).abs().max() < 1e-6  # probabilities add up to one, whatever is shown
    with torch.no_grad():
        ends = scores(classifier, torch.stack([hiding(image, "blur")(torch.zeros(1, 24, 36, dtype=bool))[0], image]))
    torch.testing.assert_close(found.all_values.double().sum((1, 2)), ends[1] - ends[0], atol=1e-6, rtol=0)
    assert (found.base, found.fx) == pytest.approx(ends[:, TARGET].tolist())
    assert found.evaluations == 120


def test_log_odds_are_those_of_the_probabilities() -> None:
    classifier, images = bumpy(), torch.stack([picture(), 1 - picture()])
    with torch.no_grad():
        p, odds = scores(classifier, images), scores(classifier, images, "log-odds")
    torch.testing.assert_close(odds, torch.log(p / (1 - p)))
    sure = PixelClassifier.wrap(Constant(400.0), mean=0.0, std=1.0)
    assert scores(sure, images, "log-odds").isfinite().all()


class Constant(nn.Module):
    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.new_tensor([self.margin, 0.0]).expand(len(pixels), -1)


# ---- properties ------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(3, 21), width=st.integers(3, 21), budget=st.integers(2, 80), batch=st.integers(1, 40),
    grid=st.integers(1, 40), channels=st.sampled_from([1, 3]), seed=st.integers(0, 5),
)  # fmt: skip
def test_values_add_up_at_any_size_and_budget(
    height: int, width: int, budget: int, batch: int, grid: int, channels: int, seed: int
) -> None:
    classifier = PixelClassifier.wrap(Bumpy(channels=channels), mean=0.0, std=1.0, size=(24, 36))
    image = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))
    found = attribute(classifier, image, 2, budget=budget, fill="mean", grid=grid, batch_size=batch, seed=seed)
    assert found.values.shape == (height, width)
    assert found.additivity_error < 1e-6
    assert found.evaluations <= budget + budget % 2
    again = attribute(classifier, image, 2, budget=budget, fill="mean", grid=grid, batch_size=batch, seed=seed)
    assert torch.equal(found.values, again.values)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(1, 3))
def test_halves_share_the_block(height: int, width: int, down: int, right: int) -> None:
    block = Block(2, 3, 2 + height, 3 + width)
    if block.fits((1, 1)):
        return
    first, second = block.halves()
    area = [(b.bottom - b.top) * (b.right - b.left) for b in (first, second)]
    assert sum(area) == height * width
    assert 0 < area[0] <= area[1]
    credits = Credits((height, width), tuple(b._replace(top=b.top - 2, bottom=b.bottom - 2, left=b.left - 3,
                                                        right=b.right - 3) for b in (first, second)),
                      np.array([[1.0], [-3.0]]))  # fmt: skip
    spread = credits.spread((height * down + 1, width * right))
    assert math.isclose(float(spread.double().sum()), -2.0, abs_tol=1e-5)
    assert math.isclose(float(spread.double().clamp(min=0).sum()), 1.0, abs_tol=1e-5)


def test_the_evidence_is_where_it_is_planted() -> None:
    """A classifier that looks at one corner alone, in an image larger than it takes: the place stays the same."""
    classifier = PixelClassifier.wrap(Corner(), mean=0.0, std=1.0, size=(32, 32))
    image = torch.zeros(3, 300, 200)
    image[:, 225:, 150:] = 1
    found = attribute(classifier, image, 1, budget=100)
    assert found.values.shape == (300, 200)
    assert found.values[225:, 150:].sum() / found.values.sum() > 0.99


class Corner(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        seen = pixels[:, :, 24:, 24:].mean((1, 2, 3))
        return torch.stack([torch.zeros_like(seen), 6 * seen - 3], 1)


def test_a_settled_top_region_ends_the_evaluations() -> None:
    classifier = PixelClassifier.wrap(Corner(), mean=0.0, std=1.0, size=(32, 32))
    image = torch.zeros(3, 32, 32)
    image[:, 24:, 24:] = 1
    told: list[tuple[int, int]] = []
    early = attribute(classifier, image, 1, budget=1000, early_stop=True, progress=lambda *done: told.append(done))
    assert 300 <= early.evaluations < 600
    assert told[-1] == (early.evaluations, 1000)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert torch.equal(early.values, attribute(classifier, image, 1, budget=early.evaluations).values)


def test_the_method_keeps_the_signs() -> None:
    classifier, images = bumpy(), torch.stack([picture(), picture().flip(-1)])
    maps = explain("shap", classifier, images, [TARGET, 0], budget=60, num_masks=3)
    assert maps.raw is not None
    assert (maps.forward_passes, maps.backward_passes) == (240, 0)
    assert torch.equal(maps.values, maps.raw.clamp(min=0))
    assert (maps.raw < 0).any()
    one = attribute(classifier, images[1], 0, budget=60)
    assert torch.equal(maps.raw[3], one.values)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda c, x: attribute(c, x * 255, 0), r"pixels in \[0, 1\]"),
        (lambda c, x: attribute(c, x * torch.nan, 0), r"pixels in \[0, 1\]"),
        (lambda c, x: attribute(c, x, 7), "no class number 7"),
        (lambda c, x: attribute(c, x, 0, fill="telea"), "choose blur, mean, inpaint"),
        (lambda c, x: attribute(c, x, 0, budget=1), "at least 2"),
        (lambda c, x: attribute(c, x, 0, batch_size=0), "1 or more of each"),
    ],
)  # fmt: skip
def test_input_that_cannot_work(call: Callable[[PixelClassifier, Tensor], Attribution], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        call(bumpy(), picture())


def test_outputs_that_are_not_numbers() -> None:
    with pytest.raises(UserError, match="not finite"):
        attribute(PixelClassifier.wrap(Constant(math.nan), mean=0.0, std=1.0), picture(), 0)


def test_inpainting_without_opencv_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'workbench\[cv\]'"):
        hiding(picture(), "inpaint")


def test_inpainting_shows_the_image_itself() -> None:
    """Not the black that the inpainting of floats gives."""
    pytest.importorskip("cv2")
    image = picture()
    shown = torch.ones(1, 24, 36, dtype=torch.bool)
    shown[0, 5:9, 7:12] = False
    filled = hiding(image, "inpaint")(shown)[0]
    torch.testing.assert_close(filled[:, shown[0]], image[:, shown[0]])
    assert (filled[:, ~shown[0]] - image[:, ~shown[0]]).abs().max() < 0.5
