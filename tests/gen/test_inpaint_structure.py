"""The structure generator: what each logit may depend on, its layers, and the sizes of the paper's code."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_inpaint_models import codebook, conditions, structures, tiny_structure

from gen.inpaint.presets import PRESETS
from gen.inpaint.structure import (
    CausalAttention,
    GatedBlock,
    StructureModel,
    concat_elu,
    down,
    down_right,
    pointwise,
    shifted_down,
    shifted_right,
)  # fmt: skip

GRID = (4, 5)


@pytest.fixture(scope="module")
def model():
    return tiny_structure()


@pytest.fixture(scope="module")
def h(model):
    return conditions(model, GRID)


def logits(model, ids, h):
    """(b, t, k)."""
    with torch.no_grad():
        return model.logits(F.embedding(ids, codebook(model)).movedim(-1, 1), h).flatten(2).mT


def test_presets_have_as_many_weights_as_they_should():
    """px256: 40.5 and 26.8 million, as counted in the paper's code."""
    with torch.device("meta"):
        networks = {name: structure_of(preset) for name, preset in PRESETS.items()}
    counts = {
        name: [sum(w.numel() for w in part.parameters()) for part in (model.condition_network, model.autoregression)]
        for name, model in networks.items()
    }
    assert counts["px256"] == pytest.approx([40.5e6, 26.8e6], rel=0.003)
    assert counts["tiny32"] == pytest.approx([0.25e6, 0.60e6], rel=0.03)


def structure_of(preset):
    shape = preset.vqvae
    sizes = {"num_codes": shape.num_codes, "code_dim": shape.code_dim, "factor": shape.factor}
    return StructureModel(**sizes, **preset.structure._asdict())


# ------------------------------------------------------------------------------------------- who sees whom


@given(token=st.integers(0, GRID[0] * GRID[1] - 1), seed=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_a_token_changes_the_logits_after_it_alone(token, seed):
    model = tiny_structure(seed % 3)
    h, ids = conditions(model, GRID), structures(1, GRID, seed)
    other = ids.clone()
    other.view(-1)[token] = (other.view(-1)[token] + 1) % 12
    changed = (logits(model, ids, h) != logits(model, other, h))[0].any(-1)
    assert not changed[: token + 1].any()
    assert changed[token + 1 : token + 2].all()  # the very next one sees it
    if token + 1 < len(changed):
        assert changed.nonzero().min() == token + 1


def test_every_token_before_is_seen():
    """Through the attention at the latest: the last logits depend on all other tokens."""
    model = tiny_structure()
    vectors = F.embedding(structures(1, GRID), codebook(model)).movedim(-1, 1).requires_grad_()
    last = model.logits(vectors, conditions(model, GRID))[0, :, -1, -1].sum()
    (gradient,) = torch.autograd.grad(last, vectors)
    seen = gradient[0].abs().sum(0).flatten() > 0
    assert seen.tolist() == [True] * (len(seen) - 1) + [False]


def test_all_of_the_condition_is_seen(model):
    generator = torch.Generator().manual_seed(0)
    masked = torch.rand(1, 1, 16, 20, generator=generator).requires_grad_()
    mask = (torch.rand(1, 1, 16, 20, generator=generator) > 0.5).float().requires_grad_()
    first = model.logits(torch.zeros(1, 4, *GRID), model.condition(masked, mask))[0, :, 1, 2].square().sum()
    for gradient in torch.autograd.grad(first, (masked, mask)):
        assert (gradient != 0).float().mean() > 0.9


def test_one_condition_serves_all_variants(model, h):
    ids = structures(3, GRID)
    torch.testing.assert_close(logits(model, ids, h), logits(model, ids, h.expand(3, -1, -1, -1)))


def test_forward_is_condition_and_logits(model):
    masked, mask = torch.rand(2, 1, 16, 20), torch.ones(2, 1, 16, 20)
    vectors = F.embedding(structures(2, GRID), codebook(model)).movedim(-1, 1)
    assert torch.equal(model(masked, mask, vectors), model.logits(vectors, model.condition(masked, mask)))


@pytest.mark.parametrize("factor", [4, 8])
def test_the_condition_has_the_token_s_grid(factor):
    model = tiny_structure(factor=factor, channels=3)
    size = (3 * factor, 5 * factor)
    assert model.condition(torch.rand(2, 3, *size), torch.zeros(2, 1, *size)).shape == (2, 2 * factor, 3, 5)


# ------------------------------------------------------------------------------------------- layers


def test_convolutions_look_up_and_left():
    for layer, taps in ((down(1, 1), {(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1)}),
                        (down_right(1, 1), {(-1, -1), (-1, 0), (0, -1), (0, 0)})):  # fmt: skip
        x = torch.zeros(1, 1, 6, 7, requires_grad=True)
        y = layer(x)
        assert y.shape == x.shape
        (gradient,) = torch.autograd.grad(y[0, 0, 3, 4], x)
        assert {(row - 3, column - 4) for row, column in gradient[0, 0].nonzero().tolist()} == taps


def test_shifts_insert_zeros():
    x = torch.arange(1.0, 7.0).view(1, 1, 2, 3)
    assert shifted_down(x).view(2, 3).tolist() == [[0, 0, 0], [1, 2, 3]]
    assert shifted_right(x).view(2, 3).tolist() == [[0, 1, 2], [0, 4, 5]]


def test_weights_begin_with_norm_one():
    layer = down(3, 5)
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), torch.ones(5))
    assert not layer.bias.any()


