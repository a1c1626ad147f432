"""The distances against closed forms, torchmetrics and loops, and with almost no images."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from workbench import distances
from workbench.distances import frechet_distance, frechet_error, kernel_distance, manifold, nearest
from workbench.errors import UserError
from workbench.seeds import generator


def normal(count: int, features: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, features, generator=generator(seed)) + shift


def with_exact_moments(mean: Tensor, variances: Tensor, count: int) -> Tensor:
    """A sample whose mean and (diagonal, unbiased) covariance are exactly the given ones."""
    draws = normal(count, len(mean), 0).double()
    white = torch.linalg.qr(draws - draws.mean(0)).Q * math.sqrt(count - 1)
    return white * variances.sqrt() + mean


class Precomputed(nn.Module):
    """Lets torchmetrics read features in place of images."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


# Frechet distance


def test_frechet_distance_is_the_closed_form_for_gaussians() -> None:
    means = torch.tensor([[0.0, 1.0, -2.0], [3.0, 1.0, 0.5]], dtype=torch.float64)
    variances = torch.tensor([[1.0, 4.0, 0.25], [9.0, 4.0, 2.0]], dtype=torch.float64)
    left, right = (with_exact_moments(means[i], variances[i], 30 + i) for i in (0, 1))
    expected = (means[0] - means[1]).square().sum() + (variances[0].sqrt() - variances[1].sqrt()).square().sum()
    assert frechet_distance(left, right) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(("count", "features", "tolerance"), [(200, 16, 1e-9), (12, 40, 1e-4)])
def test_frechet_distance_equals_torchmetrics(count: int, features: int, tolerance: float) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    real = normal(count, features, 1).double() @ normal(features, features, 2).double()
    generated = normal(count - 3, features, 3, shift=0.2).double() @ normal(features, features, 4).double()
    metric = FrechetInceptionDistance(feature=Precomputed(features))
    metric.update(real, real=True)
    metric.update(generated, real=False)
    assert frechet_distance(real, generated) == pytest.approx(float(metric.compute()), rel=tolerance)


def test_frechet_distance_is_zero_for_equal_sets_symmetric_and_blind_to_a_common_motion() -> None:
    real, generated = normal(50, 6, 1), normal(40, 6, 2, shift=0.5)
    assert frechet_distance(real, real.flip(0)) == pytest.approx(0, abs=1e-9)
    distance = frechet_distance(real, generated)
    assert frechet_distance(generated, real) == pytest.approx(distance, rel=1e-9)
    rotation = torch.linalg.qr(normal(6, 6, 3).double()).Q
    moved = [features.double() @ rotation + 100 for features in (real, generated)]
    assert frechet_distance(*moved) == pytest.approx(distance, rel=1e-9)


def test_frechet_error_is_the_spread_of_repeated_measurements() -> None:
    pairs = [(normal(300, 4, 2 * i), normal(300, 4, 2 * i + 1, shift=1)) for i in range(60)]
    spread = np.std([frechet_distance(*pair) for pair in pairs])
    estimates = [frechet_error(*pair, generator(7, i)) for i, pair in enumerate(pairs)]
    assert np.mean(np.array(estimates, dtype=float)) == pytest.approx(spread, rel=0.3)
    assert frechet_error(normal(3, 4, 0), normal(9, 4, 1), generator(0)) is None


