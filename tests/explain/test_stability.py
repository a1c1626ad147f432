from typing import Any

import pytest
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from explain.prompts import Prompts
from explain.stability import iou, prompt_stability, without

TWO = Prompts(((1.0, 2.0), (9.0, 2.0), (5.0, 7.0)), (1, 1, -1), None, (0.5, 0.4, -0.1))
HEIGHT, WIDTH = 8, 12


class Columns:
    """Cuts out the left half for a point there, the right half for one there, and always the whole picture too."""

    name, trained, classical = "columns", True, True

    def __init__(self) -> None:
        self.asked: list[Prompts] = []

    def embed(self, image: Any) -> None:
        return None

    def masks(self, embedding: None, prompts: Prompts) -> tuple[Bool[Tensor, "n h w"], Float[Tensor, " n"]]:
        self.asked.append(prompts)
        half = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        for (x, _), sign in zip(prompts.points, prompts.signs, strict=True):
            if sign > 0:
                half[:, slice(0, 6) if x < WIDTH / 2 else slice(6, None)] = True
        return torch.stack([half, torch.ones_like(half)]), torch.ones(2)


def test_each_positive_point_is_left_out_once_and_the_nearest_mask_counts() -> None:
    segmenter = Columns()
    left = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    left[:, :6] = True
    # without the right point it is found again; without the left one the whole picture is nearer than the right half
    assert prompt_stability(segmenter, None, TWO, left) == pytest.approx((1 + 0.5) / 2)
    assert [one.points for one in segmenter.asked] == [TWO.points[1:], (TWO.points[0], TWO.points[2])]
    assert [one.signs for one in segmenter.asked] == [(1, -1), (1, -1)]


def test_a_single_point_cannot_be_left_out() -> None:
    one = without(TWO, 0)
    assert one.peak_values == (0.4, -0.1)
    assert prompt_stability(Columns(), None, one, torch.ones(HEIGHT, WIDTH, dtype=torch.bool)) is None


def test_intersection_over_union() -> None:
    empty, whole = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    assert (iou(empty, empty), iou(empty, whole), iou(whole, whole)) == (1, 0, 1)
