import math

import pytest
import torch

from gen.pixel.noise import NoiseRange
from gen.pixel.scheduler import KarrasX0ConsistencyScheduler, KarrasX0HeunScheduler
from workbench.errors import UserError

SPREAD = 0.4  # of Gaussian data, for which everything is known


def gaussian(x, sigma):
    """The exact x_0 of Gaussian data of mean 0."""
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def bent(x, sigma):
    """A network that is linear in neither argument."""
    return torch.sin(3 * x / (1 + sigma)) * 0.8


def noise(scheduler, *shape, seed=0):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * scheduler.init_noise_sigma


def run(scheduler, steps, x, network):
    """The images, and the levels at which the network was asked."""
    scheduler.set_timesteps(steps)
    asked = []
    for timestep in scheduler.timesteps:
        sigma = math.exp(timestep.item() / 250)
        asked.append(sigma)
        x = scheduler.step(network(x, sigma), timestep, x).prev_sample
    return x, asked


@pytest.mark.parametrize("shift", [1.0, 4.0])
@pytest.mark.parametrize(("final", "order"), [("sigma_min", 2), ("zero", 2), ("sigma_min", 1), ("zero", 1)])
def test_a_trajectory_is_that_of_the_formulae(shift, final, order):
    """Algorithm 1 of arXiv 2206.00364 without churn; order 1 leaves the correction out."""
    scheduler = KarrasX0HeunScheduler(sigma_max=20.0, sigma_shift=shift, final_sigmas_type=final, solver_order=order)
    x = expected = noise(scheduler, 2, 1, 3, 5)
    result, asked = run(scheduler, 7, x, bent)

    levels = [shift * (20 ** (1 / 7) + i / 6 * (0.002 ** (1 / 7) - 20 ** (1 / 7))) ** 7 for i in range(7)]
    evaluations = []
    for sigma, following in zip(levels, [*levels[1:], 0.0] if final == "zero" else levels[1:], strict=False):
        evaluations.append(sigma)
        slope = (expected - bent(expected, sigma)) / sigma
        guess = expected + (following - sigma) * slope
        if order == 2 and following > 0:
            evaluations.append(following)
            slope = (slope + (guess - bent(guess, following)) / following) / 2
        expected = expected + (following - sigma) * slope
    assert asked == pytest.approx(evaluations, rel=1e-5)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "final", "order", "evaluations"),
    [(32, "sigma_min", 2, 62), (18, "zero", 2, 35), (18, "zero", 1, 18), (2, "sigma_min", 1, 1), (1, "zero", 2, 1)],
)
def test_the_number_of_evaluations(steps, final, order, evaluations):
    scheduler = KarrasX0HeunScheduler(final_sigmas_type=final, solver_order=order)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == len(scheduler.evaluation_sigmas) == evaluations


def test_twelve_evaluations_of_the_paper_s_sampler_are_guided():
    scheduler = KarrasX0HeunScheduler(sigma_shift=4.0)
    scheduler.set_timesteps(32)
    assert sum(4 * 0.19 < sigma <= 4 * 1.61 for sigma in scheduler.evaluation_sigmas) == 12


@pytest.mark.parametrize(("order", "gain"), [(1, 2), (2, 4)])
def test_twice_the_steps_have_an_error_smaller_by_the_order(order, gain):
    """The exact flow of Gaussian data shrinks the noise to the data's spread."""
    errors = []
    for steps in (40, 79):
        scheduler = KarrasX0HeunScheduler(sigma_max=20.0, solver_order=order)
        x = noise(scheduler, 1, 1, 2, 3)
        exact = x * math.sqrt((SPREAD**2 + 0.002**2) / (SPREAD**2 + 20**2))
        errors.append((run(scheduler, steps, x, gaussian)[0] - exact).norm().item())
    assert errors[0] / errors[1] == pytest.approx(gain, rel=0.15)


def test_the_state_is_that_at_the_least_noise_or_at_none():
    x = torch.randn(1, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = 0.3 * torch.ones_like(x)
    for final, left in (("sigma_min", 0.002), ("zero", 0.0)):
        scheduler = KarrasX0HeunScheduler(final_sigmas_type=final)
        result, _ = run(scheduler, 9, images + 80 * x, lambda _, sigma: images)
        torch.testing.assert_close(result, images + left * x, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 0.4375])
