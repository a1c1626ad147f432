"""The error of a student's way, its exact decomposition, and students with no error at all."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_sets import digits, network, real_subset

from distill.data import as_float
from distill.distilled import Distilled
from distill.trajectory_error import Steps, displacement, segments, trajectory_error
from workbench import seeds


def exact(distilled: Distilled) -> Distilled:
    return replace(distilled, images=distilled.images.double())


def experts(distilled: Distilled, times: int = 4, steps: int = 3) -> torch.Tensor:
    """Two experts trained on real images by plain gradient descent: snapshots in float64."""
    flat = network()
    theta = torch.stack([flat.initial(seeds.generator(k)) for k in range(2)]).double()
    images, labels = distilled.transform.apply(as_float(digits()))[:40].double(), digits().labels[:40]
    found = [theta]
    for _ in range(times - 1):
        for _ in range(steps):
            leaves = [one.clone().requires_grad_() for one in theta]
            losses = [F.cross_entropy(flat(leaf, images), labels) for leaf in leaves]
            theta = theta - 0.1 * torch.stack(torch.autograd.grad(sum(losses), leaves))
        found.append(theta)
    return torch.stack(found, 1)


def test_the_error_is_the_sum_of_its_parts() -> None:
    made = exact(real_subset(2))
    snapshots = experts(made)
    error = torch.zeros_like(snapshots[:, 0])
    for segment in segments(made, network(), snapshots, Steps(5, 4, "crop_scale")):
        expected = error + segment.initialisation + segment.matching
        torch.testing.assert_close(segment.error, expected, rtol=0, atol=1e-13)
        error = segment.error


def test_a_student_is_trained_by_plain_sgd() -> None:
    """Without augmentation and on all images there is one way; with smaller batches, every image has its turn."""
    made, flat = exact(real_subset(2)), network()
    start = experts(made)[:, 0]
    theta = start[1].clone()
    for _ in range(4):
        leaf = theta.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(flat(leaf, made.images), made.labels), [leaf])
        theta = (theta - made.step_size * gradient).detach()
    moved = displacement(start, made, flat, Steps(4), seeds.generator(0))
    torch.testing.assert_close(start[1] + moved[1], theta, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(moved, displacement(start, made, flat, Steps(4, 3), seeds.generator(0)))


def test_a_student_on_its_experts_own_data_makes_no_error() -> None:
    made = real_subset(2)
    images = made.transform.apply(as_float(digits()))[:40].double()
    same = replace(made, images=images, labels=digits().labels[:40], step_size=0.1)
    rows = trajectory_error(same, network(), experts(made), Steps(3), images, same.labels)
    assert len(rows) == 3
    for row in rows:
        assert row["accumulated"] < 1e-12
        assert row["loss_gap"] == pytest.approx(0, abs=1e-12)
    assert rows[2]["loss"] < rows[0]["loss"]


def test_errors_accumulate_and_restarting_keeps_them_small() -> None:
    made = exact(real_subset(2))
    test = digits("test")
    rows = trajectory_error(
        made, network(), experts(made, 7), Steps(6), made.transform.apply(as_float(test)).double(), test.labels
    )
    assert rows[0]["accumulated"] == rows[0]["restarted"]
    assert rows[0]["initialisation"] == 0
    assert rows[-1]["accumulated"] > 1.5 * rows[-1]["restarted"]
    assert rows[-1]["loss"] == pytest.approx(rows[-1]["loss_expert"] + rows[-1]["loss_gap"])
