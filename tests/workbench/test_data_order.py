"""Which examples a step sees."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import seeds
from workbench.data_order import global_batch

sizes = st.integers(1, 30)


@given(num_examples=sizes, batch_size=sizes, seed=st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_every_epoch_is_a_permutation(num_examples: int, batch_size: int, seed: int) -> None:
    """Batches follow one another without a gap, over the ends of epochs, and also when larger than the data."""
    steps = 3 * num_examples // batch_size + 1
    seen = torch.cat([global_batch(num_examples, batch_size, seed, step) for step in range(1, steps + 1)])
    assert len(seen) == steps * batch_size
    for epoch in seen.split(num_examples)[:-1]:
        assert sorted(epoch.tolist()) == list(range(num_examples))


@given(num_examples=sizes, half=sizes, seed=st.integers(0, 99), step=st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_a_batch_is_the_same_however_large_the_steps(num_examples: int, half: int, seed: int, step: int) -> None:
    whole = global_batch(num_examples, 2 * half, seed, step)
    halves = [global_batch(num_examples, half, seed, 2 * step - 1 + k) for k in range(2)]
    assert torch.equal(whole, torch.cat(halves))


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    """As after a resume: nothing was asked before, in this order or any."""
    forward = [global_batch(50, 7, 1, step) for step in range(1, 40)]
    backward = [global_batch(50, 7, 1, step) for step in range(39, 0, -1)]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = [global_batch(1000, 1000, seed, epoch).tolist() for seed in (0, 1) for epoch in (1, 2)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(order != sorted(order) for order in orders)


def test_generators_depend_on_seed_and_key() -> None:
    keys = [(seed, stream, step) for seed in (0, 1, 2**63) for stream in (0, 1) for step in (0, 1, 10**7)]
    draws = [torch.rand(1, generator=seeds.generator(*key)).item() for key in keys]
    assert len(set(draws)) == len(keys)
    assert [torch.rand(1, generator=seeds.generator(*key)).item() for key in keys] == draws
