"""Training and measuring networks on a small set: against torch's own SGD, whatever stands beside a network."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_sets import SPEC, digits, network, real_subset

from distill.data import as_float
from distill.ensemble import in_turn, side_by_side
from distill.evaluate import (
    EPOCH,
    INITIAL,
    accuracy,
    batches,
    best_step_size,
    measure,
    train_networks,
)
from distill.evaluation_config import TrainingRecipe
from distill.ledger import summary
from distill.nets import build_network
from workbench import seeds

PLAIN = TrainingRecipe(epochs=7, augmentation="none", mixed_precision="no")


@pytest.mark.parametrize("soft", [False, True])
def test_training_is_torchs_sgd_with_a_step_in_its_schedule(soft: bool) -> None:
    distilled = real_subset(4)
    if soft:
        distilled = replace(distilled, labels=torch.randn(12, 3, generator=seeds.generator(5)))
    flat = network()
    (theta,) = train_networks(distilled, flat, PLAIN, 1, seed=3)

    module = build_network(SPEC)
    module.load_state_dict(flat.unflatten(flat.initial(seeds.generator(3, INITIAL, 0))))
    labels = distilled.labels.softmax(1) if soft else distilled.labels
    for epochs, rate in ((4, 0.05), (3, 0.005)):  # 7 epochs: the rate falls after the fourth, and momentum begins anew
        optimizer = torch.optim.SGD(module.parameters(), rate, momentum=0.9, weight_decay=5e-4)
        for _ in range(epochs):
            optimizer.zero_grad()
            F.cross_entropy(module(distilled.images), labels).backward()
            optimizer.step()
    torch.testing.assert_close(theta, flat.flatten({n: p.detach() for n, p in module.named_parameters()}))


def test_bf16_products_train_nearly_the_same_float32_weights() -> None:
    flat, distilled = network(), real_subset(4)
    exact, rounded = (
        train_networks(distilled, flat, replace(PLAIN, mixed_precision=precision), 2) for precision in ("no", "bf16")
    )
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    moved = exact - torch.stack([flat.initial(seeds.generator(0, INITIAL, k)) for k in range(2)])
    assert ((rounded - exact).norm(dim=1) < 0.1 * moved.norm(dim=1)).all()


def test_an_epoch_shows_every_image_once_to_each_network_in_its_own_order() -> None:
    distilled = replace(real_subset(4), labels=torch.arange(12))
    recipe = TrainingRecipe(batch_size=5, augmentation="none")
    parts = list(batches(distilled, recipe, 3, seeds.generator(0, EPOCH, 0), range(3)))
    assert [labels.shape for _, labels in parts] == [(3, 5), (3, 5), (3, 2)]
    orders = torch.cat([labels for _, labels in parts], 1)
    assert (orders.sort(1).values == torch.arange(12)).all()
    assert not torch.equal(orders[0], orders[1])
    shown = torch.cat([images for images, _ in parts], 1)
    assert torch.equal(shown[2], distilled.images[orders[2]])


def test_every_network_sees_its_own_augmentation() -> None:
    distilled = real_subset(1)
    recipe = TrainingRecipe(augmentation="rotate")
    ((images, labels),) = batches(distilled, recipe, 2, seeds.generator(0), range(2))
    sorted_images = [one[order] for one, order in zip(images, labels.argsort(1), strict=True)]
    assert not torch.allclose(sorted_images[0], sorted_images[1])


@pytest.mark.parametrize("soft", [False, True])
def test_networks_side_by_side_have_the_gradients_of_one_after_another(soft: bool) -> None:
    flat = network()
    thetas = torch.stack([flat.initial(seeds.generator(k)) for k in range(3)])
    images, labels = torch.randn(3, 4, 1, 8, 6, generator=seeds.generator(9)), torch.arange(12).view(3, 4) % 3
    targets = F.one_hot(labels, 3) * 0.7 + 0.1 if soft else labels

    def loss(theta: torch.Tensor, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        logits = flat(theta, images)
        return F.cross_entropy(logits, targets), (logits,)

    found, (logits,) = in_turn(loss, thetas, images, targets)
    wide, (wide_logits,) = side_by_side(loss, thetas, images, targets)
    torch.testing.assert_close(wide, found)
    torch.testing.assert_close(wide_logits, logits)
    for k in range(3):
        theta = thetas[k].clone().requires_grad_()
        F.cross_entropy(flat(theta, images[k]), targets[k]).backward()
        torch.testing.assert_close(found[k], theta.grad)
        torch.testing.assert_close(logits[k], flat(thetas[k], images[k]))
    assert not logits.requires_grad


def test_more_images_and_more_networks_of_the_same_seed() -> None:
    flat, recipe = network(), TrainingRecipe(epochs=40, augmentation="crop_scale")
    few = summary(measure(real_subset(1), flat, recipe, digits("test"), 3))
    many = summary(measure(real_subset(20), flat, recipe, digits("test"), 3))
    assert few["n"] == 3
    assert 1 / 3 < few["mean"] < many["mean"]
    assert many["mean"] > 0.9
    assert measure(real_subset(1), flat, recipe, digits("test"), 3) == measure(
        real_subset(1), flat, recipe, digits("test"), 3
    )


def test_a_network_is_the_same_whichever_others_are_trained_with_it() -> None:
    recipe = TrainingRecipe(epochs=4, batch_size=5, augmentation="crop_scale_color")
    together = train_networks(real_subset(4), network(), recipe, 4, seed=1)
    apart = train_networks(real_subset(4), network(), recipe, 4, [3, 1], seed=1)
    torch.testing.assert_close(apart, together[[3, 1]])
    assert train_networks(real_subset(4), network(), recipe, 4, [], seed=1).shape == (0, network().size)


def test_accuracy_counts() -> None:
    flat = network()
    theta, data = flat.initial(seeds.generator(0)), digits("test")
    images = real_subset().transform.apply(as_float(data))
    said = flat(theta, images).argmax(1)
    assert accuracy(flat, theta, images, data.labels) == pytest.approx((said == data.labels).float().mean().item())


def test_the_best_step_size_is_found_and_a_given_one_is_used() -> None:
    flat, recipe = network(), TrainingRecipe(epochs=20, augmentation="none")
    distilled = real_subset(5, step_size=7.0)
    chosen = best_step_size(distilled, flat, recipe, digits(), (1e-6, 0.05, 50.0))
    assert chosen.step_size == 0.05
    given = train_networks(distilled, flat, replace(recipe, step_size=0.05), 1)
    assert torch.equal(given, train_networks(chosen, flat, recipe, 1))
