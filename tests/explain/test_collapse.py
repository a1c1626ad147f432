"""Similarity of patches: known values, the matrix written out, and prefix tokens left out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_classifiers import pixels, small_cnn, tiny_vit

from explain.collapse import patch_contrast, patch_similarity, token_collapse
from workbench.errors import UserError
from workbench.networks import build_classifier
from workbench.pixel_classifier import PixelClassifier


def random_tokens(batch: int, count: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, count, channels, generator=torch.Generator().manual_seed(seed))


def test_known_values() -> None:
    alike, apart = torch.ones(1, 6, 8), torch.eye(6, 8)[None]
    torch.testing.assert_close(patch_similarity(alike), torch.ones(1))
    torch.testing.assert_close(patch_similarity(apart), torch.zeros(1))
    torch.testing.assert_close(patch_contrast(apart, alike), torch.tensor([math.log(2)]))
    torch.testing.assert_close(patch_contrast(apart, apart), torch.tensor([0.313262]), rtol=0, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 12), channels=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_linear_form_is_the_matrix(count: int, channels: int, seed: int) -> None:
    first, last = (random_tokens(2, count, channels, seed + k) for k in (0, 100))
    for b in range(2):
        u, v = (x[b] / x[b].norm(dim=1, keepdim=True) for x in (first, last))
        pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
        mean = sum(float(v[i] @ v[j]) for i, j in pairs) / len(pairs)
        assert patch_similarity(last)[b].item() == pytest.approx(mean, abs=1e-5)
        terms = []
        for i in range(count):
            own = math.exp(float(u[i] @ v[i]))
            others = math.exp(sum(float(u[i] @ v[j]) for j in range(count) if j != i) / (count - 1))
            terms.append(-math.log(own / (own + others)))
        assert patch_contrast(first, last)[b].item() == pytest.approx(sum(terms) / count, abs=1e-5)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_each_block_has_a_value_from_its_patches_alone(library: str) -> None:
    classifier, images, seen = tiny_vit(library), pixels(3, 3, 24, 32), {}
    collapse = token_collapse(classifier, images)
    modules = dict(classifier.network.named_modules())
    for name in collapse.blocks:
        modules[name].register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        classifier(images)
    assert len(collapse.blocks) == 2
    for name, value in zip(collapse.blocks, collapse.similarity, strict=True):
        output = seen[name][0] if isinstance(seen[name], tuple) else seen[name]
        cosine = torch.cosine_similarity(output[:, 1:, None], output[:, None, 1:], dim=-1)  # without the class token
        n = cosine.shape[1]
        assert n == 12
        assert value == pytest.approx(float((cosine.sum((1, 2)) - n).mean() / (n * (n - 1))), abs=1e-5)


def test_attention_to_the_mean_collapses_patches() -> None:
    """With all of a block's output but its first token replaced by one vector."""
    classifier, images = tiny_vit("timm"), pixels(2, 3, 24, 32)
    assert not token_collapse(classifier, images).collapsed
    last = classifier.network.blocks[-1]
    handle = last.register_forward_hook(lambda m, i, out: out[:, :1].expand_as(out))
    collapse = token_collapse(classifier, images)
    handle.remove()
    assert collapse.collapsed
    assert collapse.contrastive == pytest.approx(math.log(2), abs=1e-2)


def test_stages_of_a_pyramid_have_no_contrast() -> None:
    network = build_classifier("convnet", 3, image_size=(24, 32), width=8)
    collapse = token_collapse(PixelClassifier.wrap(network, mean=0.5, std=0.25, size=(24, 32)), pixels(2, 3, 24, 32))
    assert collapse.blocks == ("blocks.0", "blocks.1", "blocks.2")
    assert collapse.contrastive is None


def test_a_network_without_blocks_is_a_sentence() -> None:
    with pytest.raises(UserError, match="no repeated blocks"):
        token_collapse(small_cnn(), pixels(1, 3, 24, 32))
