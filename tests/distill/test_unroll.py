"""The gradient of trajectory matching: the adjoint is exact, needs no memory of the steps, and is not TESLA's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill import augment, unroll
from distill.augment import Draw
from distill.flat import FlatNetwork
from distill.nets import NetworkSpec, build_network
from distill.unroll import Gradients, Way, gradients
from workbench import seeds

STRATEGY = "color_crop_cutout_flip_scale_rotate"
NETWORK = FlatNetwork(build_network(NetworkSpec("convnet", 3, 1, (8, 6), width=6, depth=2)))


def problem(steps: int, soft: bool, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """A way to match of six images in batches of four, so that rows repeat; every family of augmentation comes."""
    generator = seeds.generator(seed, steps)
    start = NETWORK.initial(generator).to(dtype)
    families = STRATEGY.split("_")
    logits = torch.randn(6, 3, generator=generator)
    return {
        "theta_start": start,
        "target": start + 0.05 * torch.randn(len(start), generator=generator).to(dtype),
        "images": torch.randn(6, 1, 8, 6, generator=generator).to(dtype),
        "labels": logits.to(dtype) if soft else torch.arange(6) % 3,
        "step_size": torch.tensor(0.1, dtype=dtype),
        "batches": [torch.randperm(6, generator=generator)[:4] for _ in range(steps)],
        "draws": [augment.draw(families[k % len(families)], 4, (8, 6), generator) for k in range(steps)],
    }


def errors(found: Gradients, expected: Gradients) -> dict[str, float]:
    """Relative error of each derivative that there is."""
    pairs = {name: (getattr(found, name), getattr(expected, name)) for name in Gradients._fields}
    return {name: float((a - b).norm() / b.norm()) for name, (a, b) in pairs.items() if b is not None}


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_the_adjoint_is_the_gradient_of_the_whole_unroll(steps: int, soft: bool) -> None:
    given = problem(steps, soft)
    found = errors(gradients(NETWORK, **given), gradients(NETWORK, **given, mode="autograd"))
    assert max(found.values()) < 1e-9, found
    assert ("labels" in found) == soft


@pytest.mark.parametrize("keep_every", [2, 3, 5, 9])
def test_vectors_may_be_computed_again(keep_every: int) -> None:
    given = problem(5, True)
    for found, expected in zip(
        gradients(NETWORK, **given, keep_every=keep_every), gradients(NETWORK, **given), strict=True
    ):
        assert found is not None
        assert torch.equal(found, expected)


@given(st.integers(0, 30), st.integers(1, 40))
def test_a_way_is_gone_back_step_by_step(steps: int, keep_every: int) -> None:
    """With the vectors of one stretch in memory beside the kept ones."""
    way = Way(lambda theta, k: theta + 1, torch.tensor([0.0]), steps, keep_every)
    assert len(way.kept) == -(-steps // keep_every)
    assert [(k, int(theta)) for k, theta in way.back()] == [(k, k) for k in reversed(range(steps))]
    assert int(way.end) == steps


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_frozen_adjoint_is_exact_for_one_step_alone(soft: bool) -> None:
    one, five = problem(1, soft), problem(5, soft)
    assert max(errors(gradients(NETWORK, **one, mode="frozen"), gradients(NETWORK, **one)).values()) < 1e-12
    found = errors(gradients(NETWORK, **five, mode="frozen"), gradients(NETWORK, **five))
    assert min(found["images"], found.get("labels", 1)) > 0.05


def test_frozen_is_teslas_formula() -> None:
    """dstep_size = -(2 / D) (theta_0 - step_size G - target)^T G, with G the sum of all steps' gradients."""
    given = problem(5, False)
    theta, total = given["theta_start"], torch.zeros_like(given["theta_start"])
    for rows, drawn in zip(given["batches"], given["draws"], strict=True):
        leaf = theta.clone().requires_grad_()
        x = augment.apply(given["images"][rows], drawn)
        (g,) = torch.autograd.grad(unroll.student_loss(NETWORK, leaf, x, given["labels"][rows]), leaf)
        theta, total = theta - 0.1 * g, total + g
    distance = (given["theta_start"] - given["target"]).square().sum()
    expected = -2 / distance * (given["theta_start"] - 0.1 * total - given["target"]) @ total
    torch.testing.assert_close(gradients(NETWORK, **given, mode="frozen").step_size, expected)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_derivatives_are_those_of_finite_differences(soft: bool) -> None:
    given, step = problem(5, soft), 1e-6
    found = gradients(NETWORK, **given)

    def loss_at(name: str, place: tuple[int, ...], change: float) -> float:
        moved = given[name].clone()
        moved[place] += change
        return float(gradients(NETWORK, **{**given, name: moved}).loss)

    places: list[tuple[str, tuple[int, ...]]] = [("step_size", ())]
    places += [("images", (k % 6, 0, k % 8, k % 5)) for k in (0, 3, 7, 11, 16)]
    places += [("labels", (2, 1))] if soft else []
    for name, place in places:
        expected = (loss_at(name, place, step) - loss_at(name, place, -step)) / (2 * step)
        assert float(getattr(found, name)[place]) == pytest.approx(expected, rel=1e-5, abs=1e-8), (name, place)


