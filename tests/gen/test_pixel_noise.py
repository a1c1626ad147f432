import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pixel_models import tiny_generator

from gen.pixel.noise import NoiseRange, consistency, denoise
from gen.pixel.scaling import DataScaling

SHIFTS = (0.4375, 1.0, 4.0)


def karras(n, low=0.002, high=80.0, rho=7.0):
    """Equation 5 of arXiv 2206.00364, one level at a time."""
    a, b = high ** (1 / rho), low ** (1 / rho)
    return [(a + i / (n - 1) * (b - a)) ** rho for i in range(n)]


# ------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("n", [2, 18, 32, 1280])
def test_levels_fall_from_the_most_to_the_least_noise(n):
    levels = NoiseRange().karras(n)
    assert levels.dtype == torch.float64
    torch.testing.assert_close(levels, torch.tensor(karras(n), dtype=torch.float64))
    assert (levels[0].item(), levels[-1].item()) == pytest.approx((80, 0.002), rel=1e-12)
    assert (levels.diff() < 0).all()


def test_one_level_is_the_most_noise():
    assert NoiseRange(sigma_max=20.0).karras(1).tolist() == pytest.approx([20])


def test_the_paper_s_guidance_bounds_lie_beside_levels_of_32_steps():
    levels = NoiseRange().karras(32)
    assert sum((levels > 0.19) & (levels <= 1.61)) == 6
    assert levels[(levels - 1.609).abs().argmin()].item() == pytest.approx(1.609, abs=1e-3)
    assert levels[(levels - 0.1889).abs().argmin()].item() == pytest.approx(0.1889, abs=1e-3)


@pytest.mark.parametrize("shift", SHIFTS)
def test_levels_and_weights_are_not_shifted(shift):
    noise, plain = NoiseRange(shift=shift), NoiseRange()
    torch.testing.assert_close(noise.karras(9), plain.karras(9))
    torch.testing.assert_close(noise.shifted(noise.karras(9)), plain.karras(9) * shift)
    index = torch.arange(9)
    torch.testing.assert_close(noise.diffusion_weight(index, 9), plain.diffusion_weight(index, 9))


def test_diffusion_weights_are_one_over_the_gap():
    levels, weights = karras(1280), NoiseRange().diffusion_weight(torch.arange(1280), 1280)
    assert weights.dtype == torch.float32
    expected = [1 / (a - b) for a, b in pairwise(levels)]
    torch.testing.assert_close(weights[:-1], torch.tensor(expected, dtype=torch.float32), rtol=1e-3, atol=0)
    assert weights[-1] == weights[-2]
    law = weights * torch.tensor(levels) ** (6 / 7)
    assert 125 <= law[:-1].min() <= law[:-1].max() <= 127
    assert weights[0].item() == pytest.approx(2.93, abs=0.01)
    assert weights[-1].item() == pytest.approx(25565, rel=1e-3)


# ------------------------------------------------------------------------------------------- preconditioning


@settings(deadline=None, max_examples=200)
@given(log_sigma=st.floats(math.log(0.002), math.log(80)), shift=st.sampled_from(SHIFTS))
def test_factors_are_those_of_the_papers(log_sigma, shift):
    """Of arXiv 2206.00364 (c_in) and of arXiv 2303.01469, appendix C, with an epsilon of shift times 0.002."""
    noise, sigma, least = NoiseRange(shift=shift), shift * math.exp(log_sigma), shift * 0.002
    given = torch.tensor(sigma)
    expected = {
        "c_in": 1 / math.sqrt(sigma**2 + 0.25),
        "c_noise": 250 * math.log(sigma),
        "c_skip": 0.25 / ((sigma - least) ** 2 + 0.25),
        "c_out": (sigma - least) * 0.5 / math.sqrt(sigma**2 + 0.25),
    }
    for name, value in expected.items():
        result = getattr(noise, name)(given)
        assert result.dtype == torch.float32
        rounding = 1e-4 if name == "c_noise" else 1e-6  # of fp32, near a logarithm of 0
        assert result.item() == pytest.approx(value, rel=1e-4, abs=rounding), name


def test_factors_are_fp32_whatever_they_are_given():
    for name in ("c_in", "c_noise", "c_skip", "c_out"):
        for dtype in (torch.float64, torch.bfloat16):
            assert getattr(NoiseRange(), name)(torch.tensor([2.0], dtype=dtype)).dtype == torch.float32


