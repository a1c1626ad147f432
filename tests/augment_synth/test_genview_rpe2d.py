"""Variations by a generator whose velocity is known: back from the noise, or not."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from augment_synth.genview import adaptive_views, strength
from augment_synth.genview_rpe2d import variation_of
from workbench.errors import UserError

SIZE = (6, 10)


class Field(nn.Module):
    """The velocity of rectified flow to one image, eps - x_0 = (x_t - x_0) / t; it keeps what it was asked."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target, self.asked = target, []
        self.config, self.device = SimpleNamespace(in_channels=3, num_classes=4), torch.device("cpu")

    def forward(self, x_t: Tensor, time: Tensor, labels: Tensor, return_dict: bool) -> tuple[Tensor]:
        self.asked.append((float(time[0]), labels.tolist()))
        return ((x_t - self.target) / (time / 1000)[:, None, None, None],)


class RPE2DPipeline:
    """By its name."""

    vae = None
    native_size = SIZE

    def __init__(self, network: nn.Module) -> None:
        self.transformer = network


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def test_the_flow_is_followed_to_its_end_without_a_label() -> None:
    target = pictures(1)[0]
    network = Field(2 * target - 1)
    made = variation_of(RPE2DPipeline(network), num_steps=4)(pictures(3), 0.6)
    torch.testing.assert_close(made, target.expand(3, -1, -1, -1), atol=1e-5, rtol=0)
    assert [time for time, _ in network.asked] == pytest.approx([600, 450, 300, 150])
    assert all(labels == [4, 4, 4] for _, labels in network.asked)


def test_a_generator_that_moves_nothing_leaves_the_noise() -> None:
    class Still(Field):
        def forward(self, x_t: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
            return (torch.zeros_like(x_t),)

    still, images = RPE2DPipeline(Still(torch.zeros(3, *SIZE))), 0.25 + pictures(200) / 2
    changes = [(variation_of(still)(images, t) - images).abs().mean() for t in (0.01, 0.2, 0.7)]
    assert changes[0] < 0.01 < changes[1] < changes[2]
    assert torch.equal(variation_of(still, seed=3)(images, 0.5), variation_of(still, seed=3)(images, 0.5))
    assert not torch.equal(variation_of(still, seed=3)(images, 0.5), variation_of(still, seed=4)(images, 0.5))


def test_images_are_varied_by_their_own_strength() -> None:
    network = Field(torch.zeros(3, *SIZE))
    views = adaptive_views(
        pictures(3), torch.tensor([0.1, 0.9, 0.1]), variation_of(RPE2DPipeline(network), num_steps=1)
    )
    assert views.shape == (3, 3, *SIZE)
    assert [time for time, _ in network.asked] == pytest.approx([1000 * strength(0), 1000 * strength(400)])


def test_what_cannot_vary_images() -> None:
    with pytest.raises(UserError, match="cannot vary images"):
        variation_of(SimpleNamespace(vae=None))
    vary = variation_of(RPE2DPipeline(Field(torch.zeros(3, *SIZE))))
    with pytest.raises(UserError, match="3x6x10"):
        vary(torch.rand(2, 3, 6, 6), 0.5)
