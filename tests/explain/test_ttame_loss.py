"""The terms of the loss against the paper's sums written out."""

import pytest
import torch
import torch.nn.functional as F
from colour_blocks import colour_classifier
from torch import Tensor

from explain.ttame_loss import (
    area_loss,
    confidence_loss,
    own_prediction,
    variation_factor,
    variation_loss,
)


def maps_of(batch: int, each: int, height: int = 5, width: int = 7, seed: int = 0) -> Tensor:
    return torch.rand(batch, each, height, width, generator=torch.Generator().manual_seed(seed))


def papers_variation(maps: Tensor) -> float:
    """A sum over all maps, places and neighbours, corners of the border counted twice, over twice the batch."""
    batch, each, height, width = maps.shape
    total = 0.0
    for b in range(batch):
        for k in range(each):
            a = maps[b, k].tolist()
            total += sum((a[r + 1][c] - a[r][c]) ** 2 for r in range(height - 1) for c in range(width))
            total += sum((a[r][c + 1] - a[r][c]) ** 2 for r in range(height) for c in range(width - 1))
            border = sum(a[r][c] ** 2 for r in (0, height - 1) for c in range(width))
            border += sum(a[r][c] ** 2 for r in range(height) for c in (0, width - 1))
            total += 0.3 * border
    return total / (2 * batch)


def test_variation_at_the_papers_batch_is_the_papers() -> None:
    every, own = maps_of(32, 32, 3, 4), maps_of(32, 1)
    mine = variation_factor("batch") * variation_loss(every).item()
    assert mine == pytest.approx(papers_variation(every), rel=1e-5)
    assert variation_factor("own") * variation_loss(own).item() == pytest.approx(papers_variation(own), rel=1e-5)


def test_the_batch_size_does_not_change_the_variation() -> None:
    """The same maps over and over: the paper's own sum would grow with the batch."""
    one = maps_of(1, 1)
    small, large = one.expand(4, 4, -1, -1), one.expand(16, 16, -1, -1)
    assert variation_loss(small).item() == pytest.approx(variation_loss(large).item(), rel=1e-5)
    assert papers_variation(large) == pytest.approx(4 * papers_variation(small), rel=1e-5)


def test_a_finer_grid_does_not_change_the_slopes_of_a_smooth_map() -> None:
    def bump(side: int) -> Tensor:
        x = (torch.arange(side) + 0.5) / side - 0.5
        return torch.exp(-40 * (x[:, None] ** 2 + x**2))[None, None]

    assert variation_loss(bump(28)).item() == pytest.approx(variation_loss(bump(56)).item(), rel=0.02)


def test_area_is_a_mean_of_powers() -> None:
    maps = maps_of(2, 3)
    expected = sum((a + 5e-4) ** 0.3 for a in maps.flatten().tolist()) / maps.numel()
    assert area_loss(maps, 0.3).item() == pytest.approx(expected, rel=1e-5)
    zeros = torch.zeros(1, 1, 3, 4, requires_grad=True)
    area_loss(zeros, 0.3).backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_confidence_is_the_entropy_towards_what_was_seen() -> None:
    logits, classes = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1])
    single = confidence_loss(colour_classifier(), logits, classes)
    torch.testing.assert_close(single, -logits.log_softmax(1)[range(4), classes].mean())
    several = confidence_loss(colour_classifier(multi_label=True), logits, classes)
    torch.testing.assert_close(several, F.softplus(-logits[range(4), classes]).mean())


def test_the_target_is_the_classifiers_own() -> None:
    logits = torch.tensor([[0.1, 2.0, 1.0], [3.0, -1.0, 2.9]])
    assert own_prediction(colour_classifier(), logits, torch.tensor([0.9, 0.9])).tolist() == [1, 0]


def test_of_several_classes_seen_each_is_picked_as_often() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0]]).expand(1000, 3)
    choice = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    picked = own_prediction(colour_classifier(multi_label=True), logits, choice)
    assert set(picked.tolist()) == {0, 2}
    assert (picked == 0).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert own_prediction(colour_classifier(multi_label=True), logits[:2], torch.tensor([0.0, 1 - 1e-7])).tolist() == [
        0,
        2,
    ]


def test_where_no_class_is_above_one_half_the_likeliest_is_taken() -> None:
    logits = torch.tensor([[-3.0, -1.0, -2.0]])
    assert own_prediction(colour_classifier(multi_label=True), logits, torch.tensor([0.7])).tolist() == [1]
