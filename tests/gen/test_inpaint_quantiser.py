"""The codebook: nearest codes, straight-through gradients, moving averages, and codes that come back to life."""

import copy

import pytest
import torch
import torch.nn.functional as F

from gen.inpaint.quantiser import EPSILON, Quantiser, squared_distances


def features(count=5, dim=3, height=2, width=4, seed=0):
    return torch.randn(count, dim, height, width, generator=torch.Generator().manual_seed(seed))


def quantiser(num_codes=7, code_dim=3, seed=1, **options):
    torch.manual_seed(seed)
    return Quantiser(num_codes, code_dim, **options)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------------------------------- looking up


def test_distances_are_exact():
    z, level = features(), quantiser()
    expected = (z.double().movedim(1, -1)[..., None, :] - level.codebook.double()).square().sum(-1)
    torch.testing.assert_close(squared_distances(z, level.codebook).double(), expected, atol=1e-5, rtol=1e-5)


def test_distances_are_exact_whatever_the_precision_around():
    z, level, before = features(), quantiser(), torch.get_float32_matmul_precision()
    expected = squared_distances(z, level.codebook)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(squared_distances(z, level.codebook), expected)
        assert squared_distances(z.bfloat16(), level.codebook).dtype == torch.float32
    assert torch.get_float32_matmul_precision() == before


def test_the_nearest_codes_are_taken():
    z, level = features(), quantiser().eval()
    flat = z.movedim(1, -1).reshape(-1, 3)
    expected = torch.cdist(flat.double(), level.codebook.double()).argmin(-1).view(5, 2, 4)
    vectors, ids, commitment = level(z)
    assert torch.equal(ids, expected)
    assert torch.equal(level.vectors(ids).movedim(1, -1), level.codebook[expected])
    torch.testing.assert_close(vectors, level.vectors(ids))
    torch.testing.assert_close(commitment, (z - level.vectors(ids)).square().mean())


@pytest.mark.parametrize("training", [True, False])
def test_gradients_go_straight_through(training):
    z, level = features().requires_grad_(), quantiser().train(training)
    vectors, ids, commitment = level(z)
    upstream = features(seed=4)
    through, pull = (torch.autograd.grad(x, z, y, retain_graph=True)[0] for x, y in
                     ((vectors, upstream), (commitment, None)))  # fmt: skip
    assert torch.equal(through, upstream)
    torch.testing.assert_close(pull, 2 * (z - level.vectors(ids)).detach() / z.numel())


# ------------------------------------------------------------------------------------------- moving averages


def by_hand(level, batches, decay):
    """The update of appendix A.1 with smoothed counts, code by code."""
    count, total = torch.ones(len(level.codebook)), level.codebook.clone()
    seen_count, seen_total = torch.zeros_like(count), torch.zeros_like(total)
    for z in batches:
        for vector, code in zip(z.movedim(1, -1).reshape(-1, 3), level.nearest(z).flatten(), strict=True):
            seen_count[code] += 1
            seen_total[code] += vector
    count = decay * count + (1 - decay) * seen_count
    total = decay * total + (1 - decay) * seen_total
    smoothed = (count + EPSILON) / (count.sum() + len(count) * EPSILON) * count.sum()
    return count, total / smoothed[:, None]


def test_codes_follow_the_features():
    level = quantiser(decay=0.8, dead_code_threshold=0.0)
    count, codes = by_hand(level, [features()], 0.8)
    level(features())
    level.update(generator())
    torch.testing.assert_close(level.average[:, 0], count)
    torch.testing.assert_close(level.codebook, codes)


def test_a_step_may_be_split_into_passes():
    whole, parts = quantiser(), quantiser()
    whole(features())
    for part in features().split(2):
        parts(part)
    for level in (whole, parts):
        level.update(generator())
    torch.testing.assert_close(whole.codebook, parts.codebook)
    torch.testing.assert_close(whole.average, parts.average)


def test_processes_share_what_they_saw(monkeypatch):
    whole, mine, other = quantiser(), quantiser(), quantiser()
    whole(features())
    mine(features()[:2])
    other(features()[2:])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.add_(other.observed))
    mine.update(generator())
    monkeypatch.undo()
    whole.update(generator())
    torch.testing.assert_close(mine.codebook, whole.codebook)


