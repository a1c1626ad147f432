"""Confidence, deletion and insertion, ROAD: against loops, hand-made cases and two libraries."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor
from toy_classifiers import pixels, quadrants, small_cnn

from explain.fills import FILLS
from explain.maps import Maps
from explain.measures.confidence import confidence, strongest
from explain.measures.erasing import area, erase, removal_order
from explain.measures.road import NEIGHBOURS, imputed, road
from explain.passes import counted
from workbench.pixel_classifier import PixelClassifier

HEIGHT, WIDTH = 24, 32


def maps_of(values: Tensor, targets: list[int]) -> Maps:
    return Maps(values, torch.tensor(targets), 0, 0, 0.0)


def quadrant_map(k: int) -> Tensor:
    values = torch.zeros(1, HEIGHT, WIDTH)
    rows, columns = divmod(k, 2)
    values[0, rows * 12 : rows * 12 + 12, columns * 16 : columns * 16 + 16] = 1
    return values


def probability(classifier: PixelClassifier, image: Tensor, target: int) -> float:
    with torch.no_grad():
        return float(classifier(image).softmax(-1)[0, target])


# ---- confidence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.15])
def test_confidence_by_hand(keep: float) -> None:
    classifier, images = small_cnn(), pixels(3, 3, HEIGHT, WIDTH)
    maps = maps_of(pixels(3, HEIGHT, WIDTH, seed=1) ** 2 * 5 - 1, [2, 0, 3])
    figures = confidence(classifier, images, maps, keep, batch_size=2)
    for n in range(3):
        mask = maps.values[n]
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        mask = mask * (mask >= torch.quantile(mask, 1 - keep))
        before, after = (
            probability(classifier, x, [2, 0, 3][n]) for x in (images[n : n + 1], images[n : n + 1] * mask)
        )
        assert float(figures.drop[n]) == pytest.approx(max(0, before - after) / before, abs=1e-5)
        assert bool(figures.increase[n]) == (after > before)
        assert float(figures.mask_mean[n]) == pytest.approx(float(mask.mean()), abs=1e-6)


def test_the_strongest_pixels_are_kept_with_ties() -> None:
    values = torch.tensor([[[3.0, 1, 2, 2]], [[5, 5, 5, 5]]])
    assert strongest(values, 0.5).tolist() == [[[3, 0, 2, 2]], [[5, 5, 5, 5]]]
    assert torch.equal(strongest(values, 1.0), values)


def test_several_targets_of_an_image_share_it() -> None:
    classifier, images = quadrants(HEIGHT, WIDTH), pixels(2, 3, HEIGHT, WIDTH)
    values = torch.cat([quadrant_map(0), quadrant_map(3), quadrant_map(1), quadrant_map(2)])
    maps = maps_of(values, [0, 3, 1, 2])
    together = confidence(classifier, images, maps)
    apart = confidence(classifier, images[[0, 0, 1, 1]], maps)
    torch.testing.assert_close(together.drop, apart.drop)
    assert together.increase.all()  # each quadrant alone is what its class looks for


# ---- deletion and insertion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
def test_erasing_equals_a_loop_over_steps(fill: str) -> None:
    classifier, images = small_cnn(), pixels(2, 3, HEIGHT, WIDTH)
    maps = maps_of(pixels(2, HEIGHT, WIDTH, seed=1), [1, 2])
    result = erase(classifier, images, maps, fill, steps=6, batch_size=5)
    filled = FILLS[fill](images)
    for n, target in enumerate([1, 2]):
        order = maps.values[n].flatten().argsort(descending=True)
        for step in range(7):
            gone = torch.zeros(HEIGHT * WIDTH, dtype=torch.bool)
            gone[order[: round(step * HEIGHT * WIDTH / 6)]] = True
            gone = gone.view(1, HEIGHT, WIDTH)
            deleted = torch.where(gone, filled[n], images[n])[None]
            inserted = torch.where(gone, images[n], filled[n])[None]
            assert float(result.deletion[n, step]) == pytest.approx(probability(classifier, deleted, target), abs=1e-5)
            assert float(result.insertion[n, step]) == pytest.approx(
                probability(classifier, inserted, target), abs=1e-5
            )
    torch.testing.assert_close(result.deletion_auc, torch.trapezoid(result.deletion, dx=1 / 6))


@pytest.mark.parametrize("steps", [1, 4])
def test_erasing_shares_what_maps_of_an_image_share(steps: int) -> None:
    """Two targets of each of three images are six maps of their own, with fewer passes."""
    classifier, images = small_cnn(), pixels(3, 3, HEIGHT, WIDTH)
    maps = maps_of(pixels(6, HEIGHT, WIDTH, seed=1), [1, 2, 0, 3, 2, 1])
    with counted(classifier) as cost:
        together = erase(classifier, images, maps, "mean", steps, batch_size=4)
    assert cost.forward_passes == 2 * (steps - 1) * 6 + 2 * 3
    apart = erase(classifier, images.repeat_interleave(2, 0), maps, "mean", steps)
    torch.testing.assert_close(together.deletion, apart.deletion, atol=1e-6, rtol=0)
    torch.testing.assert_close(together.insertion, apart.insertion, atol=1e-6, rtol=0)
    assert together.deletion.shape == (6, steps + 1)


def test_the_right_order_deletes_fast_and_inserts_fast() -> None:
    classifier, images = quadrants(HEIGHT, WIDTH), torch.full((1, 3, HEIGHT, WIDTH), 0.8)
    right, wrong = (erase(classifier, images, maps_of(quadrant_map(k), [2])) for k in (2, 1))
    assert right.deletion_auc + 0.2 < wrong.deletion_auc
    assert right.insertion_auc - 0.2 > wrong.insertion_auc


def test_ties_are_broken_at_random_and_each_pixel_goes_once() -> None:
    values = torch.stack([torch.zeros(5, 8), pixels(5, 8), pixels(5, 8).round()])
    order = removal_order(values)
    assert all(sorted(one.flatten().tolist()) == list(range(40)) for one in order)
    assert order[0].flatten().tolist() != list(range(40))
    assert not torch.equal(order[0], removal_order(values, seed=1)[0])
    torch.testing.assert_close(
        values.flatten(1).gather(1, order.flatten(1).argsort(1)), values.flatten(1).sort(1, descending=True).values
    )


def test_fills() -> None:
    images = pixels(2, 3, HEIGHT, WIDTH)
    assert not FILLS["black"](images).any()
    torch.testing.assert_close(FILLS["mean"](images)[1, 2], images[1, 2].mean().expand(HEIGHT, WIDTH))
    from torchvision.transforms.functional import gaussian_blur

    torch.testing.assert_close(FILLS["blur"](images), gaussian_blur(images, [11, 11], [5.0, 5.0]))
    assert FILLS["blur"](pixels(1, 1, 4, 30)).shape == (1, 1, 4, 30)  # less than the kernel


def test_area_of_a_line() -> None:
    torch.testing.assert_close(area(torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]])), torch.tensor([0.5]))


def test_deletion_agrees_with_quantus_pixel_flipping() -> None:
    """On gray images with a black pixel: it flips one channel at a time, and its black is the least value it sees."""
    quantus = pytest.importorskip("quantus", exc_type=ImportError)
    classifier, images = small_cnn().eval(), pixels(2, 1, 8, 12)
    images[:, :, 0, 0] = 0
    maps = maps_of(pixels(2, 8, 12, seed=1), [1, 2])
    ours = erase(classifier, images, maps, "black", steps=12)
    flipping = quantus.PixelFlipping(
        features_in_step=8, perturb_baseline="black", disable_warnings=True, abs=False, normalise=False,
        return_aggregate=False,
    )  # fmt: skip
    theirs = flipping(
        model=classifier,  # it takes the softmax of what this returns
        x_batch=images.numpy(),
        y_batch=maps.targets.numpy(),
        a_batch=maps.values[:, None].numpy(),
        device="cpu",
    )
    for curve, their in zip(ours.deletion, theirs, strict=True):
        np.testing.assert_allclose(curve[1:], their, atol=1e-5)


# ---- ROAD ------------------------------------------------------------------------------------------------------------


def solved(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The linear system of one channel, written out pixel by pixel."""
    places = list(zip(*np.nonzero(removed), strict=True))
    number = {place: i for i, place in enumerate(places)}
    system, right = lil_matrix((len(places), len(places))), np.zeros(len(places))
    for (row, column), i in number.items():
        for down in (-1, 0, 1):
            for along in (-1, 0, 1):
                place, weight = (row + down, column + along), NEIGHBOURS[down + 1][along + 1]
                if not (0 <= place[0] < image.shape[0] and 0 <= place[1] < image.shape[1]):
                    continue
                system[i, i] += weight
                if place in number:
                    system[i, number[place]] -= weight
                else:
                    right[i] += weight * image[place]
    filled = image.copy()
    filled[removed] = spsolve(system.tocsr(), right)
    return filled


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("scattered", [True, False])
def test_imputation_solves_the_system(share: float, scattered: bool) -> None:
    images, height, width = pixels(2, 3, 13, 18), 13, 18
    order = removal_order(pixels(2, height, width, seed=2) if scattered else torch.ones(2, height, width).cumsum(1))
    removed = (order < share * height * width)[:, None]
    ours = imputed(images, removed, tolerance=1e-6)
    for n in range(2):
        for c in range(3):
            expected = solved(images[n, c].double().numpy(), removed[n, 0].numpy())
            np.testing.assert_allclose(ours[n, c], expected, atol=2e-4)