def test_attention_is_over_what_comes_before():
    torch.manual_seed(0)
    layer, x = CausalAttention(6, 3), torch.randn(2, 6, 3, 4)
    query, key, value = (part(x).flatten(2) for part in (layer.query, layer.key, layer.value))
    assert (query.shape[1], value.shape[1]) == (6, 9)  # per head 6 / 3, and 6 / 2
    heads = torch.zeros(2, 9, 12)
    for t in range(1, 12):
        for head in range(3):
            q, k, v = (
                query[:, 2 * head : 2 * head + 2, t],
                key[:, 2 * head : 2 * head + 2],
                value[:, 3 * head : 3 * head + 3],
            )
            weights = (torch.einsum("be,bet->bt", q, k[:, :, :t]) / 2**0.5).softmax(-1)
            heads[:, 3 * head : 3 * head + 3, t] = torch.einsum("bt,bet->be", weights, v[:, :, :t])
    torch.testing.assert_close(layer(x), layer.out(heads.view(2, 9, 3, 4)), atol=1e-5, rtol=1e-5)


def test_a_gated_block_is_its_formula():
    torch.manual_seed(0)
    block = GatedBlock(4, down(8, 6), down(12, 8), side_width=3, condition_width=5)
    x, side, condition = torch.randn(2, 4, 3, 5), torch.randn(2, 6, 3, 5), torch.randn(1, 10, 3, 5)
    c = block.conv1(F.elu(torch.cat([x, -x], 1))) + block.side(side)
    c = block.conv2(F.elu(torch.cat([c, -c], 1))) + block.condition(condition)
    expected = c[:, :4] * c[:, 4:].sigmoid()
    torch.testing.assert_close(block(x, side, condition), x + expected)
    keep = torch.rand(2, 4, 3, 5)
    torch.testing.assert_close(block(x, side, condition, keep), x + keep * expected)
    assert block.side.in_channels == 6
    assert concat_elu(x).shape == (2, 8, 3, 5)
    assert pointwise(2, 3).kernel_size == (1, 1)


def test_dropout_keeps_what_its_mask_says_and_the_mean(model, h):
    ids = structures(1, GRID)
    vectors = F.embedding(ids, codebook(model)).movedim(-1, 1)
    shape = (1, *model.dropout_shape, *GRID)
    assert shape[1:3] == (8, 8)
    heard = []
    original = GatedBlock.forward

    def listen(self, x, side=None, condition=None, keep=None):
        if keep is not None:
            heard.append(keep)
        return original(self, x, side, condition, keep)

    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.1
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(GatedBlock, "forward", listen)
        dropped = model.logits(vectors, h, mask)
    assert len(heard) == 8
    for number, keep in enumerate(heard):
        torch.testing.assert_close(keep, mask[:, number] / 0.9)
    assert not torch.equal(dropped.flatten(2).mT, logits(model, ids, h))


def test_a_saved_model_comes_back(model, h, tmp_path):
    model.save_pretrained(tmp_path)
    again, ids = StructureModel.from_pretrained(tmp_path), structures(2, GRID)
    assert torch.equal(logits(again, ids, h), logits(model, ids, h))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_low_precision_is_close(model, h):
    exact = logits(model, structures(2, GRID), h)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = logits(model, structures(2, GRID), h)
    assert (rounded.float() - exact).abs().mean() < 0.05 * exact.std()