def test_single_precision_is_precise() -> None:
    found = gradients(NETWORK, **problem(12, True, dtype=torch.float32))
    exact = gradients(NETWORK, **problem(12, True))
    double = Gradients(*[value if value is None else value.double() for value in found])
    assert max(errors(double, exact).values()) < 2e-5


def test_without_a_step_nothing_is_matched() -> None:
    given = {**problem(1, False), "batches": [], "draws": []}
    found = gradients(NETWORK, **given)
    assert float(found.loss) == pytest.approx(1)
    assert not found.images.any()
    assert float(found.step_size) == 0


def test_other_augmentation_in_the_way_back_would_be_another_gradient() -> None:
    """The draws matter: a guard that the comparison above does not hold for want of augmentation."""
    given = problem(2, False)
    other = {**given, "draws": [Draw("none", torch.empty(4, 0))] * 2}
    assert errors(gradients(NETWORK, **other), gradients(NETWORK, **given))["images"] > 0.01


def saved_megabytes(run: Callable[[], object]) -> float:
    """The most that autograd has kept for later at any time."""
    alive = most = 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive, most
            self.tensor, self.bytes = tensor, tensor.numel() * tensor.element_size()
            alive += self.bytes
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.bytes

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run()
    return most / 1e6


def test_memory_does_not_grow_with_the_steps() -> None:
    def adjoint(steps: int) -> float:
        return saved_megabytes(lambda: gradients(NETWORK, **problem(steps, True)))

    def unrolled(steps: int) -> float:
        return saved_megabytes(lambda: gradients(NETWORK, **problem(steps, True), mode="autograd"))

    assert adjoint(40) <= 1.01 * adjoint(5)
    assert unrolled(20) > 3.5 * unrolled(5)  # the counter counts
    assert unrolled(20) > 8 * adjoint(20)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_the_functions_that_are_compiled_compute_the_same(soft: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompiled here, because compilers take a minute; bench/ftd_speed.py compares the compiled ones too."""
    monkeypatch.setattr(torch, "compile", lambda **_: lambda function: function)
    unroll._compiled_steps.cache_clear()
    given = problem(3, soft)
    found = errors(gradients(NETWORK, **given, compiled=True), gradients(NETWORK, **given))
    unroll._compiled_steps.cache_clear()
    assert max(found.values()) < 1e-12


def test_inputs_that_require_gradients_leave_no_graph_behind() -> None:
    given = problem(2, True)
    for name in ("images", "labels", "step_size"):
        given[name] = given[name].requires_grad_()
    assert not any(value.requires_grad for value in gradients(NETWORK, **given) if value is not None)
