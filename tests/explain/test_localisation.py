"""Pointing, energy, IoU curve, boxes, pixel precision, class discrimination: goldens, libraries, invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from toy_classifiers import pixels

from explain.maps import stretched
from explain.measures.boxes import box_accuracy
from explain.measures.iou import held_out_iou, iou_curves, summarised
from explain.measures.localisation import class_discrimination, energy_inside, pointing_game
from explain.measures.pixel_precision import pixel_average_precision
from workbench.errors import UserError

SIZE = (12, 18)


def golden() -> tuple[torch.Tensor, torch.Tensor]:
    """28 x 28: an off-centre Gaussian, and the mask of columns 6 to 18, rows 9 to 19."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    values = torch.exp(-(((x - 12) / 5) ** 2) - ((y - 14) / 4) ** 2)
    mask = torch.zeros(1, 28, 28, dtype=torch.bool)
    mask[0, 9:20, 6:19] = True
    return stretched(values[None]), mask


def blobs(n: int = 5, seed: int = 0) -> torch.Tensor:
    """Masks of one to several pixels."""
    return (pixels(n, *SIZE, seed=seed) > 0.7) & (pixels(n, 1, SIZE[1], seed=seed + 1) > 0.2)


# ---- IoU curve -------------------------------------------------------------------------------------------------------


def test_iou_curve_golden() -> None:
    curve = summarised(iou_curves(*golden()))
    assert float(curve.mean[0]) == pytest.approx(0.182398, abs=1e-6)
    assert curve.peak == pytest.approx(0.856209, abs=1e-6)
    assert curve.peak_threshold == 28 / 255
    assert curve.area == pytest.approx(0.359871, abs=1e-6)


def test_iou_curve_equals_a_loop_over_thresholds() -> None:
    values, masks, ignored = pixels(4, *SIZE), blobs(4), pixels(4, *SIZE, seed=5) > 0.8
    masks &= ~ignored
    curves = iou_curves(values, masks, ignored)
    levels = (values * 255).round()
    for t in (0, 1, 77, 254, 255):
        found = (levels >= t) & ~ignored
        expected = (found & masks).sum((1, 2)) / (found | masks).sum((1, 2))
        torch.testing.assert_close(curves[:, t], expected)


def test_iou_of_the_mask_itself_and_of_a_constant() -> None:
    masks = blobs()
    perfect = summarised(iou_curves(masks.float(), masks))
    assert (perfect.peak, perfect.peak_threshold) == (1, 1)
    flat = iou_curves(stretched(torch.full((5, *SIZE), 0.4)), masks)
    torch.testing.assert_close(flat[:, 0], masks.float().mean((1, 2)))
    assert not flat[:, 1:].any()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 50), st.floats(-20, 20), st.integers(0, 1000))
def test_iou_ignores_scale_and_offset(scale: float, offset: float, seed: int) -> None:
    values, masks = pixels(3, *SIZE, seed=seed).double(), blobs(3)
    first, second = (iou_curves(stretched(v), masks) for v in (values, values * scale + offset))
    torch.testing.assert_close(first, second, atol=0.02, rtol=0)  # rounding to 256 levels may move a pixel


def test_the_threshold_is_chosen_on_other_images() -> None:
    validation = torch.tensor([[0.0, 0.2, 0.9, 0.9, 0.1]])
    test = torch.tensor([[0.5, 0.8, 0.4, 0.3, 0.1], [0.0, 0.0, 0.7, 0.6, 0.0]])
    assert held_out_iou(validation, test).tolist() == pytest.approx([0.3, 0.6])
    assert summarised(test).mean_of_peaks == pytest.approx(0.75)


def test_bad_values_and_empty_masks_are_refused() -> None:
    with pytest.raises(UserError, match="stretch them"):
        iou_curves(torch.full((1, *SIZE), torch.nan), blobs(1))
    with pytest.raises(UserError, match="stretch them"):
        pixel_average_precision(pixels(1, *SIZE) * 2, blobs(1))
    with pytest.raises(UserError, match="empty"):
        iou_curves(pixels(1, *SIZE), torch.zeros(1, *SIZE, dtype=torch.bool))


# ---- boxes -----------------------------------------------------------------------------------------------------------


def test_box_golden() -> None:
    result = box_accuracy(*golden(), thresholds=100)
    assert result.best.max() == pytest.approx(0.851190, abs=1e-6)
    assert result.best[0].argmax() == 14
    assert result.v1() == 1
    assert result.v2() == 1