def test_imputation_agrees_with_the_grad_cam_package() -> None:
    metrics = pytest.importorskip("pytorch_grad_cam.metrics.road")
    image, removed = pixels(1, 3, 20, 30), (pixels(1, 1, 20, 30, seed=3) < 0.7)
    theirs = metrics.NoisyLinearImputer(noise=0)(image[0], (~removed[0, 0]).float())
    torch.testing.assert_close(imputed(image, removed, tolerance=1e-6)[0], theirs, atol=2e-4, rtol=0)


def test_a_constant_image_is_imputed_exactly() -> None:
    removed = torch.ones(1, 1, 9, 14, dtype=torch.bool)
    removed[0, 0, 3, 5] = False
    torch.testing.assert_close(imputed(torch.full((1, 2, 9, 14), 0.3), removed), torch.full((1, 2, 9, 14), 0.3))


def test_road_tells_the_right_map_from_the_wrong() -> None:
    classifier = quadrants(HEIGHT, WIDTH, strength=40)
    images = 0.3 + 0.1 * pixels(2, 3, HEIGHT, WIDTH)
    images[:, :, :12, 16:] += 0.4  # class 1
    right = road(classifier, images, maps_of(quadrant_map(1).expand(2, -1, -1), [1, 1]), (0.25, 0.5), batch_size=1)
    wrong = road(classifier, images, maps_of(quadrant_map(2).expand(2, -1, -1), [1, 1]), (0.25, 0.5))
    assert right.most_relevant_first.shape == (2, 2)
    assert right.least_relevant_first.eq(1).all()
    assert (right.score >= wrong.score).all()
    assert right.score.mean() > wrong.score.mean() + 0.1


def test_road_counts_unchanged_predictions() -> None:
    """A classifier that looks at the number of pixels that are not 1 changes as soon as enough are replaced."""

    class Share(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            whole = (x == 1).float().mean((1, 2, 3))
            return torch.stack([whole, torch.full_like(whole, 0.65)], 1)

    classifier: Any = PixelClassifier.wrap(Share(), mean=(0.0,) * 3, std=(1.0,) * 3)
    result = road(classifier, torch.ones(1, 3, HEIGHT, WIDTH), maps_of(pixels(1, HEIGHT, WIDTH), [0]), (0.2, 0.5))
    assert result.most_relevant_first.tolist() == result.least_relevant_first.tolist() == [[1, 0]]
    assert result.score.tolist() == [0]
