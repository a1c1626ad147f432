"""Other ways to inpaint, behind the same call; RePaint against a model whose truth is known."""

import importlib.util
import json
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_inpaint_pipelines import SIZE, tiny_pipeline, tiny_texture
from tiny_models import random_pipeline
from tiny_pixel_models import pixel_pipeline

from gen.inpaint import baselines
from gen.inpaint.baselines import DiffusersInpainter, RePaint, SingleStage, Telea, open_inpainter
from gen.inpaint.pipeline import DiverseInpaintPipeline
from gen.inpaint.repaint import FlowDenoiser, Level, PixelDenoiser, moved, renoised, repaint, walk
from workbench.errors import UserError


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def hole_in(size, top=5, left=8, height=6, width=9):
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def check(completions, image, mask, count):
    """Known pixels are as they were, and the hole is filled; returns the completed pixels."""
    filled = [np.asarray(one) for one in completions.images]
    assert len(filled) == len(completions.seeds) == count
    for pixels in filled:
        np.testing.assert_array_equal(pixels[~mask], image[~mask])
        assert (pixels[mask] != image[mask]).mean() > 0.8
    return filled


# ---- RePaint ---------------------------------------------------------------------------------------------------------


def test_the_walk_goes_back_and_forth():
    assert list(walk(3, 1, 1)) == [(0, 1), (1, 2), (2, 3)]
    assert list(walk(5, 2, 2)) == [
        (0, 1), (1, 2), (2, 1), (1, 0), (0, 1), (1, 2),
        (2, 3), (3, 4), (4, 3), (3, 2), (2, 3), (3, 4), (4, 5),
    ]  # fmt: skip
    forward = [pair for pair in walk(50, 5, 5) if pair[1] > pair[0]]
    assert len(forward) == 45 * 5 + 5


