"""The texture generator, its discriminator and its losses."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_inpaint_models import tiny_vqvae
from tiny_inpaint_pipelines import GRID, SIZE, tiny_texture

from gen.inpaint.texture import Discriminator, Gated, TextureGenerator
from gen.inpaint.texture_losses import adversarial_loss, completed, discriminator_loss, feature_loss


def inputs(count=2, channels=1, size=SIZE, grid=GRID, dim=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, channels, *size, generator=generator) * 2 - 1
    mask = torch.zeros(count, 1, *size)
    mask[..., 4 : size[0] - 3, 6 : size[1] // 2] = 1
    return images * (1 - mask), mask, torch.randn(count, dim, *grid, generator=generator)


def count_of(model):
    return sum(weight.numel() for weight in model.parameters())


def test_sizes_are_those_of_the_paper():
    assert count_of(TextureGenerator()) == pytest.approx(4.6e6, rel=0.01)
    assert count_of(Discriminator(3, 64, 6)) == pytest.approx(5.9e6, rel=0.01)


@pytest.mark.parametrize(("stride", "factor"), [(1, 4), (2, 8)])
def test_pictures_need_not_be_square(stride, factor):
    size = (GRID[0] * factor, GRID[1] * factor)
    model = tiny_texture(channels=3, first_stride=stride)
    images = model(*inputs(channels=3, size=size))
    assert images.shape == (2, 3, *size)
    assert images.abs().max() <= 1


def test_a_gated_layer_gives_half_its_filters():
    layer = Gated(3, 10, kernel_size=5)
    x = torch.randn(1, 3, 6, 7)
    raw = layer.convolution(x)
    torch.testing.assert_close(layer(x), F.elu(raw[:, :5]) * raw[:, 5:].sigmoid())
    assert Gated(3, 8, stride=2)(x).shape == (1, 4, 3, 4)
    assert Gated(3, 8, dilation=4)(x).shape == (1, 4, 6, 7)


@torch.no_grad()
def test_a_fresh_network_keeps_the_signal():
    """Through all its gated layers: the last one's output has the size of the first one's."""
    model, sizes = tiny_texture(width=24), []
    for layer in model.modules():
        if isinstance(layer, Gated):
            layer.register_forward_hook(lambda module, given, found: sizes.append(found.std().item()))
    model(*inputs())
    assert len(sizes) == 20
    assert 0.2 < sizes[-1] / sizes[0] < 5


@pytest.mark.parametrize("which", [0, 1, 2])
@torch.no_grad()
def test_all_inputs_matter(which):
    model, given = tiny_texture(), inputs()
    changed = [value.clone() for value in given]
    changed[which][:, :, 1, 1] += 0.5
    assert not torch.allclose(model(*given), model(*changed), atol=1e-6)


@torch.no_grad()
def test_each_image_is_painted_by_itself():
    model, given = tiny_texture(), inputs(3)
    alone = torch.cat([model(*(value[k : k + 1] for value in given)) for k in range(3)])
    torch.testing.assert_close(model(*given), alone)


@torch.no_grad()
def test_attention_can_be_left_out():
    given = inputs()
    plain, attending = tiny_texture(attention="none"), tiny_texture()
    plain.load_state_dict(attending.state_dict())
    assert plain.attend(given[2], given[1]) is None
    identity = torch.eye(24).expand(2, 24, 24)
    torch.testing.assert_close(plain(*given), attending(*given, identity))
    assert not torch.allclose(plain(*given), attending(*given, torch.full((2, 24, 24), 1 / 24)))


@torch.no_grad()
def test_a_single_stage_has_no_structure():
    model, given = tiny_texture(structure_dim=0), inputs()
    assert model.structure is None
    assert count_of(model) < count_of(tiny_texture())
    torch.testing.assert_close(model(*given[:2]), model(*given))


def test_a_saved_generator_paints_the_same(tmp_path):
    model, given = tiny_texture(attention="known", fuse=False), inputs()
    model.save_pretrained(tmp_path)
    again = TextureGenerator.from_pretrained(tmp_path)
    assert (again.config.attention, again.config.fuse) == ("known", False)
    with torch.no_grad():
        torch.testing.assert_close(again(*given), model(*given))


def test_the_discriminator_scores_patches():
    model = Discriminator(3, 8, 6)
    assert model(torch.randn(2, 3, 256, 192), torch.zeros(2, 1, 256, 192)).shape == (2, 4 * 3 * 32)
    widths = [layer.out_channels for layer in model.layers[::2]]
    assert widths == [8, 16, 32, 32, 32, 32]
    images, mask = torch.randn(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    assert not torch.allclose(model(images, mask), model(images, 1 - mask))


def test_the_discriminator_is_spectrally_normed():
    model = Discriminator(1, 4, 3)
    for _ in range(60):  # a power iteration each
        model(torch.randn(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
    for layer in model.layers[::2]:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_completed_images_are_painted_in_the_hole_alone():
    painted, images = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert torch.equal(completed(painted, images, mask), mask.expand(1, 3, 2, 2))


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 0.25]])
    assert discriminator_loss(real, fake) == pytest.approx(0.5 * (0.5 / 2) + 0.5 * (1.25 / 2))
    scores = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
    assert adversarial_loss(scores, torch.tensor([1.0, 0.5])) == pytest.approx(-(2 + 3) / 2)


def test_the_feature_loss_is_a_cross_entropy_over_standardised_distances():
    generator = torch.Generator().manual_seed(0)
    features, codebook = torch.randn(2, 3, 2, 4, generator=generator), torch.randn(5, 3, generator=generator)
    ids = torch.randint(5, (2, 2, 4), generator=generator)
    expected = []
    for b, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(4)).tolist():
        distances = ((features[b, :, y, x] - codebook) ** 2).sum(1)
        scores = -torch.tanh((distances - distances.mean()) / distances.std(correction=0))
        expected.append(-(10 * scores).log_softmax(0)[ids[b, y, x]])
    torch.testing.assert_close(feature_loss(features, codebook, ids), torch.stack(expected).mean())


def test_the_feature_loss_survives_equal_codes():
    features = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = feature_loss(features, torch.zeros(5, 3), torch.zeros(1, 2, 2, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(5))
    loss.backward()
    assert features.grad.isfinite().all()


def test_both_feature_losses_reach_the_image_through_a_frozen_encoder():
    vqvae = tiny_vqvae().requires_grad_(False)
    images = (torch.rand(1, 1, *SIZE) * 2 - 1).requires_grad_()
    encoded = vqvae.encode(images)
    for level, features, ids in (
        (vqvae.top, encoded.top, encoded.top_ids),
        (vqvae.bottom, encoded.bottom, encoded.bottom_ids),
    ):
        (gradient,) = torch.autograd.grad(feature_loss(features, level.codebook, ids), images, retain_graph=True)
        assert gradient.abs().sum() > 0
    assert all(weight.grad is None for weight in vqvae.parameters())
