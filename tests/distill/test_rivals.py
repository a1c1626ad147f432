"""Distribution and gradient matching: their losses by hand, runs stopped and gone on with, images that got better."""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from tiny_sets import SPEC, digits, network, real_subset
from torch import nn

from distill.baselines.distribution import distribution_step
from distill.baselines.gradient import GradientSettings, gradient_distance, gradient_step, published_loops
from distill.baselines.pixels import PixelSettings, Pools, Step, optimise
from distill.data import as_float
from distill.evaluate import measure
from distill.evaluation_config import TrainingRecipe
from distill.nets import build_network
from workbench import seeds
from workbench.errors import UserError

RECIPE = TrainingRecipe(epochs=60, augmentation="crop_scale")


def pools() -> Pools:
    data = digits()
    return Pools(real_subset().transform.apply(as_float(data)), data.labels, 3)


def dm(batch_real: int = 32, augmentation: str = "crop_scale") -> Step:
    return distribution_step(pools(), real_subset(2).labels, network(), augmentation, batch_real)


def dc(augmentation: str = "none", updates: int = 3) -> Step:
    settings = GradientSettings(updates, 2, augmentation, batch_real=32, batch_train=4)
    return gradient_step(pools(), real_subset(2).labels, network(), settings)


def test_distribution_matching_by_hand() -> None:
    """One update of images from the whole pool, against the formula with torch's own modules."""
    made, generator = real_subset(2), seeds.generator(1)
    images = nn.Parameter(made.images.clone())
    loss = dm(10**6, "none")(images, torch.optim.SGD([images], 1.0), generator)

    flat, module = network(), build_network(SPEC)
    module.load_state_dict(flat.unflatten(flat.initial(seeds.generator(1))))
    own = nn.Parameter(made.images.clone())
    total = torch.zeros(())
    for k in range(3):
        real = pools().images[digits().labels == k]
        total = total + (module.features(real).mean(0) - module.features(own[2 * k : 2 * k + 2]).mean(0)).square().sum()
    total.backward()
    assert loss == pytest.approx(total.item(), rel=1e-4)
    torch.testing.assert_close(images.detach(), made.images - own.grad, rtol=1e-4, atol=1e-5)


def test_gradient_distance_by_hand() -> None:
    draw = seeds.generator(0)
    first = {"conv": torch.randn(4, 3, 3, 3, generator=draw), "norm": torch.randn(4, generator=draw)}
    second = {"conv": torch.randn(4, 3, 3, 3, generator=draw), "norm": torch.randn(4, generator=draw)}
    rows = zip(first["conv"].flatten(1), second["conv"].flatten(1), strict=True)
    expected = sum(1 - (a @ b) / (a.norm() * b.norm()) for a, b in rows)
    assert gradient_distance(first, second) == pytest.approx(expected)
    assert gradient_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert gradient_distance(first, {"conv": 5 * first["conv"], "norm": -first["norm"]}) == pytest.approx(0, abs=1e-6)


def test_gradient_matching_by_finite_differences() -> None:
    """The update of one pixel is the slope of the mismatch in it."""
    data = pools()
    exact = replace(data, images=data.images.double())
    settings = GradientSettings(1, 0, "none", batch_real=10**6)
    flat = network()
    flat.module.double()
    step = gradient_step(exact, real_subset(1).labels, flat, settings)

    def loss(images: torch.Tensor) -> tuple[float, torch.Tensor]:
        leaf = nn.Parameter(images.clone())
        found = step(leaf, torch.optim.SGD([leaf], 1.0), seeds.generator(2))
        return found, images - leaf.detach()

    start = real_subset(1).images.double()
    moved = torch.zeros_like(start)
    moved[1, 0, 4, 2] = 1e-5
    slope = (loss(start + moved)[0] - loss(start - moved)[0]) / 2e-5
    assert slope == pytest.approx(loss(start)[1][1, 0, 4, 2].item(), rel=1e-4)


@pytest.mark.parametrize("rule", [dm, dc])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(rule: object, tmp_path: Path) -> None:
    settings = PixelSettings(4, 0.5, checkpointing_steps=2)
    whole = optimise(real_subset(2).images, rule(), settings, tmp_path / "whole", "whole")

    class Stopped(Exception):
        pass

    calls = 0
    step = rule()

    def stopping(*rest: object) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Stopped
        return step(*rest)

    with pytest.raises(Stopped):
        optimise(real_subset(2).images, stopping, settings, tmp_path / "run", "run")
    resumed = optimise(torch.zeros_like(whole), step, settings, tmp_path / "run", "run")
    assert torch.equal(resumed, whole)
    assert not torch.equal(whole, real_subset(2).images)


def test_images_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    def explode(images: nn.Parameter, optimizer: torch.optim.SGD, generator: torch.Generator) -> float:
        with torch.no_grad():
            images[0, 0, 0, 0] = torch.nan
        return 1.0

    with pytest.raises(UserError, match="smaller pixel learning rate than 3"):
        optimise(real_subset(1).images, explode, PixelSettings(1, 3.0), tmp_path / "x", "x")


@pytest.mark.parametrize(("rule", "rate", "iterations"), [("dm", 1.0, 60), ("dc", 0.5, 25)])
def test_images_train_better_networks_than_those_they_began_as(
    rule: str, rate: float, iterations: int, tmp_path: Path
) -> None:
    began = real_subset(1)
    labels = began.labels
    step = (
        distribution_step(pools(), labels, network(), "crop_scale", 64)
        if rule == "dm"
        else gradient_step(pools(), labels, network(), GradientSettings(1, 1, "crop_scale", 64))
    )
    images = optimise(began.images, step, PixelSettings(iterations, rate), tmp_path / rule, rule)
    flat = network()
    before = mean(measure(began, flat, RECIPE, digits("test"), 3))
    after = mean(measure(replace(began, images=images), flat, RECIPE, digits("test"), 3))
    assert after > before + 0.03


def test_published_loops() -> None:
    assert [published_loops(count) for count in (1, 5, 10, 50, 100)] == [(1, 1), (10, 50), (10, 50), (50, 10), (50, 10)]


def test_pools_draw_no_image_twice_and_of_one_class() -> None:
    data = pools()
    drawn = data.draw(1, 20, seeds.generator(0))
    assert len(drawn.unique(dim=0)) == 20
    members = data.images[data.labels == 1]
    assert all((members == image).flatten(1).all(1).any() for image in drawn)
    assert len(data.draw(1, 10**6, seeds.generator(0))) == len(members)
