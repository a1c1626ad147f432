"""The hierarchical VQ-VAE: its layers as the paper's code has them, what each level sees, and what is saved."""

import pytest
import torch
from tiny_inpaint_models import tiny_structure, tiny_vqvae
from torch import nn

from gen.inpaint.presets import PRESETS
from gen.inpaint.vqvae import HierarchicalVQVAE, check_codebook, open_vqvae
from workbench.errors import UserError


def images(count=2, channels=1, height=12, width=20, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def parameters(model):
    return sum(weight.numel() for weight in model.parameters())


def test_the_largest_preset_has_as_many_weights_as_the_paper_s_code():
    assert parameters(HierarchicalVQVAE(**PRESETS["px256"].vqvae._asdict())) == pytest.approx(1.85e6, rel=0.005)
    assert parameters(HierarchicalVQVAE(**PRESETS["tiny32"].vqvae._asdict())) == pytest.approx(0.12e6, rel=0.03)


@pytest.mark.parametrize(("first_stride", "factor"), [(1, 4), (2, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_two_levels_of_tokens(first_stride, factor, channels):
    model = tiny_vqvae(channels=channels, first_stride=first_stride)
    x = images(2, channels, 3 * factor, 5 * factor)
    top, bottom, top_ids, bottom_ids = model.encode(x)
    assert model.grid(3 * factor, 5 * factor) == (3, 5)
    assert (top.shape, bottom.shape) == ((2, 4, 3, 5), (2, 4, 6, 10))
    assert (top_ids.shape, bottom_ids.shape) == ((2, 3, 5), (2, 6, 10))
    assert torch.equal(model.top.nearest(top), top_ids)
    assert torch.equal(model.bottom.nearest(bottom), bottom_ids)
    whole = model.decode(model.top.vectors(top_ids), model.bottom.vectors(bottom_ids))
    assert whole.shape == x.shape
    torch.testing.assert_close(model(x).images, whole)


def test_commitment_is_that_of_both_levels():
    model, x = tiny_vqvae(), images()
    found = model.encode(x)
    distances = [
        (features - level.vectors(ids)).square().mean()
        for features, ids, level in (
            (found.top, found.top_ids, model.top),
            (found.bottom, found.bottom_ids, model.bottom),
        )
    ]
    torch.testing.assert_close(model(x).commitment, sum(distances))


def seen_by(model, pick):
    """Rows and columns of pixels that the picked feature in the middle depends on."""
    x = images(1, 3, 160, 192).requires_grad_()
    features = pick(model, x)
    height, width = features.shape[-2:]
    (gradient,) = torch.autograd.grad(features[0, :, height // 2, width // 2].sum(), x)
    touched = gradient[0].abs().sum(0) > 0
    return int(touched.any(1).sum()), int(touched.any(0).sum())


def test_receptive_fields_are_those_of_the_paper_s_code():
    """At 8 pixels a token: 94 pixels for a structure token, 34 for the bottom encoder; both measured elsewhere."""
    model = tiny_vqvae(channels=3, first_stride=2)
    assert seen_by(model, lambda model, x: model.encode(x).top) == (94, 94)
    assert seen_by(model, lambda model, x: model.bottom_encoder(x)) == (34, 34)


def test_texture_features_pass_their_gradient_through_the_structure_codes():
    """What the frozen model says of a picture reaches its pixels by both levels, in evaluation mode too."""
    model = tiny_vqvae().requires_grad_(False)
    x = images().requires_grad_()
    through = []
    hook = model.top_decoder.register_full_backward_hook(lambda module, inputs, outputs: through.append(inputs[0]))
    model.encode(x).bottom.square().sum().backward()
    hook.remove()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert through[0] is not None
    assert through[0].abs().sum() > 0
    top_alone = torch.autograd.grad(model.top(model.top_encoder(model.bottom_encoder(x))).vectors.sum(), x)[0]
    assert top_alone.abs().sum() > 0


def test_the_structure_picture_is_decoded_without_texture():
    model = tiny_vqvae()
    ids = model.encode(images()).top_ids
    picture = model.structure_picture(ids)
    expected = model.decode(model.top.vectors(ids), torch.zeros(2, 4, 6, 10)).clamp(-1, 1)
    assert torch.equal(picture, expected)
    assert not torch.equal(picture, model.structure_picture((ids + 1) % 12))


@pytest.mark.parametrize("size", [(12, 18), (10, 20), (2, 4)])
def test_sizes_are_made_of_whole_tokens(size):
    with pytest.raises(
        UserError, match=f"{size[0]}x{size[1]} pixels are not whole structure tokens; give multiples of 4"
    ):
        tiny_vqvae().encode(images(1, 1, *size))


def test_initial_weights_keep_the_scale_of_their_inputs():
    model = tiny_vqvae(width=64)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            area = module.kernel_size[0] * module.kernel_size[1]
            expected = 0.88 * (area * module.in_channels) ** -0.5  # cut off at two deviations
            if module.weight.numel() > 2000:
                assert module.weight.detach().std() == pytest.approx(expected, rel=0.06)
            assert not module.bias.any()


def test_first_codes_are_features_of_images():
    model, x = tiny_vqvae().train(), images(4)
    model.start_codebooks(x, torch.Generator().manual_seed(1))
    assert model.training
    found = model.eval().encode(x)
    for level, features in ((model.top, found.top), (model.bottom, found.bottom)):
        flat = features.movedim(1, -1).reshape(-1, 4)
        assert all((flat == code).all(1).any() for code in level.codebook)
        assert len(level.codebook.unique(dim=0)) == 12
    assert not model.top.observed.any()  # looking around is no training


def test_codes_move_with_what_both_levels_saw():
    model, x = tiny_vqvae().train(), images(4)
    before = model.top.codebook.clone(), model.bottom.codebook.clone()
    model(x)
    model.update_codebooks(torch.Generator().manual_seed(0))
    assert not torch.equal(model.top.codebook, before[0])
    assert not torch.equal(model.bottom.codebook, before[1])


# ------------------------------------------------------------------------------------------- saving


def test_a_saved_model_comes_back(tmp_path):
    model, x = tiny_vqvae(), images()
    model.save_pretrained(tmp_path / "run" / "vqvae")
    assert sorted(path.suffix for path in (tmp_path / "run" / "vqvae").iterdir()) == [".json", ".safetensors"]
    for folder in (tmp_path / "run", tmp_path / "run" / "vqvae"):
        again = open_vqvae(folder)
        assert torch.equal(again(x).images, model(x).images)
        assert again.codebook_hash() == model.codebook_hash()
        assert not again.training
        assert not any(weight.requires_grad for weight in again.parameters())


def test_there_is_no_model(tmp_path):
    with pytest.raises(UserError, match=r"there is no VQ-VAE in .*; give the run of gen/train.py inpaint-vqvae"):
        open_vqvae(tmp_path)


def test_the_hash_is_of_the_structure_codes():
    model, other = tiny_vqvae(), tiny_vqvae(seed=5)
    first = model.codebook_hash()
    assert first != other.codebook_hash()
    assert len(first) == 64
    model.bottom.codebook += 1
    model.merge.weight.data += 1
    assert model.codebook_hash() == first
    model.top.codebook[3, 2] += 1e-2
    assert model.codebook_hash() != first


def test_a_model_in_half_precision_is_the_same_one():
    model, x = tiny_vqvae(), images()
    expected, whole = model.codebook_hash(), model(x).images
    model.half()
    assert model.codebook_hash() == expected
    assert model(x.half()).images.dtype == torch.float16
    torch.testing.assert_close(model(x.half()).images.float(), whole, atol=0.1, rtol=0.1)
    assert model.structure_picture(model.encode(x.half()).top_ids).isfinite().all()


def test_a_network_of_another_codebook_is_refused():
    model = tiny_vqvae()
    check_codebook(model, tiny_structure(codebook_hash=model.codebook_hash()), "structure")
    with pytest.raises(UserError, match="the structure network was trained with another VQ-VAE; give the one"):
        check_codebook(model, tiny_structure(codebook_hash=tiny_vqvae(seed=1).codebook_hash()), "structure")
