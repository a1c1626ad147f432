"""Sparse logistic regression against scikit-learn, and the head that is put back."""

import numpy as np
import pytest
import torch
from halves import halves, quick
from sklearn.linear_model import LogisticRegression

from augment_synth.dfr import Features, features_of, reweigh, worst_group
from augment_synth.logistic import l1_logistic
from augment_synth.robust_recipe import RobustRecipe


def problem(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(classes)
    features = torch.randn(60, 8, generator=draws, dtype=torch.float64)
    noisy = features[:, :classes] + 0.7 * torch.randn(60, classes, generator=draws, dtype=torch.float64)
    return features, noisy.argmax(1)


@pytest.mark.parametrize("penalty", [0.07, 1.0])
@pytest.mark.parametrize("classes", [2, 3])
def test_it_is_scikit_learns(classes: int, penalty: float) -> None:
    features, labels = problem(classes)
    weights, bias = l1_logistic(features, labels, classes, penalty)
    theirs = LogisticRegression(C=penalty, l1_ratio=1, solver="saga", tol=1e-8, max_iter=20000)
    theirs.fit(features.numpy(), labels.numpy())
    expected = torch.from_numpy(np.concatenate([theirs.coef_, theirs.intercept_[:, None]], 1))
    found = torch.cat([weights, bias[:, None]], 1)
    if classes == 2:
        found = found[1:] - found[:1]
    else:  # a softmax does not see what all classes share
        found, expected = (
            head - torch.cat([head[:, :-1] * 0, head[:, -1:].mean(0, True).expand(3, 1)], 1)
            for head in (found, expected)
        )
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert (weights == 0).any()


def test_a_harsh_penalty_leaves_the_bias_alone() -> None:
    features, labels = problem(2)
    weights, bias = l1_logistic(features, labels, 2, 1e-3)
    assert not weights.any()
    odds = float((labels == 1).sum() / (labels == 0).sum())
    assert float(bias[1] - bias[0]) == pytest.approx(np.log(odds), abs=1e-3)


def test_the_worst_group() -> None:
    features = Features(
        torch.tensor([[1.0], [2.0], [-1.0], [3.0]]).double(), torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0, 1, 1])
    )
    head = torch.tensor([[-1.0], [1.0]]).double(), torch.zeros(2).double()
    assert worst_group(head, features) == 0


def test_the_new_head_takes_raw_features_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("augment_synth.dfr.INVERSE_PENALTIES", (10.0,))
    data = halves((20, 20, 20, 20), synthetic=4)
    config = quick(resolution="8x12", dfr_redraws=1)
    classifier = RobustRecipe(config, data).model
    before = {name: value.clone() for name, value in classifier.network.state_dict().items()}
    real, made = data.select(~data.synthetic), data.select(data.synthetic)
    values = features_of(classifier, real).values
    reweigh(classifier, real, made, config)
    after = classifier.network.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["head.weight", "head.bias"]
    torch.testing.assert_close(features_of(classifier, real).values, values)
    logits = classifier(real.images.float() / 255)  # even random features show which half is bright
    assert float((logits.argmax(1) == real.labels).float().mean()) > 0.9
