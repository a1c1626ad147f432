"""Transforms: their statistics, their inverses, and their way through a file."""

import pytest
import torch
from safetensors.torch import load, save

from distill import preprocess
from distill.preprocess import ZCA, Standard, Transform
from workbench import seeds
from workbench.errors import UserError


def images(count: int = 200, channels: int = 2) -> torch.Tensor:
    """In [0, 1], with neighbours that resemble each other."""
    noise = torch.rand(count, channels, 6, 7, generator=seeds.generator(7))
    return (noise + noise.roll(1, 3) + noise.roll(1, 2)) / 3


def test_standard_has_mean_0_and_deviation_1_in_each_channel() -> None:
    x = images()
    z = Standard.fit(x).apply(x).double()
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.var((0, 2, 3), correction=0), torch.ones(2).double(), atol=1e-4, rtol=0)


def test_a_constant_channel_is_only_shifted() -> None:
    x = torch.cat([images(channels=1), torch.full((200, 1, 6, 7), 0.25)], 1)
    z = Standard.fit(x).apply(x)
    assert bool((z[:, 1] == 0).all())
    assert bool(z.isfinite().all())


def test_zca_whitens_as_its_formula_says() -> None:
    """Eigenvalue s of the covariance becomes s / (s + 0.1), along the same direction; and the mean becomes 0."""
    x = images()
    z = ZCA.fit(x).apply(x).flatten(1).double()
    before = torch.cov(x.flatten(1).double().T)
    values, vectors = torch.linalg.eigh(before)
    after = vectors.T @ torch.cov(z.T) @ vectors
    torch.testing.assert_close(after, torch.diag(values / (values + 0.1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.mean(0), torch.zeros(84).double(), atol=1e-5, rtol=0)


def test_zca_in_parts_is_zca_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ZCA.fit(images())
    monkeypatch.setattr(preprocess, "MOST_FITTED", 64)
    for name, tensor in ZCA.fit(images()).state().items():
        torch.testing.assert_close(tensor, whole.state()[name], atol=1e-5, rtol=1e-4)


def test_zca_matrix_is_symmetric() -> None:
    """Which makes it ZCA rather than PCA: a whitened image still looks like the image."""
    matrix = ZCA.fit(images()).state()["zca_matrix"]
    torch.testing.assert_close(matrix, matrix.T)


def test_zca_of_huge_images_is_refused() -> None:
    with pytest.raises(
        UserError, match="12288 numbers would need a matrix of their square; give --preprocessing stand"
    ):
        ZCA.fit(torch.zeros(2, 3, 64, 64))


@pytest.mark.parametrize("kind", ["standard", "zca"])
def test_invert_undoes_apply_on_other_images_too(kind: str) -> None:
    transform = preprocess.fit(kind, images())  # type: ignore[arg-type]
    other = torch.rand(3, 2, 6, 7, generator=seeds.generator(8))
    torch.testing.assert_close(transform.invert(transform.apply(other)), other, atol=1e-5, rtol=0)
    assert transform.kind == kind


@pytest.mark.parametrize("kind", ["standard", "zca"])
def test_a_transform_survives_a_file_bit_for_bit(kind: str) -> None:
    transform = preprocess.fit(kind, images())  # type: ignore[arg-type]
    back = Transform.from_state(load(save({**transform.state(), "other": torch.zeros(1)})))
    assert torch.equal(back.apply(images()), transform.apply(images()))
    assert back.kind == kind


def test_double_precision_is_kept() -> None:
    transform = preprocess.fit("zca", images())
    assert transform.apply(images().double()).dtype == torch.float64


def test_no_transform_is_a_sentence() -> None:
    with pytest.raises(UserError, match="there is no transform among the tensors images"):
        Transform.from_state({"images": torch.zeros(1)})
