import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_dispatch import attention_backend
from tiny_models import TINY, random_transformer, randomise, tiny_transformer
from torch import nn

from gen.rpe2d.blocks import LeanRMSNorm, RPE2DBlock, SwiGLU
from gen.rpe2d.positions import inference_positions, sample_positions
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench.errors import UserError

ROWS, COLUMNS = torch.tensor([0, 3, 4, 8]), torch.tensor([1, 2, 5, 7, 8, 12])


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def velocity(model, x, time=300.0, labels=None, **inputs):
    with torch.no_grad():
        return model(x, torch.as_tensor([time]), labels, **inputs).sample


def same(first, second, tolerance=1e-5):
    return torch.allclose(first, second, atol=tolerance, rtol=0)


# ------------------------------------------------------------------------------------------- shapes and patches


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(16, 24), (8, 12), (2, 2), (18, 28)])
def test_the_output_has_the_shape_of_the_input(channels, size):
    model = random_transformer(in_channels=channels)
    x = noise(2, channels, *size)
    assert velocity(model, x).shape == x.shape
    assert torch.equal(model(x, torch.tensor([1.0]), return_dict=False)[0], model(x, torch.tensor([1.0])).sample)


@pytest.mark.parametrize(("channels", "head_dim"), [(1, 4), (3, 12)])
def test_each_pixel_comes_back_to_its_place(channels, head_dim):
    """Without blocks, patches v embedded as (v, -v) leave the last LayerNorm as v / rms(v)."""
    model = tiny_transformer(in_channels=channels, num_layers=0, attention_head_dim=head_dim)
    pixels = 4 * channels
    eye = torch.eye(pixels)
    with torch.no_grad():
        model.patch_embed.weight.copy_(torch.cat([eye, -eye]))
        model.proj_out.weight.copy_(torch.cat([eye, 0 * eye], dim=1))
    x = noise(2, channels, 8, 12)
    rms = F.avg_pool2d(x.square().mean(1, keepdim=True), 2).sqrt()
    assert same(velocity(model, x), x / F.interpolate(rms, scale_factor=2, mode="nearest"), 1e-4)


@pytest.mark.parametrize("size", [(7, 12), (8, 13), (0, 12)])
def test_a_size_of_broken_patches_is_refused(size):
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]} pixels .* whole 2-pixel patches"):
        velocity(tiny_transformer(), torch.zeros(1, 1, *size))


@pytest.mark.parametrize(("size", "patches", "maximum"), [((20, 12), 10, 9), ((8, 30), 15, 14)])
def test_a_size_beyond_the_trained_positions_is_refused(size, patches, maximum):
    with pytest.raises(UserError, match=f"{patches} patches .* trained on {maximum} positions"):
        velocity(tiny_transformer(), noise(1, 1, *size))


def test_a_head_that_cannot_be_split_is_refused():
    with pytest.raises(UserError, match=r"attention-head-dim is 6.* multiple of 4"):
        tiny_transformer(attention_head_dim=6)


# ------------------------------------------------------------------------------------------- positions


def test_nothing_but_the_positions_tells_where_a_patch_is():
    model, x = random_transformer(), noise(2, 1, 8, 12)
    row_order, column_order = torch.tensor([2, 0, 3, 1]), torch.tensor([5, 1, 0, 3, 4, 2])

    def shuffled(images):
        patches = images.unflatten(3, (6, 2)).unflatten(2, (4, 2))
        return patches[:, :, row_order][:, :, :, :, column_order].flatten(4).flatten(2, 3)

    plain = velocity(model, x, position_ids=(ROWS, COLUMNS))
    moved = velocity(model, shuffled(x), position_ids=(ROWS[row_order], COLUMNS[column_order]))
    assert same(moved, shuffled(plain))
    assert not same(velocity(model, shuffled(x), position_ids=(ROWS, COLUMNS)), shuffled(plain), 0.01)


def test_only_differences_of_positions_matter():
    model, x = random_transformer(), noise(2, 1, 8, 12)
    plain = velocity(model, x, position_ids=(ROWS, COLUMNS))
    assert same(plain, velocity(model, x, position_ids=(ROWS + 100, COLUMNS + 50)), 1e-4)
    assert not same(plain, velocity(model, x, position_ids=(2 * ROWS, COLUMNS)), 0.01)
    assert not same(plain, velocity(model, x, position_ids=(ROWS, 2 * COLUMNS)), 0.01)


