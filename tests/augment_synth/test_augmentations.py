"""What each augmentation promises: closed forms, limits, shapes."""

import pytest
import torch
import torch.nn.functional as F
from halves import SIZE, halves, quick
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from augment_synth.advprop import AdvProp, adversarial
from augment_synth.auxiliary_norm import AuxiliaryNorm, add_auxiliary, routed, without_auxiliary
from augment_synth.keep_augment import region_scores, selective_cut, selective_paste
from augment_synth.library_augmentations import CutMix, MixUp, rand_augmented
from augment_synth.max_up import MaxUp, worst_copies
from augment_synth.robust_recipe import RobustRecipe, evaluating
from augment_synth.shape_texture import two_label_loss
from augment_synth.stylizer import Stylizer, adain, trained_stylizer
from workbench.errors import UserError
from workbench.networks import ConvNet

# ---- torchvision's ---------------------------------------------------------------------------------------------------


def test_rand_augment_is_of_each_image_and_fixed_by_its_seed() -> None:
    images = halves().images[:1].expand(32, -1, -1, -1).contiguous()
    seeds = torch.arange(32)
    state = torch.random.get_rng_state()
    first, second = (rand_augmented(images, seeds, 2, 9) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, second)
    assert first.dtype == torch.uint8
    assert first.shape == images.shape
    assert len(first.flatten(1).unique(dim=0)) > 4
    assert torch.equal(rand_augmented(images[:5], seeds[:5], 2, 9), first[:5])


class Logits(nn.Module):
    """Remembers what it saw."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen = pixels
        return pixels.flatten(1)[:, :2]


@pytest.mark.parametrize("recipe", [MixUp, CutMix])
def test_mixed_images_have_mixed_classes(recipe: type[MixUp]) -> None:
    made = recipe(quick(resolution="8x12", mixup_alpha=1.0), halves((4, 4, 4, 4)))
    draws = made.draw(6, torch.Generator().manual_seed(2), 1)
    images, labels = made.batch(draws)
    model = Logits()
    loss = made.objective(model, images, labels, draws)
    clean, partner = images.float() / 255, (images.float() / 255).roll(1, 0)
    if recipe is MixUp:
        share = float(((model.seen - partner) * (clean - partner)).sum() / ((clean - partner) ** 2).sum())
        torch.testing.assert_close(model.seen, share * clean + (1 - share) * partner)
    else:
        pasted = (model.seen != clean).any(1).any(0)
        assert ((model.seen == clean) | (model.seen == partner)).all()
        share = 1 - float(pasted.float().mean())
    logits = model(model.seen)
    expected = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels.roll(1))
    assert 0 < share < 1
    assert float(loss) == pytest.approx(float(expected), abs=2e-3)


# ---- MaxUp -----------------------------------------------------------------------------------------------------------


def test_the_worst_copy_by_hand() -> None:
    losses = torch.tensor([[0.2, 1, 0.5], [2, 0.1, 0.3]]).T  # (m, b)
    worst = worst_copies(losses)
    assert worst.tolist() == [1, 0]
    assert float(losses[worst, torch.arange(2)].mean()) == 1.5


def test_maxup_learns_from_the_worst_copy() -> None:
    recipe = MaxUp(quick(resolution="8x12", maxup_copies=3, random_shift=3), halves())
    recipe.model.train()
    draws = recipe.draw(5, torch.Generator().manual_seed(0), 1)
    statistics = [buffer.clone() for buffer in recipe.model.buffers()]
    images, labels = recipe.batch(draws)
    assert recipe.model.training
    assert all(torch.equal(a, b) for a, b in zip(statistics, recipe.model.buffers(), strict=True))

    def losses(seen: torch.Tensor) -> torch.Tensor:
        with evaluating(recipe.model), torch.no_grad():
            return F.cross_entropy(recipe.model(seen.float() / 255), labels, reduction="none")

    for copy in range(3):
        one = {**draws, "shift": draws["shift"][:, copy], "flip": draws["flip"][:, copy]}
        assert (losses(RobustRecipe.batch(recipe, one)[0]) <= losses(images) + 1e-6).all()


# ---- KeepAugment -----------------------------------------------------------------------------------------------------


def glyph() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and a saliency that is 1 on a 5x4 glyph."""
    images = 0.1 + 0.8 * torch.rand(64, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    saliency = torch.zeros(64, 16, 20)
    saliency[:, 6:11, 9:13] = 1
    return images, saliency


def test_region_scores_are_means() -> None:
    _, saliency = glyph()
    scores = region_scores(saliency, 4)
    assert scores.shape == (64, 13, 17)
    assert float(scores[0, 6, 9]) == 1
    assert float(scores[0, 4, 9]) == 0.5


def test_no_cut_touches_the_glyph_and_every_paste_does() -> None:
    images, saliency = glyph()
    place = torch.rand(64, generator=torch.Generator().manual_seed(1))
    low = float((region_scores(saliency, 4) == 0).float()[0].mean()) - 0.01  # the quantile is 0 just below this
    cut = selective_cut(images, saliency + 1e-3 * saliency, 4, low + 0.02, place, torch.zeros(3, 16, 20))
    erased = (cut == 0).all(1)
    assert (erased.sum((1, 2)) == 16).all()
    assert not erased[saliency > 0].any()
    assert len({tuple(mask.flatten().tolist()) for mask in erased}) > 20
    pasted = selective_paste(images, torch.zeros_like(images), saliency, 4, low, place)
    kept = (pasted != 0).all(1)
    assert (kept.sum((1, 2)) == 16).all()
    assert (kept & (saliency > 0)).any(2).any(1).all()


def test_constant_saliency_ends() -> None:
    images, _ = glyph()
    flat, place = torch.ones(64, 16, 20), torch.rand(64)
    assert ((selective_cut(images, flat, 3, 0.5, place, torch.zeros(3, 16, 20)) == 0).all(1).sum((1, 2)) == 9).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 8), st.floats(0, 1), st.integers(0, 100))
