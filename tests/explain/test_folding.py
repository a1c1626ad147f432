"""Norms folded into convolutions: the same logits with fewer norms, and afterwards the classifier that was there."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from unittest.mock import patch

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from explain.folding import TOLERANCE, folded
from explain.shapley import attribute
from workbench.networks import build_classifier
from workbench.pixel_classifier import PixelClassifier

SIZE = (16, 24)


class Net(nn.Module):
    """Two convolutions with a norm each, called as `forward` says."""

    def __init__(self, forward: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False)])
        self.way = forward

    def forward(self, pixels: Tensor) -> Tensor:
        return self.way(self, pixels).mean((2, 3))


def plain(net: Net, x: Tensor) -> Tensor:
    return net.norms[1](net.second(net.norms[0](net.first(x)).relu()))


def read_twice(net: Net, x: Tensor) -> Tensor:
    x = net.first(x)
    return net.norms[1](net.second(net.norms[0](x))) + x


def activated_in_place(net: Net, x: Tensor) -> Tensor:
    return net.norms[1](net.second(net.norms[0](net.first(x).relu_())))


def called_twice(net: Net, x: Tensor) -> Tensor:
    x = net.norms[0](net.first(x))
    return net.norms[1](net.second(net.norms[1](net.second(x))))


def classifier_of(network: nn.Module) -> PixelClassifier:
    """With statistics that a trained network might have."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return PixelClassifier.wrap(network, mean=0.5, std=0.5)


def norms_called(classifier: PixelClassifier, images: Tensor) -> int:
    """Batch norms computed in a forward pass."""
    with patch.object(functional, "batch_norm", wraps=functional.batch_norm) as spy:
        classifier(images)
    return spy.call_count


@pytest.mark.parametrize(("way", "left"), [(plain, 0), (read_twice, 2), (activated_in_place, 1), (called_twice, 2)])
@torch.no_grad()
def test_norms_are_folded_where_that_changes_nothing(way: Callable[[Net, Tensor], Tensor], left: int) -> None:
    classifier, images = classifier_of(Net(way)), torch.rand(3, 3, *SIZE)
    before, whole = classifier(images), norms_called(classifier, images)
    with folded(classifier, images[:1]):
        assert norms_called(classifier, images) == left
        inside = classifier(images)
    torch.testing.assert_close(inside, before, atol=TOLERANCE, rtol=1e-5)
    assert norms_called(classifier, images) == whole
    assert torch.equal(classifier(images), before)


TIMMS = [partial(timm.create_model, name) for name in ("mobilenetv3_small_050", "efficientnet_lite0")]


@pytest.mark.parametrize("make", [torchvision.models.resnet18, *TIMMS])
@torch.no_grad()
def test_networks_of_libraries_are_folded_whole(make: Callable[..., nn.Module]) -> None:
    classifier, images = classifier_of(make(num_classes=5)), torch.rand(2, 3, 64, 48)
    before = classifier(images)
    with folded(classifier, images[:1]):
        assert norms_called(classifier, images) == 0
        torch.testing.assert_close(classifier(images), before, atol=TOLERANCE * float(before.abs().max()), rtol=0)


def test_the_classifier_is_what_it_was_even_after_an_error() -> None:
    classifier = classifier_of(Net(plain))
    parameters, fingerprint = dict(classifier.named_parameters()), classifier.fingerprint()
    with suppress(ZeroDivisionError), folded(classifier, torch.rand(1, 3, *SIZE)):
        assert classifier.fingerprint() != fingerprint
        raise ZeroDivisionError
    after = dict(classifier.named_parameters())
    assert list(after) == list(parameters)
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert classifier.fingerprint() == fingerprint
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in classifier.modules())


@torch.no_grad()
def test_a_classifier_is_folded_once() -> None:
    classifier, images = classifier_of(Net(plain)), torch.rand(2, 3, *SIZE)
    before = classifier(images)
    with folded(classifier, images[:1]):
        once = classifier(images)
        with folded(classifier, images[:1]):
            assert torch.equal(classifier(images), once)
        assert torch.equal(classifier(images), once)
        assert norms_called(classifier, images) == 0
    assert torch.equal(classifier(images), before)


def test_half_precision_hooked_and_training_modules_are_left_alone() -> None:
    image = torch.rand(1, 3, *SIZE)
    half = classifier_of(Net(plain)).bfloat16()
    hooked = classifier_of(Net(plain))
    hooked.network.first.register_forward_hook(lambda *_: None)  # type: ignore[union-attr,operator]
    hooked.network.norms[1].register_forward_pre_hook(lambda *_: None)  # type: ignore[union-attr,index]
    for classifier in (half, hooked):
        with torch.no_grad(), folded(classifier, image):
            assert norms_called(classifier, image) == 2
    training = classifier_of(Net(plain))
    training.network.train()
    before = {name: value.clone() for name, value in training.state_dict().items()}
    with torch.no_grad(), folded(training, image):
        assert all(torch.equal(before[name], value) for name, value in training.state_dict().items())
        assert norms_called(training, image) == 2


@torch.no_grad()
def test_instance_norms_of_few_and_of_many_places() -> None:
    network = build_classifier("convnet", 4, image_size=(40, 60), width=6)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    classifier, images = PixelClassifier.wrap(network, mean=(0.5,) * 3, std=(0.5,) * 3), torch.rand(3, 3, 40, 60)
    before = classifier(images)
    with folded(classifier, images[:1]):
        assert replaced(classifier) == {f"blocks.{block}.{part}" for block in range(3) for part in range(2)}
        for form in (torch.contiguous_format, torch.channels_last):
            torch.testing.assert_close(classifier(images.contiguous(memory_format=form)), before, atol=1e-5, rtol=1e-5)
    assert not replaced(classifier)
    assert torch.equal(classifier(images), before)


@torch.no_grad()
def test_convolutions_that_are_more_than_a_convolution_are_left_alone() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    layers = [
        nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        Doubled(4, 4, 3),
        nn.GroupNorm(2, 4),
    ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier, images = PixelClassifier.wrap(network, mean=0.5, std=0.5), torch.rand(2, 3, *SIZE)
    before = classifier(images)
    with folded(classifier, images[:1]):
        assert replaced(classifier) == {"0"}
        torch.testing.assert_close(classifier(images), before, atol=1e-5, rtol=1e-5)


def replaced(classifier: PixelClassifier) -> set[str]:
    """Layers that are computed in another way."""
    return {name for name, module in classifier.network.named_modules() if "forward" in vars(module)}


def test_shapley_values_stay_what_they_are() -> None:
    classifier, image = classifier_of(Net(plain)), torch.rand(3, *SIZE)
    with patch("explain.folding._is_norm", return_value=False):
        unfolded = attribute(classifier, image, 1, budget=60).values
    found = attribute(classifier, image, 1, budget=60).values
    torch.testing.assert_close(found, unfolded, atol=1e-6, rtol=0)