def test_nothing_is_noted_outside_of_training():
    level = quantiser().eval()
    before = copy.deepcopy(level.state_dict())
    level(features())
    level.nearest(features())
    level.train().update(generator())
    count, codes = level.average[:, 0], level.codebook
    torch.testing.assert_close(count, 0.99 * before["average"][:, 0])
    torch.testing.assert_close(codes, before["codebook"], atol=1e-4, rtol=1e-4)


def test_codes_reach_the_means_of_clusters():
    """Lloyd's fixed point: each code in the middle of what it is nearest to."""
    level, z = quantiser(num_codes=4, decay=0.5), features(200)
    for step in range(60):
        level(z)
        level.update(generator(step))
    ids = level.nearest(z)
    flat = z.movedim(1, -1).reshape(-1, 3)
    means = torch.stack([flat[ids.flatten() == k].mean(0) for k in range(4)])
    torch.testing.assert_close(level.codebook, means, atol=0.02, rtol=0)


# ------------------------------------------------------------------------------------------- dead codes


def clusters(num_clusters=6, each=40, dim=2):
    """Tight and far from each other: (num_clusters * each, dim, 1, 1)."""
    centres = 10 * torch.eye(num_clusters)[:, :dim] + 10 * torch.arange(num_clusters)[:, None]
    spread = 0.05 * torch.randn(num_clusters, each, dim, generator=generator(3))
    return (centres[:, None] + spread).view(-1, dim, 1, 1), centres


@pytest.mark.parametrize(("threshold", "revived"), [(0.01, True), (0.0, False)])
def test_a_collapsed_codebook_spreads_out_again(threshold, revived):
    z, centres = clusters()
    level = quantiser(num_codes=6, code_dim=2, decay=0.9, dead_code_threshold=threshold)
    level.start_from(torch.full((6, 2), -50.0) + torch.arange(6)[:, None])  # one of them is nearest to everything
    for step in range(400):
        level(z)
        level.update(generator(step))
    found = torch.cdist(centres, level.codebook).min(-1).values.max() < 0.2
    assert found == revived
    if revived:
        assert level.perplexity() == pytest.approx(6, abs=0.1)
        assert level.live_codes() == 6


def test_a_dead_code_goes_beside_the_one_with_the_most_distortion():
    level = quantiser(num_codes=3, code_dim=2, decay=0.5, dead_code_threshold=0.2)
    level.start_from(torch.tensor([[0.0, 0.0], [100.0, 0.0], [-500.0, 0.0]]))
    offsets = torch.tensor([[0.1, 0.1], [-0.1, -0.1]])  # of the first; the second has a wider cluster
    z = torch.cat([offsets.repeat(20, 1), 30 * offsets.repeat(20, 1) + torch.tensor([100.0, 0.0])])[:, :, None, None]
    level(z)
    level.update(generator())
    assert level.average[2, 0] == 1
    torch.testing.assert_close(level.codebook[:2], torch.tensor([[0.0, 0.0], [100.0, 0.0]]), atol=3.0, rtol=0)
    moved = (level.codebook[2] - torch.tensor([100.0, 0.0])).norm()
    assert 0 < moved < 4 * 30 * 0.1 * 2**0.5


def test_use_is_measured():
    level = quantiser(num_codes=4, dead_code_threshold=0.1)
    level.average[:, 0] = torch.tensor([6.0, 2.0, 2.0, 0.0])
    share = torch.tensor([0.6, 0.2, 0.2])
    assert level.perplexity() == pytest.approx(float((-share * share.log()).sum().exp()))
    assert level.live_codes() == 3


def test_what_was_noted_is_not_saved():
    level = quantiser()
    level(features())
    assert set(level.state_dict()) == {"codebook", "average"}
    assert level.observed.any()


def test_equal_seeds_revive_equally():
    levels = [quantiser(num_codes=50, dead_code_threshold=0.5) for _ in range(2)]
    for level in levels:
        level(features())
        level.update(generator(7))
    assert torch.equal(levels[0].codebook, levels[1].codebook)
    assert torch.isfinite(levels[0].codebook).all()
    assert len(F.normalize(levels[0].codebook).unique(dim=0)) == 50