# Kernel distance


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`:UserWarning")
def test_kernel_distance_equals_torchmetrics_on_the_same_subsets() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    real, generated = normal(41, 8, 1).double(), normal(60, 8, 2, shift=0.3).double()
    metric = KernelInceptionDistance(feature=nn.Identity(), subsets=distances.SUBSETS, subset_size=20)
    metric.update(real, real=True)
    metric.update(generated, real=False)
    with torch.random.fork_rng():
        torch.manual_seed(5)  # it draws the subsets from the global stream
        expected, spread = metric.compute()
    mean, deviation = kernel_distance(real, generated, torch.Generator().manual_seed(5))
    assert mean == pytest.approx(float(expected), rel=1e-9)
    assert deviation == pytest.approx(float(spread) * math.sqrt(50 / 49), rel=1e-9)


def test_kernel_distance_of_two_pairs_by_hand() -> None:
    def kernel(x: list[float], y: list[float]) -> float:
        return (np.dot(x, y) / 2 + 1) ** 3

    real, generated = [[1.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [-1.0, 3.0]]
    expected = kernel(*real) + kernel(*generated) - 2 * np.mean([kernel(x, y) for x in real for y in generated])
    mean, deviation = kernel_distance(torch.tensor(real), torch.tensor(generated), generator(0))
    assert (mean, deviation) == (pytest.approx(expected), pytest.approx(0, abs=1e-12))


def test_kernel_distance_of_equal_distributions_is_unbiased_and_the_frechet_distance_is_not() -> None:
    pairs = [(normal(40, 8, 2 * i), normal(40, 8, 2 * i + 1)) for i in range(40)]
    kernel = np.array([kernel_distance(*pair, generator(0, i))[0] for i, pair in enumerate(pairs)])
    assert abs(kernel.mean()) < 3 * kernel.std() / math.sqrt(40)
    assert min(frechet_distance(*pair) for pair in pairs) > 0.3


def test_kernel_error_is_the_spread_of_repeated_measurements() -> None:
    pairs = [(normal(100, 8, 2 * i), normal(100, 8, 2 * i + 1, shift=1)) for i in range(60)]
    values = np.array([kernel_distance(*pair, generator(0, i)) for i, pair in enumerate(pairs)])
    assert values[:, 1].mean() == pytest.approx(values[:, 0].std(), rel=0.3)


# Precision, recall, density, coverage


def manifold_by_loops(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def apart(x: np.ndarray, y: np.ndarray) -> float:
        return math.sqrt(((x - y) ** 2).sum())

    def radius(x: int, points: np.ndarray) -> float:
        return sorted(apart(points[x], points[y]) for y in range(len(points)) if y != x)[k - 1]

    radii, others = ([radius(i, points) for i in range(len(points))] for points in (real, generated))
    inside = np.array([[apart(g, r) <= radii[i] for i, r in enumerate(real)] for g in generated])
    reached = [any(apart(g, r) <= others[j] for j, g in enumerate(generated)) for r in real]
    shares = inside.any(1).mean(), np.mean(reached), inside.sum() / (k * len(generated)), inside.any(0).mean()
    return tuple(map(float, shares))  # type: ignore[return-value]


@pytest.mark.parametrize("chunk", [4, 512])
def test_manifold_equals_loops(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "CHUNK", chunk)
    real, generated = normal(23, 3, 1), 1.4 * normal(17, 3, 2, shift=0.4)
    measured = manifold(real, generated, neighbours=3)
    expected = manifold_by_loops(real.double().numpy(), generated.double().numpy(), 3)
    assert (measured.precision, measured.recall, measured.density, measured.coverage) == pytest.approx(expected)
    assert 0 < measured.coverage < measured.precision < 1


def test_manifold_of_equal_far_and_collapsed_sets() -> None:
    real = normal(60, 4, 1)
    same, far = manifold(real, real), manifold(real, real + 100)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    collapsed = manifold(real, real[:1].expand(60, -1).contiguous())
    assert collapsed.precision == 1
    assert collapsed.recall == pytest.approx(1 / 60)
    assert collapsed.coverage < 0.5


def test_two_samples_of_one_distribution_have_density_one() -> None:
    assert manifold(normal(1000, 4, 1), normal(1000, 4, 2)).density == pytest.approx(1, abs=0.1)


# Nearest neighbours


@pytest.mark.parametrize("chunk", [3, 512])
def test_nearest_equals_all_distances(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "CHUNK", chunk)
    queries, targets = normal(20, 7, 1, shift=50), normal(55, 7, 2, shift=50)
    found, which = nearest(queries, targets)
    expected, index = torch.cdist(queries.double(), targets.double()).min(1)
    assert torch.equal(which, index)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_a_copy_among_bytes_is_exactly_zero_away() -> None:
    targets = torch.randint(256, (300, 784), generator=generator(1), dtype=torch.uint8)
    queries = targets[[7, 211, 5]].clone()
    queries[2, 100] ^= 1
    found, which = nearest(queries, targets)
    assert which.tolist() == [7, 211, 5]
    assert found.tolist() == [0, 0, 1]


# Small and broken sets


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 6), st.integers(2, 6), st.integers(1, 9), st.sampled_from([0.0, 1e-6, 1.0, 1e6]), st.integers(0, 99)
)
def test_a_few_images_give_finite_figures(n: int, m: int, features: int, scale: float, seed: int) -> None:
    real, generated = scale * normal(n, features, seed) + 3, scale * normal(m, features, seed + 100) + 3
    assert 0 <= frechet_distance(real, generated) < math.inf
    assert all(map(math.isfinite, kernel_distance(real, generated, generator(seed))))
    overlap = manifold(real, generated)
    assert all(0 <= share <= 1 for share in (overlap.precision, overlap.recall, overlap.coverage))
    assert 0 <= overlap.density < math.inf
    if scale == 0:
        assert frechet_distance(real, generated) == 0
        assert (overlap.precision, overlap.recall, overlap.coverage) == (1, 1, 1)


def test_one_image_has_a_frechet_distance_but_no_kernel_distance() -> None:
    one = torch.tensor([[1.0, 2.0]])
    assert frechet_distance(one, one + 3) == pytest.approx(18)
    with pytest.raises(UserError, match="at least 2"):
        kernel_distance(one, one, generator(0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_no_numbers_are_refused(value: float) -> None:
    broken = normal(5, 3, 0)
    broken[2, 1] = value
    for distance in (frechet_distance, manifold):
        with pytest.raises(UserError, match="1 of 5 images"):
            distance(normal(5, 3, 1), broken)
    with pytest.raises(UserError, match="no images"):
        frechet_distance(broken[:0], broken)
    with pytest.raises(UserError, match="too large"):
        frechet_distance(normal(5, 3, 1).double() * 1e200, normal(5, 3, 2).double())
