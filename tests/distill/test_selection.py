"""Choosing real images, against exhaustive search and on clusters that anybody can see."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.baselines.selection import METHODS, herding, k_center, k_means, select
from workbench import seeds
from workbench.errors import UserError

GENERATOR = seeds.generator


def rows(count: int, width: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=GENERATOR(seed))


def test_herding_is_the_best_step_every_time() -> None:
    data = rows(20)
    chosen = herding(data, 6, GENERATOR(0)).tolist()
    for taken in range(6):
        left = [k for k in range(20) if k not in chosen[:taken]]
        gaps = {k: (data[[*chosen[:taken], k]].mean(0) - data.mean(0)).norm().item() for k in left}
        assert chosen[taken] == min(gaps, key=lambda k: gaps[k])


def test_herding_follows_the_mean_better_than_chance() -> None:
    data = rows(200, 10)
    gap = (data[herding(data, 10, GENERATOR(0))].mean(0) - data.mean(0)).norm()
    chance = [(data[torch.randperm(200, generator=GENERATOR(k))[:10]].mean(0) - data.mean(0)).norm() for k in range(20)]
    assert gap < min(chance) / 2


def test_k_center_covers_within_twice_the_best_radius() -> None:
    data = rows(12, 2)

    def radius(centres: list[int]) -> float:
        return torch.cdist(data, data[centres]).min(1).values.max().item()

    best = min(radius(list(centres)) for centres in itertools.combinations(range(12), 3))
    assert radius(k_center(data, 3, GENERATOR(0)).tolist()) <= 2 * best


def test_k_means_finds_clusters_largest_first() -> None:
    places = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    owners = torch.tensor([0] * 5 + [1] * 20 + [2] * 10)
    data = places[owners] + 0.5 * rows(35, 2)
    for seed in range(5):
        chosen = k_means(data, 3, GENERATOR(seed))
        assert owners[chosen].tolist() == [1, 2, 0]
        for row in chosen:
            own = data[owners == owners[row]]
            assert (data[row] - own.mean(0)).norm() == (own - own.mean(0)).norm(dim=1).min()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(METHODS)), st.integers(1, 12), st.integers(0, 1000), st.booleans())
def test_every_choice_is_of_different_rows_and_repeatable(method: str, count: int, seed: int, equal: bool) -> None:
    data = torch.ones(12, 3) if equal else rows(12, 3, seed)
    chosen = METHODS[method](data, count, GENERATOR(seed))
    assert chosen.shape == (count,)
    assert len(set(chosen.tolist())) == count
    assert torch.equal(chosen, METHODS[method](data, count, GENERATOR(seed)))


@pytest.mark.parametrize("method", METHODS)
def test_selection_takes_as_many_of_each_class(method: str) -> None:
    labels = torch.arange(30) % 3
    chosen = select(method, rows(30), labels, ("a", "b", "c"), 4, GENERATOR(1))
    assert labels[chosen].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_too_few_images_and_unknown_ways_are_told() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    with pytest.raises(UserError, match=r"the class b has 1 images, fewer than --images-per-class 2"):
        select("random", rows(4), labels, ("a", "b"), 2, GENERATOR(0))
    with pytest.raises(UserError, match=r"no way 'best' .* random, herding, k-center, k-means"):
        select("best", rows(4), labels, ("a", "b"), 1, GENERATOR(0))