def test_consistency_jumps_and_adds_noise_again(shift):
    """Algorithm 1 of arXiv 2303.01469."""
    scheduler = KarrasX0ConsistencyScheduler(sigma_shift=shift)
    x = expected = noise(scheduler, 2, 1, 3, 5).float()
    scheduler.set_timesteps(3)
    generator = torch.Generator().manual_seed(5)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.evaluation_sigmas, strict=True):
        x = scheduler.step(bent(x, sigma), timestep, x, generator).prev_sample

    generator.manual_seed(5)
    levels = (shift * NoiseRange().karras(4)).tolist()
    assert scheduler.evaluation_sigmas == pytest.approx(levels[:3])
    expected = bent(expected, levels[0])
    for level in levels[1:3]:
        added = torch.randn(2, 1, 3, 5, generator=generator)
        expected = bent(expected + math.sqrt(level**2 - (shift * 0.002) ** 2) * added, level)
    torch.testing.assert_close(x, expected)


def test_one_jump_draws_no_noise():
    scheduler, generator = KarrasX0ConsistencyScheduler(), torch.Generator().manual_seed(0)
    before = generator.get_state()
    scheduler.set_timesteps(1)
    assert scheduler.evaluation_sigmas == pytest.approx([80])
    clean = torch.ones(1, 1, 2, 3)
    assert torch.equal(scheduler.step(clean, scheduler.timesteps[0], clean * 80, generator).prev_sample, clean)
    assert torch.equal(generator.get_state(), before)


def test_each_image_s_noise_comes_from_its_own_generator():
    def jumped(*seeds):
        scheduler = KarrasX0ConsistencyScheduler()
        scheduler.set_timesteps(2)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        clean = torch.zeros(len(seeds), 1, 2, 3)
        return scheduler.step(clean, scheduler.timesteps[0], clean, generators, return_dict=False)[0]

    assert torch.equal(jumped(4, 7)[1:], jumped(7))


@pytest.mark.parametrize("kind", [KarrasX0HeunScheduler, KarrasX0ConsistencyScheduler])
def test_a_scheduler_can_be_used_again(kind):
    scheduler = kind(sigma_max=20.0)
    x = noise(scheduler, 1, 1, 2, 3)
    first, again = (run(scheduler, 1 + (kind is KarrasX0HeunScheduler), x, bent)[0] for _ in range(2))
    assert torch.equal(first, again)
    scheduler.set_timesteps(5)
    scheduler.step(x, scheduler.timesteps[0], x)  # and left in the middle
    assert torch.equal(run(scheduler, scheduler.order, x, bent)[0], first)


def test_what_the_network_is_given():
    scheduler = KarrasX0HeunScheduler(sigma_shift=2.0)
    scheduler.set_timesteps(3)
    x = torch.ones(1, 1, 2, 3)
    for timestep, sigma in zip(scheduler.timesteps, scheduler.evaluation_sigmas, strict=True):
        assert timestep.item() == pytest.approx(250 * math.log(sigma), rel=1e-5)
        torch.testing.assert_close(scheduler.scale_model_input(x, timestep), x / math.sqrt(sigma**2 + 0.25))
        scheduler.step(x, timestep, x)


def test_noise_is_added_at_a_timestep_s_level():
    scheduler, images, drawn = KarrasX0HeunScheduler(), torch.ones(2, 1, 2, 3), torch.full((2, 1, 2, 3), 0.5)
    noisy = scheduler.add_noise(images, drawn, 250 * torch.tensor([2.0, 6.0]).log())
    torch.testing.assert_close(noisy[:, 0, 0, 0], torch.tensor([2.0, 4.0]))


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        (KarrasX0HeunScheduler(), 1), (KarrasX0HeunScheduler(final_sigmas_type="zero"), 0),
        (KarrasX0ConsistencyScheduler(), 0), (KarrasX0HeunScheduler(), -3),
    ],
)  # fmt: skip
def test_too_few_steps_are_refused(scheduler, steps):
    with pytest.raises(UserError, match=f"num_inference_steps is {steps}; give [12] or more"):
        scheduler.set_timesteps(steps)


def test_saved_schedulers_come_back(tmp_path):
    for scheduler in (
        KarrasX0HeunScheduler(sigma_max=20.0, sigma_shift=0.5, final_sigmas_type="zero", solver_order=1),
        KarrasX0ConsistencyScheduler(sigma_min=0.01, rho=5.0),
    ):
        scheduler.save_pretrained(tmp_path / type(scheduler).__name__)
        again = type(scheduler).from_pretrained(tmp_path / type(scheduler).__name__)
        assert again.noise_range == scheduler.noise_range
        assert again.init_noise_sigma == scheduler.init_noise_sigma
        for one in (scheduler, again):
            one.set_timesteps(4)
        assert again.evaluation_sigmas == scheduler.evaluation_sigmas