class Remember(torch.nn.Module):
    """Answers with a fixed image, and keeps what it was given."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, sample, timestep, class_labels, return_dict):
        self.given = sample, timestep, class_labels
        return (self.answer,)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", SHIFTS)
def test_what_the_network_is_given_and_what_is_made_of_its_answer(shift):
    noise, noisy, labels = NoiseRange(shift=shift), 3 * drawn(2, 1, 4, 6), torch.tensor([1, 0])
    network, sigma = Remember(drawn(2, 1, 4, 6, seed=1)), shift * torch.tensor([0.7, 30.0])
    clean = denoise(network, noisy, sigma, labels, noise)
    assert torch.equal(clean, network.answer)  # a plain x_0 prediction
    scaled, timestep, given_labels = network.given
    for k, s in enumerate(sigma.tolist()):
        torch.testing.assert_close(scaled[k], noisy[k] / math.sqrt(s**2 + 0.25))
        assert timestep[k].item() == pytest.approx(250 * math.log(s), rel=1e-5)
    assert given_labels is labels

    jumped = consistency(network, noisy, sigma, None, noise)
    for k, s in enumerate(sigma.tolist()):
        above = s - shift * 0.002
        skip, out = 0.25 / (above**2 + 0.25), above * 0.5 / math.sqrt(s**2 + 0.25)
        torch.testing.assert_close(jumped[k], skip * noisy[k] + out * network.answer[k])


@pytest.mark.parametrize("shift", [*SHIFTS, 28 / 64, 8.0])
def test_at_the_least_noise_a_consistency_model_changes_nothing(shift):
    noise, noisy = NoiseRange(shift=shift), drawn(2, 1, 4, 6)
    for least in (noise.shifted(noise.karras(1280)[-1]).float(), torch.tensor(shift * 0.002)):
        result = consistency(Remember(1e3 * drawn(2, 1, 4, 6, seed=1)), noisy, least.expand(2), None, noise)
        torch.testing.assert_close(result, noisy, rtol=0, atol=1e-5)
    assert torch.equal(result, noisy)


def test_fresh_networks_answer_nothing_or_the_skipped_image():
    """The output layer starts at zero."""
    model, noisy, sigma = tiny_generator(), drawn(2, 1, 8, 12), torch.tensor([0.3, 9.0])
    noise = model.noise_range
    assert not denoise(model, noisy, sigma, None, noise).any()
    skipped = consistency(model, noisy, sigma, None, noise)
    torch.testing.assert_close(skipped, noise.c_skip(sigma)[:, None, None, None] * noisy)


# ------------------------------------------------------------------------------------------- pixels


def some_images(n=50, seed=0):
    """Two channels, of pixels from 10 to 209 and from 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(10, 210, (n, 1, 6, 9), generator=generator)
    second = (255 * torch.rand(n, 1, 6, 9, generator=generator) ** 3).round().long()
    first[0, 0, 0, 0], first[0, 0, 0, 1], second[0, 0, 0, 0], second[0, 0, 0, 1] = 10, 209, 0, 255
    return torch.cat([first, second], dim=1).byte()


def test_scaled_images_have_mean_0_and_deviation_a_half_in_each_channel():
    images = some_images()
    scaling = DataScaling.of(images)
    scaled = scaling.scale(images)
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3), correction=0), torch.full((2,), 0.5))
    assert torch.equal((scaling.restore(scaled) * 255).round().byte(), images)
    torch.testing.assert_close(scaling.normalise(images / 255), scaled)


def test_the_range_is_that_of_the_images():
    images = some_images()
    scaling = DataScaling.of(images)
    scaled = scaling.scale(images)
    torch.testing.assert_close(torch.tensor(scaling.low), scaled.amin((0, 2, 3)))
    torch.testing.assert_close(torch.tensor(scaling.high), scaled.amax((0, 2, 3)))
    torch.testing.assert_close(scaling.clamp(scaled), scaled, atol=1e-6, rtol=0)
    wild = scaling.clamp(scaled * 9)
    torch.testing.assert_close(wild.amin((0, 2, 3)), torch.tensor(scaling.low))
    torch.testing.assert_close(wild.amax((0, 2, 3)), torch.tensor(scaling.high))


def test_many_images_are_counted_in_parts(monkeypatch):
    images = some_images()
    whole = DataScaling.of(images)
    monkeypatch.setattr("gen.pixel.scaling.CHUNK", 7)
    assert DataScaling.of(images) == whole


def test_fashion_mnist_s_figures():
    """Mean 0.286 and deviation 0.353 scale 0 and 1 to -0.405 and 1.011."""
    scaling = DataScaling((0.286,), (0.353,))
    edges = scaling.scale(torch.tensor([0, 255], dtype=torch.uint8)[None, None, None])
    assert edges.flatten().tolist() == pytest.approx([-0.405, 1.011], abs=1e-3)


def test_one_value_for_all_pixels_is_no_division_by_zero():
    scaling = DataScaling.of(torch.full((3, 1, 4, 5), 7, dtype=torch.uint8))
    scaled = scaling.scale(torch.full((1, 1, 4, 5), 7, dtype=torch.uint8))
    torch.testing.assert_close(scaled, torch.zeros(1, 1, 4, 5), atol=1e-5, rtol=0)


def test_the_default_is_diffusers_own_from_minus_1_to_1():
    pixels = torch.tensor([0.0, 0.5, 1.0]).expand(2, 3, 1, 3)
    torch.testing.assert_close(DataScaling().normalise(pixels), pixels * 2 - 1)
    torch.testing.assert_close(DataScaling().restore(pixels * 2 - 1), pixels)
