import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import attention_backend
from tiny_models import randomise
from tiny_pixel_models import ENCODER, random_generator, tiny_encoder, tiny_generator

from gen.pixel.encoder import EPGEncoderModel, grid, resize_positions
from gen.pixel.presets import PIXEL_PRESETS
from gen.pixel.released import convert, load_released
from gen.pixel.transformer import EPGTransformer2DModel
from workbench.errors import UserError

LABELS = torch.tensor([2, 0])
TIMES = torch.tensor([-900.0, 400.0])


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def raw(model, x, times=TIMES, labels=LABELS):
    with torch.no_grad():
        return model(x, times, labels).sample


# ------------------------------------------------------------------------------------------- against the description


def reference(w, x, times, labels, heads, decoder_heads, patch):
    """The network from its description, image by image, with weights under the released names."""

    def linear(h, name):
        return h @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(h, name):
        centred = h - h.mean(-1, keepdim=True)
        return centred / (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(h, name, count):
        q, k, v = linear(h, f"{name}.qkv").split(h.shape[-1], dim=-1)
        parts = zip(*(one.chunk(count, dim=-1) for one in (q, k, v)), strict=True)
        read = [((a @ b.T) / math.sqrt(a.shape[-1])).softmax(-1) @ c for a, b, c in parts]
        return linear(torch.cat(read, dim=-1), f"{name}.proj")

    def mlp(h, name):
        return linear(F.gelu(linear(h, f"{name}.fc1")), f"{name}.fc2")

    def sinusoid(t, dim):
        angles = t * torch.tensor([10000 ** (-i / (dim // 2)) for i in range(dim // 2)])
        return torch.cat([angles.cos(), angles.sin()])

    depth = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))
    images = []
    for image, t, label in zip(x, times, labels, strict=True):
        channels, _, width = image.shape
        patches = image.unfold(1, patch, patch).unfold(2, patch, patch).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
        p = patches @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
        time, y = sinusoid(t, p.shape[-1]), w["class_embed.weight"][label]
        h = torch.cat([(w["cls_token"][0, 0] + y)[None], time[None], p]) + w["pos_embed"][0]
        skips = []
        for i in range(depth):
            h = h + attention(norm(h, f"blocks.{i}.norm1"), f"blocks.{i}.attn", heads)
            h = h + mlp(norm(h, f"blocks.{i}.norm2"), f"blocks.{i}.mlp")
            skips.append(h)
        h = norm(h, "norm")
        if "encoder_to_decoder.weight" in w:
            h = linear(h, "encoder_to_decoder")
        for i in range(depth):
            block = f"decoder_blocks.{i}"
            h = norm(linear(torch.cat([h, skips.pop()], dim=-1), f"{block}.skip_linear"), f"{block}.skip_norm")
            a, b, c, d, e, f = linear(F.silu(time + y), f"{block}.adaLN_modulation.1").chunk(6)
            h = h + c * attention(norm(h, f"{block}.norm1") * (1 + b) + a, f"{block}.attn", decoder_heads)
            h = h + f * mlp(norm(h, f"{block}.norm2") * (1 + e) + d, f"{block}.mlp")
        pixels = linear(norm(h[2:], "out_norm"), "out").view(-1, patch, patch, channels)
        rows = pixels.split(width // patch)
        images.append(torch.cat([torch.cat(list(row), dim=1) for row in rows]).permute(2, 0, 1))
    return torch.stack(images)


def released_weights(dim=16, decoder_dim=24, depth=2, patch=4, channels=1, patches=6, classes=3, seed=0):
    """Random weights under the names of the released checkpoints."""

    def block(name, width):
        yield from ((f"{name}.{part}.{kind}", (width,)) for part in ("norm1", "norm2") for kind in ("weight", "bias"))
        yield f"{name}.attn.qkv.weight", (3 * width, width)
        for part, (o, i) in {"attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}.items():
            yield f"{name}.{part}.weight", (o * width, i * width)
            yield f"{name}.{part}.bias", (o * width,)

    shapes = {
        "patch_embed.proj.weight": (dim, channels, patch, patch), "patch_embed.proj.bias": (dim,),
        "cls_token": (1, 1, dim), "pos_embed": (1, 2 + patches, dim), "class_embed.weight": (classes + 1, dim),
        "norm.weight": (dim,), "norm.bias": (dim,), "out_norm.weight": (decoder_dim,), "out_norm.bias": (decoder_dim,),
        "out.weight": (patch**2 * channels, decoder_dim), "out.bias": (patch**2 * channels,),
    }  # fmt: skip
    if decoder_dim != dim:
        shapes |= {"encoder_to_decoder.weight": (decoder_dim, dim), "encoder_to_decoder.bias": (decoder_dim,)}
    for i in range(depth):
        shapes |= dict(block(f"blocks.{i}", dim)) | dict(block(f"decoder_blocks.{i}", decoder_dim))
        name = f"decoder_blocks.{i}"
        shapes |= {
            f"{name}.skip_linear.weight": (decoder_dim, decoder_dim + dim), f"{name}.skip_linear.bias": (decoder_dim,),
            f"{name}.skip_norm.weight": (decoder_dim,), f"{name}.skip_norm.bias": (decoder_dim,),
            f"{name}.adaLN_modulation.1.weight": (6 * decoder_dim, dim),
            f"{name}.adaLN_modulation.1.bias": (6 * decoder_dim,),
        }  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(shape, generator=generator) / shape[-1] ** 0.5 for k, shape in shapes.items()}


@pytest.mark.parametrize(
    ("channels", "decoder_heads", "decoder_dim"), [(1, 3, 24), (3, 2, 16)], ids=["a wider decoder", "as wide"]
)
def test_the_network_is_the_one_described(channels, decoder_heads, decoder_dim):
    weights = released_weights(decoder_dim=decoder_dim, channels=channels)
    model = tiny_generator(in_channels=channels, decoder_num_attention_heads=decoder_heads)
    model.load_state_dict(convert(weights))
    x = noise(2, channels, 8, 12)
    torch.testing.assert_close(
        raw(model, x), reference(weights, x, TIMES, LABELS, 2, decoder_heads, 4), atol=1e-5, rtol=1e-4
    )


def test_released_checkpoints_are_read(tmp_path, monkeypatch):
    weights = released_weights(channels=3, patches=4)
    torch.save(weights, tmp_path / "released.pth")
    monkeypatch.setitem(PIXEL_PRESETS, "B", PIXEL_PRESETS["B"]._replace(
        num_layers=2, num_attention_heads=2, attention_head_dim=8, decoder_num_attention_heads=3,
        decoder_attention_head_dim=8,
    ))  # fmt: skip
    model = load_released(tmp_path / "released.pth", "B", sample_size=8, patch_size=4, num_class_embeds=3)
    x = noise(2, 3, 8, 8)
    torch.testing.assert_close(raw(model, x), reference(weights, x, TIMES, LABELS, 2, 3, 4), atol=1e-5, rtol=1e-4)
    white = model.scaling.normalise(torch.ones(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(torch.tensor(model.scaling.high), white)
    assert [round(v, 2) for v in white.tolist()] == [1.12, 1.21, 1.32]
    assert model.noise_range.shift == 8 / 64
    with pytest.raises(UserError, match=r"released.pth does not hold the weights of tiny"):
        load_released(tmp_path / "released.pth", "tiny", sample_size=8)


@pytest.mark.parametrize(("preset", "millions"), {"B": 115.5, "L": 540, "XL": 583, "XXL": 789, "G": 1391}.items())
def test_the_published_sizes(preset, millions):
    """Of ImageNet at 256 pixels, with patches of 16."""
    shape = {k: v for k, v in PIXEL_PRESETS[preset]._asdict().items() if not k.startswith("projector")}
    with torch.device("meta"):
        model = EPGTransformer2DModel(sample_size=256, patch_size=16, num_class_embeds=1000, **shape)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize(("preset", "millions"), {"B": 64, "XL": 107, "L": 225}.items())
def test_the_published_sizes_of_encoders(preset, millions):
    shape = {k: v for k, v in PIXEL_PRESETS[preset]._asdict().items() if not k.startswith("decoder")}
    with torch.device("meta"):
        model = EPGEncoderModel(sample_size=256, patch_size=16, **shape)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.5)


# ------------------------------------------------------------------------------------------- images and conditions


@pytest.mark.parametrize(("size", "channels", "patch"), [((8, 12), 1, 4), ((12, 8), 3, 2), (8, 2, 4)])
def test_the_output_has_the_shape_of_the_input(size, channels, patch):
    model = random_generator(sample_size=size, in_channels=channels, patch_size=patch)
    x = noise(2, channels, *model.size)
    assert raw(model, x).shape == x.shape
    assert torch.equal(model(x, TIMES, LABELS, return_dict=False)[0], model(x, TIMES, LABELS).sample)


@pytest.mark.parametrize("size", [(7, 12), (8, 13), 30])
def test_a_size_of_broken_patches_is_refused(size):
    with pytest.raises(UserError, match="is not made of whole 4-pixel patches"):
        tiny_generator(sample_size=size)


def test_images_of_a_batch_are_independent():
    model, x = random_generator(), noise(2, 1, 8, 12)
    for b in range(2):
        alone = raw(model, x[b : b + 1], TIMES[b : b + 1], LABELS[b : b + 1])
        torch.testing.assert_close(alone, raw(model, x)[b : b + 1], atol=1e-5, rtol=1e-4)


def test_every_condition_matters_and_none_means_none():
    model, x = random_generator(), noise(2, 1, 8, 12)
    plain = raw(model, x)
    assert not torch.allclose(plain, raw(model, x, TIMES + 1), atol=1e-3)
    assert not torch.allclose(plain, raw(model, x, labels=torch.tensor([1, 1])), atol=1e-3)
    assert torch.equal(raw(model, x, labels=None), raw(model, x, labels=torch.tensor([3, 3])))


@pytest.mark.parametrize("time", [torch.tensor(70.0, dtype=torch.float64), torch.tensor([70.0])])
def test_one_noise_level_for_all(time):
    """diffusers' consistency pipeline gives a number of double precision."""
    model, x = random_generator(), noise(2, 1, 8, 12)
    torch.testing.assert_close(raw(model, x, time), raw(model, x, torch.tensor([70.0, 70.0])))


def test_neighbouring_noise_levels_look_different():
    """With 0.25 ln(sigma) for 250 ln(sigma), two levels in three would be the same to the network."""
    model = tiny_generator()
    with torch.no_grad():
        levels = model.noise_range.c_noise(model.noise_range.karras(32))
        times = model.encoder.embed(torch.zeros(32, 1, 8, 12), levels, None)[0][:, 1]
    distances = torch.cdist(times, times) + 9 * torch.eye(32)
    assert distances.min() > 0.5


def test_without_labels():
    model, x = random_generator(num_class_embeds=None, id2label=None), noise(2, 1, 8, 12)
    assert torch.equal(raw(model, x, labels=None), raw(model, x, labels=LABELS))
    assert not [name for name, _ in model.named_parameters() if "class_embed" in name]


# ------------------------------------------------------------------------------------------- training


def gradients(model, x):
    model.zero_grad()
    output = model(x, TIMES, LABELS, return_dict=False)[0]
    (output * noise(*output.shape, seed=9)).sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_every_weight_is_trained():
    for model in (random_generator(), randomise(tiny_encoder(num_class_embeds=3))):
        x = noise(2, 1, 8, 12)
        found = gradients(model, x)
        if isinstance(model, EPGEncoderModel):
            model.project(model(x, TIMES, LABELS).representation).square().sum().backward()
            found = {name: p.grad for name, p in model.named_parameters()}
        for name, gradient in found.items():
            assert gradient is not None, name
            assert gradient.any(), name


def test_gradient_checkpointing_changes_no_gradient():
    model, x = random_generator().train(), noise(2, 1, 8, 12)
    plain = gradients(model, x)
    calls = []
    model.encoder.blocks[0].register_forward_pre_hook(lambda *_: calls.append("encoder"))
    model.decoder_blocks[0].register_forward_pre_hook(lambda *_: calls.append("decoder"))
    model.enable_gradient_checkpointing()
    for name, gradient in gradients(model, x).items():
        torch.testing.assert_close(gradient, plain[name], msg=name)
    assert sorted(calls) == ["decoder", "decoder", "encoder", "encoder"]


def test_dropout_is_the_decoders_alone():
    model, x = random_generator(decoder_dropout=0.5), noise(2, 1, 8, 12)
    plain = raw(model, x)
    torch.testing.assert_close(plain, raw(random_generator(), x))
    model.train()
    assert not torch.allclose(raw(model, x), plain, atol=1e-3)
    model.decoder_blocks.eval()
    torch.testing.assert_close(raw(model, x), plain)


def test_initial_weights():
    """Xavier for all matrices, queries, keys and values as three; nothing for what ends the network or opens a gate."""
    model = tiny_generator(num_attention_heads=8, attention_head_dim=8, decoder_num_attention_heads=8)
    blocks = (model.encoder.blocks[0], model.decoder_blocks[1])
    for weight, fan_in, fan_out in [
        *((block.attention.to_qkv.weight, 64, 64) for block in blocks),
        *((block.mlp[0].weight, 64, 256) for block in blocks),
        (model.decoder_blocks[0].merge.weight, 128, 64),
        (model.encoder.patch_embed.weight, 16, 64),
    ]:
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert bound * 0.98 < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    for end in (model.modulation, model.proj_out):
        assert not end.weight.any()
        assert not end.bias.any()
    assert model.encoder.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.encoder.class_embed.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert 0 < model.encoder.cls_token.abs().max() < 1e-5


# ------------------------------------------------------------------------------------------- the encoder


def test_the_representation_is_the_class_token_and_the_projector_is_apart():
    encoder, x = randomise(tiny_encoder()), noise(2, 1, 8, 12)
    with torch.no_grad():
        output = encoder(x, TIMES)
        assert torch.equal(encoder(x, TIMES, return_dict=False)[0], output.representation)
        tokens, _ = encoder.encoder.embed(x, TIMES, None)
        *_, last = encoder.encoder.states(tokens)
        torch.testing.assert_close(output.representation, encoder.encoder.norm(last)[:, 0])
        assert output.representation.shape == (2, 16)
        assert encoder.project(output.representation).shape == (2, 6)
    assert [tuple(p.shape) for p in encoder.projector.parameters() if p.ndim == 2] == [(12, 16), (12, 12), (6, 12)]


@pytest.mark.parametrize("classes", [None, 3])
def test_a_generator_takes_all_of_the_encoder(classes):
    encoder = randomise(tiny_encoder(sigma_shift=0.5, sigma_max=20.0, num_class_embeds=classes))
    model = EPGTransformer2DModel.from_encoder(encoder, num_class_embeds=3, decoder_num_attention_heads=3)
    for name, weight in encoder.encoder.state_dict().items():
        assert torch.equal(weight, model.encoder.state_dict()[name]), name
    assert model.noise_range == encoder.noise_range
    assert model.scaling == encoder.scaling
    assert model.size == encoder.size
    assert model.config.num_class_embeds == 3
    raw(model, noise(2, 1, 8, 12))


def test_a_missing_weight_of_the_encoder_is_noticed():
    encoder = tiny_encoder()
    del encoder.encoder.blocks[1].norm_1
    with pytest.raises(AssertionError, match=r"blocks\.1\.norm_1"):
        EPGTransformer2DModel.from_encoder(encoder)


@pytest.mark.parametrize(("name", "value"), [("patch_size", 2), ("num_layers", 3), ("attention_head_dim", 16)])
def test_another_shape_than_the_encoders_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name} is {value} but the encoder was trained with {ENCODER[name]}"):
        EPGTransformer2DModel.from_encoder(tiny_encoder(), **{name: value})


def test_at_another_size_only_the_positions_of_patches_are_interpolated():
    encoder = randomise(tiny_encoder())
    model = EPGTransformer2DModel.from_encoder(encoder, sample_size=(16, 24))
    old, new = encoder.encoder.pos_embed, model.encoder.pos_embed
    assert torch.equal(new[:, :2], old[:, :2])
    assert new.shape == (1, 2 + 4 * 6, 16)
    assert raw(model, noise(2, 1, 16, 24)).shape == (2, 1, 16, 24)


def test_interpolated_positions_keep_rows_and_columns_apart():
    """A ramp along the columns stays one."""
    ramp = torch.arange(5.0).expand(3, 5)[..., None].expand(3, 5, 4)
    positions = torch.cat([torch.full((1, 2, 4), 9.0), ramp.reshape(1, 15, 4)], dim=1)
    resized = resize_positions(positions, (3, 5), (6, 10))[0, 2:].unflatten(0, (6, 10))
    assert torch.allclose(resized, resized[:1])
    assert (resized[0].diff(dim=0) > 0).all()
    assert resize_positions(positions, (3, 5), (3, 5)) is positions


def test_grids_are_rows_by_columns():
    assert grid((8, 12), 4) == (2, 3)
    assert grid(28, 7) == (4, 4)


# ------------------------------------------------------------------------------------------- doors of diffusers


def test_saved_models_come_back(tmp_path):
    x = noise(2, 1, 8, 12)
    generator, encoder = random_generator(), randomise(tiny_encoder())
    generator.save_pretrained(tmp_path / "generator")
    encoder.save_pretrained(tmp_path / "encoder")
    names = sorted(path.name for path in (tmp_path / "encoder").iterdir())
    assert names == ["config.json", "diffusion_pytorch_model.safetensors"]
    again = EPGTransformer2DModel.from_pretrained(tmp_path / "generator")
    assert torch.equal(raw(again, x), raw(generator, x))
    assert (again.scaling, again.size, again.noise_range) == (generator.scaling, (8, 12), generator.noise_range)
    assert again.config.id2label == {"0": "bag", "1": "coat", "2": "hat"}
    encoder_again = EPGEncoderModel.from_pretrained(tmp_path / "encoder")
    with torch.no_grad():
        ours, theirs = (one(x, TIMES).representation for one in (encoder, encoder_again))
        assert torch.equal(ours, theirs)
        assert torch.equal(encoder.project(ours), encoder_again.project(theirs))


def test_low_precision_is_close():
    model, x = random_generator(), noise(2, 1, 8, 12)
    exact = raw(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = raw(model, x)
    pure = raw(model.bfloat16(), x)
    assert pure.dtype == torch.bfloat16
    for close in (mixed, pure):
        assert (close.float() - exact).norm() < 0.05 * exact.norm()


def test_training_in_mixed_precision_has_close_gradients():
    model, x = random_generator().train(), noise(2, 1, 8, 12)
    exact = gradients(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = gradients(model, x)
    for name, gradient in mixed.items():
        assert (gradient - exact[name]).norm() < 0.1 * exact[name].norm() + 1e-3, name


def test_a_chosen_attention_back_end_computes_the_same():
    model, x = random_generator(), noise(2, 1, 8, 12)
    plain = raw(model, x)
    for backend in ("native", "_native_math"):
        with attention_backend(backend):
            model.set_attention_backend(backend)
            attentions = [block.attention for block in (*model.encoder.blocks, *model.decoder_blocks)]
            assert {attention.processor._attention_backend.value for attention in attentions} == {backend}
            torch.testing.assert_close(raw(model, x), plain, atol=1e-5, rtol=1e-4)


def test_low_precision_keeps_the_noise_level_exact():
    """c_noise reaches 1500, where bf16 counts in steps of 8."""
    model = random_generator().bfloat16()
    near, far = (model.encoder.embed(noise(1, 1, 8, 12), torch.tensor([t]), None)[0][:, 1] for t in (1095.0, 1096.0))
    assert not torch.equal(near, far)


COMPILED = """
import torch
from tiny_pixel_models import random_generator

model, x = random_generator(num_layers=1), torch.ones(2, 1, 8, 12)
plain = model(x, torch.tensor([3.0])).sample
model.compile_repeated_blocks(fullgraph=True, backend="eager")
torch.testing.assert_close(model(x, torch.tensor([3.0])).sample, plain, atol=1e-4, rtol=0)
model.train()(x, torch.tensor([3.0])).sample.sum().backward()
for blocks in (model.encoder.blocks, model.decoder_blocks):
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert blocks[0].attention.to_qkv.weight.grad.isfinite().all()
"""


def test_repeated_blocks_compile_without_a_break():
    """In a process of its own: the compiler cannot see through the checks of shapes that tests add."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    done = subprocess.run([sys.executable, "-c", COMPILED], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
