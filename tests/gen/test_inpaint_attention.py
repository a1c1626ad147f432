"""Structural attention against the paper's formulas written out, on maps that are not square."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gen.inpaint.attention import (
    attention_figures,
    borrowed,
    fused,
    hole_tokens,
    similarity,
    standardised,
    structural_attention,
)

GRID = (3, 5)
N = 15


@pytest.fixture
def structure():
    return torch.randn(2, 4, *GRID, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask():
    """Tokens of 4 pixels; the hole touches rows 1-2 and columns 1-3 of the map in image 0, and all of image 1."""
    mask = torch.zeros(2, 1, 12, 20)
    mask[0, :, 6:9, 7:13] = 1
    mask[1] = 1
    return mask


def test_scores_are_standardised_distances_of_neighbourhoods(structure):
    padded = np.pad(structure.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = [padded[:, :, y : y + 3, x : x + 3].reshape(2, -1) for y in range(GRID[0]) for x in range(GRID[1])]
    distances = np.array([[((p - q) ** 2).sum(1) for q in patches] for p in patches]).transpose(2, 0, 1)
    deviations = distances.std(-1, keepdims=True)  # NumPy's is that of a population
    expected = -np.tanh((distances - distances.mean(-1, keepdims=True)) / deviations)
    np.testing.assert_allclose(similarity(structure), expected, atol=1e-5)


def test_fusion_is_two_correlations_with_the_identity(structure):
    scores = torch.randn(2, N, N, generator=torch.Generator().manual_seed(1))
    eye = torch.eye(3)[None, None]
    by_column = torch.arange(N).view(GRID).T.flatten()  # the row-major number of each place, column by column
    first = F.conv2d(scores[:, None], eye, padding=1)[:, 0]
    second = F.conv2d(first[:, by_column][:, :, by_column][:, None], eye, padding=1)[:, 0]
    back = by_column.argsort()
    torch.testing.assert_close(fused(scores, GRID), second[:, back][:, :, back])


@pytest.mark.parametrize("keys", ["all", "known"])
@pytest.mark.parametrize("fuse", [True, False])
def test_weights_are_a_softmax_of_the_scores(structure, mask, keys, fuse):
    weights = structural_attention(structure, mask, keys, fuse, scale=7.0)
    scores = similarity(structure)
    scores = fused(scores, GRID) if fuse else scores
    hole = torch.zeros(2, N, dtype=torch.bool)
    hole[0, [6, 7, 8, 11, 12, 13]] = True
    if keys == "known":  # of image 0 alone: of image 1 nothing is known
        scores[0] = scores[0].masked_fill(hole[0][:, None] & hole[0][None], -math.inf)
    torch.testing.assert_close(weights, (7.0 * scores).softmax(-1))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, N))


def test_holes_are_of_tokens_that_a_pixel_of_the_hole_lies_in(mask):
    assert hole_tokens(mask, GRID)[0].nonzero()[:, 0].tolist() == [6, 7, 8, 11, 12, 13]
    assert hole_tokens(mask, GRID)[1].all()


def test_a_place_matches_itself_best(structure, mask):
    """What makes the released attention a skip connection: the weights are close to the identity."""
    weights = structural_attention(structure, mask)
    assert weights.diagonal(dim1=1, dim2=2).min() > 0.99
    known = structural_attention(structure, mask, "known")
    assert known[0, 7, [6, 7, 8, 11, 12, 13]].sum() == 0


def test_a_flat_structure_gives_even_weights(mask):
    weights = structural_attention(torch.ones(2, 4, *GRID), mask, fuse=False)
    interior = similarity(torch.zeros(2, 4, *GRID))
    torch.testing.assert_close(interior, torch.zeros(2, N, N))
    assert weights.isfinite().all()
    assert standardised(torch.full((2, 5), 3.0)).abs().max() == 0


def test_precision_around_does_not_matter(structure, mask):
    exact = structural_attention(structure, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(structural_attention(structure, mask), exact)


def test_no_gradient_reaches_the_structure(structure, mask):
    assert not structural_attention(structure.requires_grad_(), mask).requires_grad


@pytest.mark.parametrize("patch_size", [2, 4])
def test_features_are_borrowed_in_patches(patch_size):
    """Against unfold and fold."""
    features = torch.randn(2, 3, GRID[0] * patch_size, GRID[1] * patch_size)
    weights = torch.rand(2, N, N)
    values = F.unfold(features, patch_size, stride=patch_size)  # (b, c r r, n)
    expected = F.fold(values @ weights.mT, features.shape[-2:], patch_size, stride=patch_size)
    torch.testing.assert_close(borrowed(weights, features, patch_size), expected)
    assert borrowed(None, features, patch_size) is features


def test_borrowing_moves_whole_patches():
    features = torch.arange(2 * 6 * 10.0).view(1, 2, 6, 10)
    weights = torch.zeros(1, N, N)
    weights[0, torch.arange(N), torch.arange(N).roll(1)] = 1
    moved = borrowed(weights, features, 2)
    torch.testing.assert_close(moved[..., 2:4, 2:4], features[..., 2:4, 0:2])
    torch.testing.assert_close(moved[..., 0:2, 0:2], features[..., 4:6, 8:10])


def test_figures_tell_the_identity_from_an_even_attention():
    hole = torch.zeros(2, N, dtype=torch.bool)
    hole[0, 2:5] = True
    identity, even = torch.eye(N).expand(2, N, N), torch.full((2, N, N), 1 / N)
    assert attention_figures(identity, hole) == {"attention_self_weight": 1, "attention_entropy": 0}
    figures = attention_figures(even, hole)
    assert figures["attention_self_weight"] == pytest.approx(1 / N)
    assert figures["attention_entropy"] == pytest.approx(math.log(N))
