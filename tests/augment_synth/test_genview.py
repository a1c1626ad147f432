"""GenView's levels, weights and foreground, against known cases."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from augment_synth.genview import (
    PairQuality,
    adaptive_views,
    fit_foreground,
    foreground_share,
    noise_level,
    pair_quality,
    pair_weights,
    strength,
)


def test_levels_are_closed_on_the_right() -> None:
    shares = torch.tensor([0, 0.2, 0.2001, 0.4, 0.6, 0.8, 0.81, 1])
    assert noise_level(shares).tolist() == [0, 0, 100, 100, 200, 300, 400, 400]


def test_weights_of_a_known_case() -> None:
    pair = PairQuality(torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.5, 0.9, 0.1]))
    weights = pair_weights(pair.quality.requires_grad_())
    torch.testing.assert_close(weights, torch.tensor([1.236980, 0.750266, 1.012754]))
    assert not weights.requires_grad


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=9), st.floats(0, 3))
def test_weights_have_mean_1_and_the_order_of_quality(quality: list[float], gamma: float) -> None:
    weights = pair_weights(torch.tensor(quality), gamma)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-5)
    assert float(weights[int(torch.tensor(quality).argmax())]) >= float(weights.max()) - 1e-5


def tokens_of(masks: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Noise, and far along one direction where the mask is."""
    draws = torch.Generator().manual_seed(seed)
    noise = 0.05 * torch.randn(*masks.shape, 6, generator=draws)
    return (noise + masks[..., None] * torch.tensor([0, 3.0, 0, -4.0, 0, 0])).flatten(1, 2)


def test_the_foreground_is_found_whatever_the_sign() -> None:
    masks = torch.zeros(10, 6, 9)
    for number in range(10):
        masks[number, 1 : 2 + number % 4, 1:8] = 1
    for sign in (1, -1):
        tokens = sign * tokens_of(masks)
        foreground = fit_foreground(tokens, (6, 9))
        inside = masks.flatten(1) > 0
        projected = tokens @ foreground.direction
        assert float(projected[inside].min()) > float(projected[~inside].max())
        share = foreground_share(tokens, foreground)
        assert float(share.mean()) == pytest.approx(0.4, abs=0.02)


def test_a_pair_with_another_background_is_better_than_one_with_another_object() -> None:
    mask = torch.zeros(1, 4, 5)
    mask[:, 1:3, 1:4] = 1
    direction = torch.tensor([0, 0, 1.0, 0])  # foreground has 1 there, background 0

    def view(thing: list[float], scene: list[float]) -> torch.Tensor:
        flat = mask.flatten(1)[..., None]
        return flat * torch.tensor(thing) + (1 - flat) * torch.tensor(scene)

    source = view([1, 0, 1, 0], [0, 1, 0, 0])
    other_scene, other_thing = view([1, 0, 1, 0], [0, 0, 0, 1]), view([-1, 0, 1, 0], [0, 1, 0, 0])
    assert float(pair_quality(source, other_scene, direction).quality) == pytest.approx(1, abs=1e-4)
    assert float(pair_quality(source, other_thing, direction).quality) == pytest.approx(-1, abs=1e-4)


def test_each_image_is_varied_at_its_own_strength() -> None:
    images, asked = torch.rand(5, 3, 4, 6), []

    def variation(some: torch.Tensor, how_strongly: float) -> torch.Tensor:
        asked.append(how_strongly)
        return some + how_strongly

    share = torch.tensor([0.1, 0.9, 0.3, 0.15, 1.0])
    views = adaptive_views(images, share, variation)
    added = torch.tensor([strength(level) for level in (0, 400, 100, 0, 400)])
    torch.testing.assert_close(views - images, added.view(-1, 1, 1, 1).expand_as(images))
    assert asked == pytest.approx([0.2, 0.325, 0.7])