def test_steps_keep_the_noise_law():
    """From one level to another, with the true clean image: signal and noise are those of the new level."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.full((1, 1, 100, 1000), 3.0)
    for now, after in ((Level(0.3, 0.7), Level(0.6, 0.4)), (Level(1.0, 5.0), Level(1.0, 0.5))):
        x = now.alpha * x_0 + now.sigma * torch.randn(x_0.shape, generator=generator)
        ahead = moved(x, x_0, now, after)
        back = renoised(ahead, after, now, torch.randn(x_0.shape, generator=generator))
        for found, level in ((ahead, after), (back, now)):
            assert found.mean() == pytest.approx(3 * level.alpha, abs=0.05)
            assert found.std() == pytest.approx(level.sigma, rel=0.02)
        kept = torch.corrcoef(torch.stack([x.flatten(), back.flatten()]))[0, 1]
        ratio = now.alpha / after.alpha * after.sigma / now.sigma
        assert kept == pytest.approx(ratio, abs=0.02)


class Gaussian:
    """The exact denoiser of images of two pixels of unit variance that are alike: correlation `rho`."""

    native_size, channels, rho = (1, 2), 1, 0.9

    def levels(self, count):
        return [Level(1 - t, t) for t in torch.linspace(1, 1 / count, count).tolist()]

    def clean(self, x, level):
        covariance = torch.tensor([[1, self.rho], [self.rho, 1]])
        seen = level.alpha**2 * covariance + level.sigma**2 * torch.eye(2)
        return x @ (level.alpha * covariance @ torch.linalg.inv(seen)).T

    def scaled(self, images):
        return images

    def restored(self, images):
        return images


def test_repaint_draws_from_the_conditional_law():
    """Given one pixel the other is normal, with mean rho times it and deviation sqrt(1 - rho^2)."""
    images, mask = torch.tensor([[[[1.5, 0.0]]]]).expand(400, 1, 1, 2), torch.tensor([[[[0.0, 1.0]]]])

    def filled(num_resamples):
        generators = [torch.Generator().manual_seed(seed) for seed in range(400)]
        images_ = repaint(Gaussian(), images, mask.expand(400, 1, 1, 2), generators, 40, 5, num_resamples)
        return images_[..., 1].flatten()

    once, often = filled(1), filled(8)
    assert often.mean() == pytest.approx(0.9 * 1.5, abs=0.15)
    assert often.std() == pytest.approx(0.19**0.5, abs=0.1)
    assert abs(often.mean() - 1.35) < abs(once.mean() - 1.35)  # what the resampling is for


def test_each_image_has_its_own_noise():
    images, mask = torch.zeros(3, 1, 1, 2), torch.ones(3, 1, 1, 2)

    def filled(*seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return repaint(Gaussian(), images[: len(seeds)], mask[: len(seeds)], generators, 4, 2, 2)

    torch.testing.assert_close(filled(5, 6, 7)[1:2], filled(6))
    assert not torch.allclose(filled(5), filled(6))


@torch.no_grad()
def test_a_flow_is_read_as_a_denoiser():
    pipe = random_pipeline()
    denoiser = FlowDenoiser(pipe)
    x = torch.randn(2, 1, 8, 12)
    velocity = pipe.transformer(x, torch.full((2,), 300.0), torch.tensor([3, 3]), return_dict=False)[0]
    torch.testing.assert_close(denoiser.clean(x, Level(0.7, 0.3)), x - 0.3 * velocity)
    assert denoiser.levels(4) == [Level(0.0, 1.0), Level(0.25, 0.75), Level(0.5, 0.5), Level(0.75, 0.25)]


@torch.no_grad()
def test_a_pixel_model_is_read_as_a_denoiser():
    denoiser = PixelDenoiser(pixel_pipeline())
    images = torch.rand(2, denoiser.channels, *denoiser.native_size) * 2 - 1
    torch.testing.assert_close(denoiser.restored(denoiser.scaled(images)), images, atol=1e-5, rtol=0)
    levels = denoiser.levels(5)
    assert all(first.sigma > second.sigma for first, second in pairwise(levels))
    noisy = denoiser.scaled(images) + levels[-1].sigma
    assert denoiser.clean(noisy, levels[-1]).shape == images.shape


@pytest.mark.parametrize("make", [random_pipeline, pixel_pipeline])
def test_generators_of_ours_repaint_pictures_of_any_size(make):
    image, mask = noise(30, 40, 3), hole_in((30, 40))
    inpainter = RePaint(make(), num_inference_steps=4, jump_length=2, num_resamples=2)
    first, second = check(inpainter(image, mask, num_variants=2), image, mask, 2)
    assert not np.array_equal(first, second)
    (alone,) = check(inpainter(image, mask, num_variants=1, seed=1), image, mask, 1)
    assert np.abs(alone.astype(int) - second).max() <= 1


def test_latents_cannot_be_repainted():
    pipe = random_pipeline()
    pipe.vae = object()
    with pytest.raises(UserError, match="this pipeline makes latents"):
        FlowDenoiser(pipe)


# ---- the others ------------------------------------------------------------------------------------------------------


def test_a_single_stage_gives_one_completion(tmp_path):
    texture = tiny_texture(structure_dim=0)
    image, mask = noise(30, 40, 3), hole_in((30, 40))
    (filled,) = check(SingleStage(texture, SIZE)(image, mask, num_variants=4), image, mask, 1)
    texture.save_pretrained(tmp_path / "run" / "texture")
    again = open_inpainter(str(tmp_path / "run"))
    np.testing.assert_array_equal(check(again(image, mask), image, mask, 1)[0], filled)
    with pytest.raises(UserError, match="open the whole pipeline instead"):
        SingleStage(tiny_texture(), SIZE)


def test_pipelines_are_opened_by_their_folder(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "diverse")
    random_pipeline().save_pretrained(tmp_path / "rpe2d")
    assert isinstance(open_inpainter(str(tmp_path / "diverse")), DiverseInpaintPipeline)
    assert isinstance(open_inpainter(str(tmp_path / "rpe2d")), RePaint)
    with pytest.raises(UserError, match="is not a trained pipeline"):
        open_inpainter(str(tmp_path / "nothing"))


def test_telea_needs_opencv(monkeypatch):
    monkeypatch.setattr(baselines, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"run: pip install 'workbench\[cv\]'"):
        open_inpainter("telea")


@pytest.mark.parametrize("image", [noise(30, 40), noise(30, 40, 3)], ids=["gray", "colour"])
def test_telea_fills_smoothly(monkeypatch, image):
    """With OpenCV where it is installed; else with one that answers as it does."""
    if importlib.util.find_spec("cv2") is None:
        fake = SimpleNamespace(INPAINT_TELEA=1, inpaint=lambda plane, hole, radius, kind: np.where(hole, 7, plane))
        monkeypatch.setitem(sys.modules, "cv2", fake)
        monkeypatch.setattr(baselines, "find_spec", lambda name: object())
    mask = hole_in((30, 40))
    (filled,) = check(Telea()(image, mask), image, mask, 1)
    assert filled[mask].std() < image[mask].std() / 2


def test_mistakes_are_sentences():
    single = SingleStage(tiny_texture(structure_dim=0), SIZE)
    with pytest.raises(UserError, match="num_variants is 0"):
        single(noise(30, 40), hole_in((30, 40)), num_variants=0)
    with pytest.raises(UserError, match="cannot be opened as an inpainting model of diffusers"):
        open_inpainter("diffusers:no/such-folder/at-all")


# ---- diffusers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def latent_inpainter(tmp_path_factory):
    """A folder of Stable Diffusion's inpainting pipeline, with random weights and three words."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("diffusers")
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    torch.manual_seed(0)
    pipe = StableDiffusionInpaintPipeline(
        vae=AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, **blocks
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
            )
        ),
        tokenizer=CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8),
        unet=UNet2DConditionModel(
            sample_size=16, in_channels=9, out_channels=4, cross_attention_dim=8, layers_per_block=1,
            attention_head_dim=2, down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"], **blocks,
        ),
        scheduler=DDIMScheduler(num_train_timesteps=4),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def test_models_of_diffusers_fill_pictures_of_any_size(latent_inpainter):
    inpainter = open_inpainter(f"diffusers:{latent_inpainter}")
    assert isinstance(inpainter, DiffusersInpainter)
    assert inpainter.native_size == (32, 32)
    inpainter.options["num_inference_steps"] = 2
    image, mask = noise(50, 60), hole_in((50, 60))
    first, second = check(inpainter(image, mask, num_variants=2, seed=3), image, mask, 2)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(check(inpainter(image, mask, num_variants=1, seed=4), image, mask, 1)[0], second)