def test_best_of_all_parts_against_the_largest() -> None:
    values = torch.zeros(1, *SIZE)
    values[0, 1:3, 1:4] = 1.0  # the object: 2 x 3
    values[0, 5:11, 8:16] = 0.9  # a larger part
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 1:3, 1:4] = True
    result = box_accuracy(values, mask, thresholds=10)
    assert result.best[0, 5] == pytest.approx(6 / 12)  # one pixel beyond to the right and below: 3 x 4
    assert result.largest[0, 5] == 0
    assert result.largest[0, 9] == pytest.approx(6 / 12)  # above 0.9 there is the object alone
    assert result.v2() == pytest.approx(2 / 3)


def test_an_empty_map_has_a_box_in_the_corner() -> None:
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 0, 0] = True
    assert box_accuracy(torch.zeros(1, *SIZE), mask, 5).best.tolist() == [[1] * 5]


def test_thresholds_are_taken_together_only_where_they_are_one() -> None:
    values, masks = pixels(2, *SIZE) * 0.4, blobs(2)
    few, many = box_accuracy(values, masks, 10), box_accuracy(values, masks, 1000)
    np.testing.assert_array_equal(few.best, many.best[:, ::100])


# ---- pixel precision -------------------------------------------------------------------------------------------------


def test_pixel_precision_equals_scikit_learn() -> None:
    values, masks = (pixels(6, *SIZE) * 1000).round() / 1000, blobs(6)
    expected = average_precision_score(masks.flatten().numpy(), values.flatten().numpy())
    assert pixel_average_precision(values, masks) == pytest.approx(expected, abs=1e-6)


def test_pixel_precision_without_ignored_pixels() -> None:
    values, masks, ignored = pixels(3, *SIZE), blobs(3), pixels(3, *SIZE, seed=4) > 0.5
    moved = torch.where(ignored, 1.0, values)
    assert pixel_average_precision(values, masks, ignored) == pixel_average_precision(moved, masks, ignored)
    assert pixel_average_precision(masks.float(), masks) == 1


# ---- pointing, energy, classes ---------------------------------------------------------------------------------------


def test_pointing_game_agrees_with_quantus() -> None:
    quantus = pytest.importorskip("quantus", exc_type=ImportError)
    values, masks = pixels(20, *SIZE), blobs(20)
    metric = quantus.PointingGame(abs=False, normalise=False, disable_warnings=True, return_aggregate=False)
    theirs = _quantus(metric, values, masks)
    assert 0 < sum(theirs) < 20
    assert pointing_game(values, masks).tolist() == [float(hit) for hit in theirs]


def test_energy_agrees_with_quantus() -> None:
    quantus = pytest.importorskip("quantus", exc_type=ImportError)
    values, masks = pixels(5, *SIZE), blobs(5)
    metric = quantus.RelevanceMassAccuracy(abs=False, normalise=False, disable_warnings=True, return_aggregate=False)
    torch.testing.assert_close(
        energy_inside(values, masks).double(), torch.tensor(_quantus(metric, values, masks)).double()
    )


def _quantus(metric, values: torch.Tensor, masks: torch.Tensor) -> list[float]:  # type: ignore[no-untyped-def]
    network = torch.nn.Flatten()
    return metric(
        model=network,
        x_batch=np.zeros((len(values), 1, *SIZE), np.float32),
        y_batch=np.zeros(len(values), int),
        a_batch=values[:, None].numpy(),
        s_batch=masks[:, None].numpy(),
        device="cpu",
    )


def test_pointing_with_ties_and_tolerance() -> None:
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 4:7, 5:9] = True
    share = 12 / (SIZE[0] * SIZE[1])
    assert float(pointing_game(torch.ones(1, *SIZE), mask)) == pytest.approx(share)
    beside = torch.zeros(1, *SIZE)
    beside[0, 2, 5] = 1
    assert [float(pointing_game(beside, mask, tolerance)) for tolerance in (0, 1, 2, 3)] == [0, 0, 1, 1]


def test_energy_of_nothing_is_the_share_of_the_object() -> None:
    masks = blobs(2)
    torch.testing.assert_close(energy_inside(torch.zeros(2, *SIZE), masks), masks.float().mean((1, 2)))
    with pytest.raises(UserError, match="negative"):
        energy_inside(-pixels(2, *SIZE), masks)


def test_class_discrimination() -> None:
    own, other = torch.zeros(2, 1, *SIZE, dtype=torch.bool)
    own[:, 1:4, 1:4], other[:, 8:11, 10:15] = True, True
    values = torch.zeros(3, *SIZE)
    values[0, 2, 2], values[0, 9, 11] = 0.7, 0.5
    values[1, 2, 2], values[1, 9, 11] = 0.5, 0.7
    masks = [mask.expand(3, -1, -1) for mask in (own, other)]
    assert class_discrimination(values, *masks).tolist() == [1, 0, 0.5]