def test_far_positions_are_precise_in_low_precision():
    model, x = random_transformer().bfloat16(), noise(2, 1, 8, 12).bfloat16()
    near, far, other = (
        velocity(model, x, position_ids=(rows, COLUMNS)).float() for rows in (ROWS, ROWS + 1000, ROWS * 2)
    )
    assert (near - far).abs().mean() < 0.05 * (near - other).abs().mean()


def test_each_image_has_its_own_positions():
    model, x = random_transformer(), noise(3, 1, 8, 12)
    generator = torch.Generator().manual_seed(0)
    rows, columns = sample_positions(3, 4, 9, generator), sample_positions(3, 6, 14, generator)
    together = velocity(model, x, position_ids=(rows, columns))
    for b in range(3):
        alone = velocity(model, x[b : b + 1], position_ids=(rows[b : b + 1], columns[b : b + 1]))
        assert same(together[b : b + 1], alone)
        assert same(together[b : b + 1], velocity(model, x[b : b + 1], position_ids=(rows[b], columns[b])))


@pytest.mark.parametrize("mode", ["equispaced", "isotropic", "centered", "random"])
def test_the_grid_is_placed_alike_in_training_and_evaluation(mode):
    model, x = random_transformer(inference_positions=mode), noise(1, 1, 6, 16)
    expected = velocity(model, x, position_ids=inference_positions((3, 8), (9, 14), mode))
    for module in (model.train(), model.eval(), model.train()):
        assert torch.equal(velocity(module, x), expected)


def test_weights_belong_to_no_grid():
    weights = random_transformer().state_dict()
    larger = tiny_transformer(sample_size=(16, 16), max_positions=(40, 30))
    larger.load_state_dict(weights)
    assert velocity(larger, noise(1, 1, 60, 40)).shape == (1, 1, 60, 40)


# ------------------------------------------------------------------------------------------- conditions


def test_images_of_a_batch_are_independent():
    model, x = random_transformer(), noise(3, 1, 8, 12)
    labels, boxes = torch.tensor([0, 2, 3]), torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([10.0, 500.0, 990.0])
    with torch.no_grad():
        together = model(x, times, labels, boxes).sample
        for b in range(3):
            one = slice(b, b + 1)
            assert same(together[one], model(x[one], times[one], labels[one], boxes[one]).sample)


def test_every_condition_matters_and_none_means_none():
    model, x = random_transformer(), noise(1, 1, 8, 12)
    plain = velocity(model, x)
    assert torch.equal(plain, velocity(model, x, labels=torch.tensor([3])))
    assert torch.equal(plain, velocity(model, x, crop_box=torch.tensor([[0.0, 0.0, 1.0, 1.0]])))
    assert torch.equal(plain, velocity(model, x, attention_scale=1.0))
    changes = [{"time": 310.0}, {"attention_scale": 1.5}]
    changes += [{"labels": torch.tensor([k])} for k in range(3)]
    changes += [{"crop_box": torch.tensor([box])} for box in
                [[0.1, 0.0, 1.0, 1.0], [0.0, 0.1, 1.0, 1.0], [0.0, 0.0, 0.9, 1.0], [0.0, 0.0, 1.0, 0.9]]]  # fmt: skip
    outputs = [plain] + [velocity(model, x, **change) for change in changes]
    for i, first in enumerate(outputs):
        assert not any(same(first, second, 0.003) for second in outputs[:i])


def test_the_attention_scale_multiplies_the_logits():
    """At zero all patches are attended to alike, wherever they are."""
    model, x = random_transformer(), noise(1, 1, 8, 12)
    first, second = (velocity(model, x, attention_scale=0.0, position_ids=(rows, COLUMNS)) for rows in (ROWS, 2 * ROWS))
    assert same(first, second)


def test_without_labels_and_crops():
    model, x = random_transformer(num_classes=0, crop_conditioning=False, id2label=None), noise(2, 1, 8, 12)
    plain = velocity(model, x)
    assert torch.equal(plain, velocity(model, x, labels=torch.zeros(2, dtype=torch.int64)))
    assert torch.equal(plain, velocity(model, x, crop_box=torch.rand(2, 4)))
    assert not same(plain, velocity(model, x, time=900.0), 0.01)


# ------------------------------------------------------------------------------------------- the network