def test_one_whole_square_is_cut(side: int, quantile: float, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    images, saliency = torch.rand(3, 1, 8, 11, generator=draws) + 0.1, torch.rand(3, 8, 11, generator=draws)
    place = torch.rand(3, generator=draws)
    erased = (selective_cut(images, saliency, side, quantile, place, torch.zeros(1, 8, 11)) == 0)[:, 0]
    for mask in erased:
        rows, columns = mask.any(1), mask.any(0)
        assert int(rows.sum()) == int(columns.sum()) == side
        assert int(mask.sum()) == side**2


# ---- auxiliary norms and AdvProp -------------------------------------------------------------------------------------


def test_each_norm_sees_its_own_kind() -> None:
    draws = torch.Generator().manual_seed(0)
    real, other = torch.randn(6, 4, 3, 5, generator=draws), 7 + torch.randn(4, 4, 3, 5, generator=draws)
    norm, plain, alone = AuxiliaryNorm(nn.BatchNorm2d(4)), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    mixed = torch.cat([real[:2], other, real[2:]])
    auxiliary = torch.arange(10).sub(2).div(4, rounding_mode="floor") == 0
    with routed(norm, auxiliary):
        out = norm(mixed)
    torch.testing.assert_close(out[~auxiliary], plain(real))
    torch.testing.assert_close(out[auxiliary], alone(other))
    torch.testing.assert_close(norm.main.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.auxiliary.running_mean, alone.running_mean)
    norm.eval(), plain.eval()
    torch.testing.assert_close(norm(real), plain(real))


def test_without_auxiliary_is_the_network_as_built() -> None:
    network = ConvNet(2, 3, SIZE, width=4, normalisation="batch")
    names = list(network.state_dict())
    add_auxiliary(network)
    network(torch.rand(4, 3, *SIZE))
    plain = without_auxiliary(network)
    assert list(plain.state_dict()) == names
    network.eval(), plain.eval()
    images = torch.rand(4, 3, *SIZE)
    assert torch.equal(plain(images), network(images))
    with pytest.raises(UserError, match="no batch norm"):
        add_auxiliary(ConvNet(2, 3, SIZE, width=4))


@pytest.mark.parametrize("steps", [1, 3])
def test_attacks_stay_near_raise_the_loss_and_leave_no_trace(steps: int) -> None:
    recipe = AdvProp(quick(resolution="8x12"), halves())
    model = recipe.model.train()
    images, labels = recipe.images[:8].float() / 255, recipe.labels[:8]
    before = [buffer.clone() for buffer in model.buffers()]
    attacked = adversarial(model, images, labels, torch.zeros_like(images), 0.05, steps)
    assert not attacked.requires_grad
    assert float((attacked - images).abs().max()) <= 0.05 + 1e-6
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    assert F.cross_entropy(model(attacked), labels) > F.cross_entropy(model(images), labels)


# ---- shape and texture -----------------------------------------------------------------------------------------------


def test_adain_has_the_styles_moments() -> None:
    draws = torch.Generator().manual_seed(0)
    content, style = torch.randn(2, 3, 6, 9, generator=draws), 2 + 3 * torch.randn(2, 3, 6, 9, generator=draws)
    mixed = adain(content, style)
    torch.testing.assert_close(mixed.mean((2, 3)), style.mean((2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(mixed.std((2, 3)), style.std((2, 3)), atol=1e-3, rtol=0)
    torch.testing.assert_close(adain(content, content), content, atol=1e-4, rtol=0)


def test_no_blend_is_the_copy_and_odd_sizes_stay() -> None:
    stylizer = Stylizer(3)
    content, style = torch.rand(2, 3, 7, 10), torch.rand(2, 3, 7, 10)
    copy = stylizer.decode(stylizer.encoder(content), (7, 10)).clamp(0, 1)
    torch.testing.assert_close(stylizer(content, style, 0.0), copy)
    assert stylizer(content, style, 1.0).shape == content.shape


def test_the_stylizer_learns_to_copy_and_is_the_same_again() -> None:
    images = halves().images
    first, again = (trained_stylizer(images, 40, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    pixels = images.float() / 255
    untrained = trained_stylizer(images, 1, seed=3)
    errors = [float(F.mse_loss(network(pixels, pixels, 0.0), pixels)) for network in (untrained, first)]
    assert errors[1] < errors[0] / 2


def test_two_labels() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, shapes, textures = (
        torch.randn(4, 3, generator=draws),
        torch.tensor([0, 1, 2, 0]),
        torch.tensor([1, 1, 0, 2]),
    )
    soft = 0.8 * F.one_hot(shapes, 3) + 0.2 * F.one_hot(textures, 3)
    torch.testing.assert_close(two_label_loss(logits, shapes, textures, 0.8), F.cross_entropy(logits, soft))
    torch.testing.assert_close(two_label_loss(logits, shapes, textures, 1.0), F.cross_entropy(logits, shapes))
