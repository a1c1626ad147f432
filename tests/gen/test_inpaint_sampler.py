"""The incremental sampler computes what the full network computes, and draws what its logits say."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny_inpaint_models import codebook, conditions, seeded, structures, tiny_structure

from gen.inpaint import sampler
from gen.inpaint.sampler import GROUP, IncrementalSampler, gumbel_noise, nucleus, sample
from workbench.errors import UserError

GRID = (4, 6)


@pytest.fixture(scope="module")
def model():
    return tiny_structure()


@pytest.fixture(scope="module")
def codes(model):
    return codebook(model)


@pytest.fixture(scope="module")
def h(model):
    return conditions(model, GRID)


def full_logits(model, codes, ids, h):
    """By the network that is trained, all tokens at once: (n, ht, wt, k)."""
    with torch.no_grad():
        return model.logits(F.embedding(ids, codes).movedim(-1, 1), h).movedim(1, -1)


def naively(model, codes, h, generator, temperature=1.0, top_p=1.0, forced=None):
    """One variant, the whole network again for each token."""
    noise = gumbel_noise(h.shape[2:], len(codes), generator)
    ids = torch.zeros(1, *h.shape[2:], dtype=torch.int64)
    for row in range(h.shape[2]):
        for column in range(h.shape[3]):
            logits = full_logits(model, codes, ids, h)[0, row, column] / temperature
            drawn = (nucleus(logits[None], top_p)[0] + noise[row, column]).argmax()
            ids[0, row, column] = drawn if forced is None or forced[row, column] < 0 else forced[row, column]
    return ids[0]


# ------------------------------------------------------------------------------------------- exactness


@given(rows=st.integers(2, 5), columns=st.integers(2, 5), count=st.integers(1, GROUP), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_row_by_row_logits_are_those_of_the_whole_network(rows, columns, count, seed):
    model = tiny_structure(seed)
    codes, h = codebook(model), conditions(model, (rows, columns))
    ids = structures(count, (rows, columns), seed)
    found = IncrementalSampler(model, codes, h).teacher_forced_logits(ids)
    torch.testing.assert_close(found, full_logits(model, codes, ids, h), atol=1e-5, rtol=1e-5)


def column_logits(model, codes, h, count, monkeypatch, record=False):
    """Ids that were drawn column by column, and the logits they were drawn from."""
    seen = []
    draw_token = IncrementalSampler._draw_token

    def listen(self, column, logits):
        seen.append(logits.clone())
        draw_token(self, column, logits)

    monkeypatch.setattr(IncrementalSampler, "_draw_token", listen)
    if record:  # as for a CUDA graph: attention looks at all tokens, those to come are masked
        monkeypatch.setattr(IncrementalSampler, "_fill_row", lambda self, row, free: self._drawn_row(row, free, True))
    ids, _ = sample(model, codes, h, count, seeded(*range(count)))
    return ids, torch.stack(seen, dim=1).unflatten(1, GRID)[:count]


@pytest.mark.parametrize("record", [False, True])
def test_column_by_column_logits_are_those_of_the_whole_network(model, codes, h, monkeypatch, record):
    ids, found = column_logits(model, codes, h, 3, monkeypatch, record)
    assert len(ids.unique(dim=0)) == 3
    torch.testing.assert_close(found, full_logits(model, codes, ids, h), atol=1e-5, rtol=1e-5)


def test_the_paper_s_kinds_of_sizes():
    """Another number of levels, heads and codes, three halvings, colour."""
    model = tiny_structure(
        channels=3, num_codes=20, code_dim=6, factor=8, width=12, num_levels=3, attention_every=1,
        num_attention_heads=3, num_output_blocks=1, condition_width=3,
    )  # fmt: skip
    codes, h, ids = codebook(model), conditions(model, (2, 3)), structures(2, (2, 3), num_codes=20)
    found = IncrementalSampler(model, codes, h).teacher_forced_logits(ids)
    torch.testing.assert_close(found, full_logits(model, codes, ids, h), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.6)])
def test_draws_are_those_of_the_naive_sampler(model, codes, h, temperature, top_p):
    ids, log_likelihood = sample(model, codes, h, 2, seeded(5, 6), temperature, top_p)
    for k, generator in enumerate(seeded(5, 6)):
        assert torch.equal(ids[k], naively(model, codes, h, generator, temperature, top_p))
    expected = full_logits(model, codes, ids, h).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(log_likelihood, expected, atol=1e-5, rtol=1e-5)


def test_a_variant_does_not_depend_on_how_many_there_are(model, codes, h):
    most = 2 * GROUP + 3
    whole = sample(model, codes, h, most, seeded(*range(most)))
    for count in (1, 2, GROUP, GROUP + 1):
        part = sample(model, codes, h, count, seeded(*range(count)))
        assert torch.equal(part.ids, whole.ids[:count])
        assert torch.equal(part.log_likelihood, whole.log_likelihood[:count])  # to the bit
    other = sample(model, codes, h, 2, seeded(7, 1))
    assert torch.equal(other.ids[1], whole.ids[1])
    assert torch.equal(other.ids[0], whole.ids[7])


def test_low_precision_weights_are_sampled_in_full_precision(codes, h):
    half = tiny_structure().half()
    ids, _ = sample(half, codes.half(), h.half(), 2, seeded(1, 2))
    assert torch.equal(ids, sample(half.float(), codes.half().float(), h.half().float(), 2, seeded(1, 2)).ids)


# ------------------------------------------------------------------------------------------- given tokens


@pytest.mark.parametrize(
    "free",
    [
        (slice(None), slice(None)),
        (slice(2, 3), slice(1, 4)),  # rows before are computed at once, the last one not at all
        (slice(0, 3, 2), slice(0, 1)),  # a given row between
        (slice(3, 4), slice(5, 6)),  # the last token alone
    ],
)
def test_given_tokens_stay_and_the_others_are_drawn_as_naively(model, codes, h, free):
    forced = structures(1, GRID)
    forced[0][free] = -1
    ids, log_likelihood = sample(model, codes, h, 2, seeded(8, 9), forced=forced)
    for k, generator in enumerate(seeded(8, 9)):
        assert torch.equal(ids[k], naively(model, codes, h, generator, forced=forced[0]))
    assert (log_likelihood[:, forced[0] >= 0] == 0).all()
    assert (log_likelihood[:, forced[0] < 0] < 0).all()


def test_variants_may_have_their_own_given_tokens(model, codes, h):
    forced = structures(3, GRID)
    forced[0, 1:], forced[1, :, 2], forced[2] = -1, -1, -1
    ids, _ = sample(model, codes, h, 3, seeded(1, 2, 3), forced=forced)
    for k, generator in enumerate(seeded(1, 2, 3)):
        assert torch.equal(ids[k], naively(model, codes, h, generator, forced=forced[k]))


def test_all_tokens_given(model, codes, h):
    forced = structures(2, GRID)
    ids, log_likelihood = sample(model, codes, h, 2, seeded(1, 2), forced=forced)
    assert torch.equal(ids, forced)
    assert not log_likelihood.any()


def test_a_kept_prefix_goes_on_as_it_did(model, codes, h):
    first = sample(model, codes, h, 1, seeded(4)).ids
    kept = first.clone()
    kept.view(-1)[10:] = -1
    again = sample(model, codes, h, 3, seeded(4, 5, 6), forced=kept).ids
    assert torch.equal(again[:1], first)
    assert (again.flatten(1)[:, :10] == first.flatten()[:10]).all()
    assert len(again.unique(dim=0)) == 3


# ------------------------------------------------------------------------------------------- draws


def test_noisy_logits_are_draws_from_their_softmax():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = (logits + gumbel_noise((100, 200), 4, seeded(0)[0])).argmax(-1)
    counts = torch.bincount(drawn.flatten(), minlength=4)
    assert stats.chisquare(counts.numpy(), (logits.double().softmax(-1) * counts.sum()).numpy()).pvalue > 1e-3


def test_structures_are_drawn_by_their_probability(model, codes):
    """The first token of many variants against its logits, which no token comes before."""
    h = conditions(model, (2, 2))
    forced = torch.full((1, 2, 2), 0)
    forced[0, 0, 0] = -1
    ids, _ = sample(model, codes, h, 2000, seeded(*range(2000)), forced=forced)
    law = full_logits(model, codes, ids[:1], h)[0, 0, 0].double().softmax(-1)
    counts = torch.bincount(ids[:, 0, 0], minlength=len(law))
    assert stats.chisquare(counts.numpy(), (law * 2000).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, 1), (0.5, 1), (0.51, 2), (0.79, 2), (0.81, 3), (1.0, 4)])
def test_the_nucleus_is_the_fewest_likely_tokens(top_p, kept):
    logits = torch.tensor([[0.15, 0.5, 0.05, 0.3], [0.5, 0.3, 0.15, 0.05]]).log()
    left = nucleus(logits, top_p)
    assert left.isfinite().sum(-1).tolist() == [kept, kept]
    assert left[0].isfinite().nonzero().flatten().tolist() == sorted([1, 3, 0, 2][:kept])
    assert torch.equal(left[left.isfinite()], logits[left.isfinite()])


def test_cold_draws_are_the_likeliest(model, codes, h):
    ids, _ = sample(model, codes, h, 2, seeded(1, 2), temperature=1e-4)
    assert torch.equal(ids[0], ids[1])
    assert torch.equal(full_logits(model, codes, ids, h).argmax(-1), ids)


def test_rows_are_told_as_they_come(model, codes, h):
    told = []
    ids, _ = sample(model, codes, h, 2, seeded(1, 2), on_row=lambda row, so_far: told.append((row, so_far)))
    assert [row for row, _ in told] == [0, 1, 2, 3]
    for row, so_far in told:
        assert torch.equal(so_far[:, : row + 1], ids[:, : row + 1])
        assert (so_far[:, row + 1 :] == -1).all()


def test_a_caller_may_stop(model, codes, h):
    def stop(row, so_far):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, codes, h, 2, seeded(1, 2), on_row=stop)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": 0.0}, "the temperature is 0.0; give more than 0"),
        ({"temperature": float("nan")}, "the temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0; give more than 0, up to 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"num_variants": 3}, "2 generators for 3 variants"),
        ({"num_variants": 0, "generators": []}, "0 generators for 0 variants; give 1 or more"),
    ],
)
def test_impossible_wishes(model, codes, h, options, sentence):
    with pytest.raises(UserError, match=sentence):
        sample(model, codes, h, **{"num_variants": 2, "generators": seeded(1, 2), **options})


# ------------------------------------------------------------------------------------------- cost


def test_the_condition_is_used_once_for_all_groups(model, codes, h, monkeypatch):
    made = []
    original = sampler.Block.__init__

    def count(self, *arguments):
        made.append(self)
        original(self, *arguments)

    monkeypatch.setattr(sampler.Block, "__init__", count)
    sample(model, codes, h, 3 * GROUP, seeded(*range(3 * GROUP)))
    assert len(made) == 2 * model.config.num_levels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_rows_draw_what_a_cpu_draws(model, codes, h):
    forced = torch.full((1, *GRID), -1)
    forced[0, 2] = 3  # a given row between recorded ones
    expected = sample(model, codes, h, GROUP + 1, seeded(*range(GROUP + 1)), top_p=0.9, forced=forced)
    found = sample(
        tiny_structure().cuda(), codes.cuda(), h.cuda(), GROUP + 1, seeded(*range(GROUP + 1)), top_p=0.9, forced=forced
    )
    assert torch.equal(found.ids.cpu(), expected.ids)
    torch.testing.assert_close(found.log_likelihood.cpu(), expected.log_likelihood, atol=1e-4, rtol=1e-4)