def test_a_block_without_positions_is_diffusers_dit_block():
    dim, heads = 24, 3
    ours = RPE2DBlock(dim, heads, 4.0, qk_norm=False, ffn_type="gelu")
    theirs = BasicTransformerBlock(
        dim, heads, dim // heads, activation_fn="gelu", num_embeds_ada_norm=1, attention_bias=True,
        norm_type="ada_norm_zero", norm_elementwise_affine=False, norm_eps=1e-6,
    ).eval()  # fmt: skip
    nn.init.normal_(ours.modulation.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    q, k, v = ours.attention.to_qkv.weight.chunk(3)
    attention, (linear_1, _, linear_2) = theirs.attn1, ours.mlp
    for target, source in (
        (theirs.norm1.linear.weight, ours.modulation.weight), (attention.to_q.weight, q), (attention.to_k.weight, k),
        (attention.to_v.weight, v), (attention.to_out[0].weight, ours.attention.to_out.weight),
        (theirs.ff.net[0].proj.weight, linear_1.weight), (theirs.ff.net[2].weight, linear_2.weight),
    ):  # fmt: skip
        target.data = source.data
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    x, condition = noise(2, 15, dim), noise(2, dim, seed=1)

    class Condition(nn.Module):
        def forward(self, *_, **__):
            return condition

    theirs.norm1.emb = Condition()
    result = ours(x, F.silu(condition), rotary=None)
    torch.testing.assert_close(result, theirs(x, class_labels=torch.zeros(2)), atol=1e-5, rtol=1e-5)
    assert not same(result, x, 0.1)


def test_training_starts_from_zero_velocity_and_from_blocks_that_do_nothing():
    model, x = tiny_transformer(), noise(2, 1, 8, 12)
    assert torch.equal(velocity(model, x), torch.zeros_like(x))
    nn.init.normal_(model.proj_out.weight)
    plain = velocity(model, x)
    assert plain.abs().max() > 0.1
    for change in ({"position_ids": (ROWS, COLUMNS)}, {"crop_box": torch.rand(2, 4)}, {"time": 900.0}):
        assert torch.equal(plain, velocity(model, x, **change))


@pytest.mark.parametrize("qk_norm", [True, False])
def test_every_weight_is_trained(qk_norm):
    model = random_transformer(qk_norm=qk_norm).train()
    model(noise(2, 1, 8, 12), torch.tensor([100.0]), torch.tensor([0, 3])).sample.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_gradient_checkpointing_computes_again_and_changes_no_gradient():
    x, labels = noise(2, 1, 8, 12), torch.tensor([0, 1])

    def gradients(model):
        calls = []
        model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
        model.train()(x, torch.tensor([200.0]), labels).sample.square().sum().backward()
        return [weight.grad for weight in model.parameters()], len(calls)

    checkpointed = random_transformer()
    checkpointed.enable_gradient_checkpointing()
    (ours, twice), (expected, once) = gradients(checkpointed), gradients(random_transformer())
    assert (twice, once) == (2, 1)
    for first, second in zip(ours, expected, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("crops", [True, False])
@pytest.mark.parametrize("classes", [0, 3])
def test_the_number_of_weights(crops, classes):
    layers, heads, d, patch = 3, 2, 16, 2 * 2 * 3
    model = tiny_transformer(
        in_channels=3, num_layers=layers, mlp_ratio=3.0, crop_conditioning=crops, num_classes=classes
    )
    time, crop, label = (257 + d + 1) * d, (4 * 256 + 1 + d + 1) * d, (classes + 1) * d
    modulation, attention, norms, mlp = 6 * d * (d + 1), 4 * d * (d + 1), 2 * d // heads, 6 * d * d + 4 * d
    expected = (patch + 1) * d + time + layers * (modulation + attention + norms + mlp) + 2 * d * (d + 1)
    expected += (d + 1) * patch + crops * crop + bool(classes) * label
    assert sum(weight.numel() for weight in model.parameters()) == expected


ENCODINGS = ("rope", "sincos", "lff", "table")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_tells_rows_from_columns_and_images_apart(encoding):
    model, x = random_transformer(pos_embed_type=encoding), noise(2, 1, 8, 12)
    plain = velocity(model, x, position_ids=(ROWS, COLUMNS))
    assert not same(plain, velocity(model, x, position_ids=(ROWS + torch.tensor([0, 0, 0, -1]), COLUMNS)), 5e-5)
    assert not same(plain, velocity(model, x, position_ids=(ROWS, COLUMNS - 1 * (torch.arange(6) == 5))), 5e-5)
    both = (torch.stack([ROWS, ROWS - (ROWS == 8).long()]), torch.stack([COLUMNS, COLUMNS]))
    apart = velocity(model, x, position_ids=both)
    assert same(apart[0], plain[0])
    assert not same(apart[1], plain[1], 5e-5)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_trained_and_saved(encoding, tmp_path):
    model = random_transformer(pos_embed_type=encoding, ffn_type="swiglu").train()
    x, where = noise(2, 1, 8, 12), (ROWS, COLUMNS)
    model(x, torch.tensor([1.0]), torch.tensor([0, 3]), position_ids=where).sample.square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    model.save_pretrained(tmp_path)
    again = RPE2DTransformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(velocity(again, x, position_ids=where), velocity(model, x, position_ids=where))


def test_the_gated_layer_is_silu_of_one_half_times_the_other():
    layer, x = SwiGLU(6, 24), noise(2, 5, 6)
    gate, value = layer.gate_and_value.weight.chunk(2)
    nn.init.normal_(layer.gate_and_value.bias)
    gate_bias, value_bias = layer.gate_and_value.bias.chunk(2)
    expected = F.linear(
        F.silu(x @ gate.T + gate_bias) * (x @ value.T + value_bias), layer.to_out.weight, layer.to_out.bias
    )
    assert same(layer(x), expected)
    assert layer.to_out.in_features == 16


def test_tokens_are_a_set_and_none_is_none():
    model, x = random_transformer(token_names=("grass", "red", "sea")), noise(1, 1, 8, 12)
    plain, given = velocity(model, x), torch.tensor([[0, 2]])
    assert torch.equal(plain, velocity(model, x, token_ids=torch.tensor([[-1, -1]])))
    two = velocity(model, x, token_ids=given)
    assert same(two, velocity(model, x, token_ids=torch.tensor([[2, -1, 0]])))
    for other in (plain, velocity(model, x, token_ids=given[:, :1]), velocity(model, x, token_ids=given[:, 1:])):
        assert not same(two, other, 0.003)


def test_a_chosen_attention_back_end_computes_the_same():
    model, x = random_transformer(), noise(2, 1, 8, 12)
    plain = velocity(model, x, attention_scale=1.2)
    for backend in ("native", "_native_math"):
        with attention_backend(backend):
            model.set_attention_backend(backend)
            assert {block.attention.processor._attention_backend.value for block in model.blocks} == {backend}
            assert same(plain, velocity(model, x, attention_scale=1.2))


COMPILED = """
import torch
from tiny_models import random_transformer

for encoding in ("rope", "sincos"):
    model, x = random_transformer(pos_embed_type=encoding), torch.ones(2, 1, 8, 12)
    plain = model(x, torch.tensor([3.0])).sample
    model.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(model(x, torch.tensor([3.0])).sample, plain, atol=1e-4, rtol=0)
    model.train()(x, torch.tensor([3.0])).sample.sum().backward()
    assert model.blocks[0].attention.to_qkv.weight.grad.isfinite().all()
"""


def test_repeated_blocks_compile_without_a_break():
    """In a process of its own: the compiler cannot see through the checks of shapes that tests add."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    done = subprocess.run([sys.executable, "-c", COMPILED], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


# ------------------------------------------------------------------------------------------- saving


def test_a_saved_model_comes_back(tmp_path):
    model, x = random_transformer(), noise(2, 1, 8, 12)
    model.save_pretrained(tmp_path)
    again = RPE2DTransformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(velocity(again, x), velocity(model, x))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    config = dict(again.config)
    assert {key: config[key] for key in TINY if key != "id2label"} == {
        key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items() if key != "id2label"
    }
    assert {int(key): name for key, name in config["id2label"].items()} == TINY["id2label"]


def test_a_saved_model_comes_back_in_low_precision(tmp_path):
    model, x = random_transformer(), noise(2, 1, 8, 12).bfloat16()
    model.save_pretrained(tmp_path / "full")
    half = model.bfloat16()
    half.save_pretrained(tmp_path / "half")
    expected = velocity(half, x)
    assert expected.dtype == torch.bfloat16
    for name in ("full", "half"):
        again = RPE2DTransformer2DModel.from_pretrained(tmp_path / name, torch_dtype=torch.bfloat16)
        assert torch.equal(velocity(again, x), expected)


def test_low_precision_is_close():
    model, x = random_transformer(), noise(2, 1, 8, 12)
    exact = velocity(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = velocity(model, x)
    for rounded in (mixed, velocity(randomise(tiny_transformer()).bfloat16(), x.bfloat16())):
        assert (rounded.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lean_norm_has_the_values_and_gradients_of_torchs(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 8, generator=generator).to(dtype)
    weight = torch.randn(8, generator=generator).to(dtype)
    upstream = torch.randn(2, 3, 5, 8, generator=generator)
    results = []
    for norm in (LeanRMSNorm.apply, lambda x, w, eps: F.rms_norm(x.float(), (8,), w.float(), eps)):
        inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = norm(*inputs, 1e-6)
        assert y.dtype == torch.float32
        results.append((y, *torch.autograd.grad(y, inputs, upstream)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
