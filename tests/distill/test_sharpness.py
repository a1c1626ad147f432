"""Steps that seek flat places, against closed forms; SAF's loss and memory; and the measures of sharpness."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.sharpness import PastLogits, flat_direction, perturbation, sharpness, top_eigenvalue, trajectory_kl
from workbench import seeds

K, P = 3, 5


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeds.generator(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_no_step_in_the_ball_raises_a_linear_loss_more(seed: int, adaptive: bool) -> None:
    """The ball is of |e| <= rho, or of |e / |theta|| <= rho for the adaptive one."""
    theta, gradient = draw(P, seed=seed), draw(P, seed=seed + 1)
    best = perturbation(theta, gradient, 0.05, adaptive)
    scale = theta.abs() if adaptive else torch.ones(P)
    assert float((best / scale).norm()) == pytest.approx(0.05)
    others = draw(50, P, seed=seed + 2)
    others = 0.05 * scale * others / others.norm(dim=1, keepdim=True)
    assert float(best @ gradient) >= float((others @ gradient).max()) - 1e-12


def test_a_zero_gradient_moves_nothing() -> None:
    assert not perturbation(draw(K, P), torch.zeros(K, P), 0.05).any()


def test_each_network_has_a_ball_of_its_own() -> None:
    theta, gradient = draw(K, P), draw(K, P, seed=1)
    rows = [perturbation(t, g, 0.1, True) for t, g in zip(theta, gradient, strict=True)]
    torch.testing.assert_close(perturbation(theta, gradient, 0.1, True), torch.stack(rows))


CURVATURE = torch.diag(torch.tensor([4.0, 1.0, 0.5, 0.1, 0.0], dtype=torch.float64))


def slope(theta: torch.Tensor) -> torch.Tensor:
    """Of the loss theta^T A theta / 2."""
    return theta @ CURVATURE


def test_plain_and_saf_steps_go_along_the_gradient() -> None:
    theta = draw(K, P)
    for flatness in ("none", "saf"):
        assert torch.equal(flat_direction(slope, theta, flatness, 0.1, 0.3, False), slope(theta))  # type: ignore[arg-type]


def test_sam_takes_the_gradient_nearby() -> None:
    theta = draw(K, P)
    here = slope(theta)
    nearby = slope(theta + 0.1 * here / here.norm(dim=1, keepdim=True))
    torch.testing.assert_close(flat_direction(slope, theta, "sam", 0.1, 0.3, False), nearby)
    torch.testing.assert_close(flat_direction(slope, theta, "gsam", 0.1, 0.0, False), nearby)


def test_gsam_takes_off_what_the_gradient_nearby_has_not() -> None:
    theta, alpha = draw(K, P), 0.3
    sam = flat_direction(slope, theta, "sam", 0.1, alpha, False)
    taken = (sam - flat_direction(slope, theta, "gsam", 0.1, alpha, False)) / alpha
    here = slope(theta)
    torch.testing.assert_close((taken * sam).sum(1), torch.zeros(K).double())  # orthogonal to sam's
    rest = here - taken  # parallel to it
    torch.testing.assert_close((rest * sam).sum(1).abs(), rest.norm(dim=1) * sam.norm(dim=1))


def test_safs_loss_is_the_golden_one() -> None:
    now, past = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    assert float(trajectory_kl(now, past, 5.0)) == pytest.approx(0.473036, abs=1e-6)
    assert float(trajectory_kl(past, now, 5.0)) == pytest.approx(0.485535, abs=1e-6)


def test_saf_asks_nothing_where_nothing_has_changed() -> None:
    logits = draw(4, 3).requires_grad_()
    loss = trajectory_kl(logits, logits.detach(), 5.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert float(gradient.abs().max()) < 1e-12


def test_past_logits_are_those_of_the_same_image_some_epochs_ago() -> None:
    lag, images = 3, 6
    past = PastLogits(2, images, 2, lag, torch.device("cpu"))

    def told(epoch: int, indices: torch.Tensor) -> torch.Tensor:
        """Logits that say which network, image and epoch they are of."""
        network = torch.arange(2)[:, None].expand_as(indices)
        return torch.stack([epoch + 100 * network, indices], -1).float()

    for epoch in range(1, 11):
        order = torch.stack([torch.randperm(images, generator=seeds.generator(epoch, k)) for k in range(2)])
        for indices in order.split(4, 1):
            if epoch > lag:
                assert torch.equal(past.read(epoch, indices), told(epoch - lag, indices))
            past.write(epoch, indices, told(epoch, indices))
    assert past.ring.numel() * past.ring.element_size() == (lag + 1) * 2 * images * 2 * 2


def loss(theta: torch.Tensor) -> torch.Tensor:
    return theta @ CURVATURE @ theta / 2


def test_sharpness_of_a_quadratic() -> None:
    """(theta + r u)^T A (theta + r u) / 2 less the same at r = 0, with u along the gradient."""
    theta, radius = draw(P), 0.1
    u = slope(theta) / slope(theta).norm()
    expected = radius * u @ slope(theta) + radius**2 * u @ CURVATURE @ u / 2
    assert sharpness(loss, theta, radius) == pytest.approx(float(expected))


def test_top_eigenvalue_is_that_of_the_hessian() -> None:
    assert top_eigenvalue(loss, draw(P), draw(P, seed=3)) == pytest.approx(4, abs=1e-3)
    turned = torch.linalg.qr(draw(P, P, seed=4)).Q
    hessian = turned @ torch.diag(torch.tensor([-5.0, 3, 1, 0, 0], dtype=torch.float64)) @ turned.T

    def saddle(theta: torch.Tensor) -> torch.Tensor:
        return theta @ hessian @ theta / 2

    assert top_eigenvalue(saddle, draw(P), draw(P, seed=3), 30) == pytest.approx(-5, abs=1e-3)
