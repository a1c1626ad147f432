"""The diverse pipeline: known pixels to the bit, variants by their seeds, pictures of any size and kind."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_inpaint_pipelines import GRID, SIZE, tiny_pipeline

import gen
from gen.inpaint.attention import hole_tokens
from gen.inpaint.completion import Cut
from gen.inpaint.pipeline import DiverseInpaintPipeline, Request, first_of
from gen.inpaint.prefill import prefilled
from gen.inpaint.sampler import sample
from gen.sample import sample as sample_data_set
from gen.sampling_config import SampleConfig
from workbench import seeds
from workbench.errors import UserError


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def colour_pipe():
    return tiny_pipeline(3)


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def hole_in(size, *boxes):
    mask = np.zeros(size, bool)
    for top, left, height, width in boxes or [(5, 8, 6, 9)]:
        mask[top : top + height, left : left + width] = True
    return mask


def pixels_of(completions):
    return [np.asarray(image) for image in completions.images]


# ---- known pixels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [noise(*SIZE), noise(*SIZE, 3), noise(70, 61), noise(70, 61, 3), noise(9, 50), noise(12, 20, dtype=np.uint16)],
    ids=lambda image: f"{'x'.join(map(str, image.shape))} {image.dtype}",
)
@pytest.mark.parametrize("channels", [1, 3])
def test_known_pixels_stay_as_they_are(pipe, colour_pipe, image, channels):
    mask = hole_in(image.shape[:2], (2, 7, 5, 6), (1, 17, 1, 1))
    given = Image.fromarray(image) if image.dtype == np.uint16 else image
    completions = (pipe if channels == 1 else colour_pipe)(given, mask, num_variants=2)
    for pixels in pixels_of(completions):
        assert pixels.shape == image.shape
        assert pixels.dtype == image.dtype
        np.testing.assert_array_equal(pixels[~mask], image[~mask])
        assert (pixels[mask] != image[mask]).mean() > 0.9
    assert not np.array_equal(*pixels_of(completions))


def test_a_hole_in_a_large_photograph(pipe):
    image, mask = noise(5000, 8000), hole_in((5000, 8000), (4000, 6000, 8, 10))
    completions = pipe(image, mask, num_variants=1)
    np.testing.assert_array_equal(pixels_of(completions)[0][~mask], image[~mask])
    assert completions.boxes == [(3996, 5993, *SIZE)]
    assert completions.notes == []


def test_a_hole_painted_at_less_than_full_resolution_is_told(pipe):
    completions = pipe(noise(100, 100), hole_in((100, 100), (20, 20, 16, 16)), num_variants=1)
    assert completions.boxes[0][2:] == (32, 48)
    assert "1/2 of the picture's resolution" in completions.notes[0]


# ---- variants --------------------------------------------------------------------------------------------------------


def test_a_variant_depends_on_its_seed_alone(pipe):
    image, mask = noise(40, 60, 3), hole_in((40, 60), (5, 5, 6, 8), (30, 40, 5, 5))
    many = pipe(image, mask, num_variants=10, seed=3)
    assert many.seeds == list(range(3, 13))
    few, last = pipe(image, mask, num_variants=2, seed=3), pipe(image, mask, num_variants=1, seed=12)
    for alone, number in ((few, 0), (few, 1), (last, -1)):
        position = number if alone is few else 0
        np.testing.assert_array_equal(pixels_of(alone)[position], pixels_of(many)[number])
        assert alone.log_likelihoods[position] == pytest.approx(many.log_likelihoods[number], abs=1e-5)


def test_a_variant_is_what_its_stages_say(pipe):
    """The same by hand: draw, paint, and paste."""
    image, mask = noise(*SIZE), hole_in(SIZE)
    (variant,) = pixels_of(found := pipe(image, mask, num_variants=1, seed=5, temperature=0.8, top_p=0.9))
    pixels = torch.from_numpy(image)[None, None] / 127.5 - 1
    hole = torch.from_numpy(mask)[None, None].float()
    masked = pixels * (1 - hole)
    with torch.no_grad():
        h = pipe.structure.condition(masked, hole)
        ids, likelihood = sample(pipe.structure, pipe.vqvae.top.codebook, h, 1, [seeds.generator(5, 0)], 0.8, 0.9)
        painted = pipe.texture(masked, hole, pipe.vqvae.top.vectors(ids))
        structure = pipe.vqvae.structure_picture(ids)
    expected = np.where(mask, ((painted[0, 0] + 1) * 127.5).round().clamp(0, 255), image)
    np.testing.assert_array_equal(variant, expected)
    assert torch.equal(found.tokens[0][0], ids)
    in_hole = hole_tokens(hole, GRID).view(GRID)
    assert found.log_likelihoods[0] == pytest.approx(likelihood[0][in_hole].mean().item())
    shown = np.asarray(found.structures[0]) / 127.5 - 1
    np.testing.assert_allclose(shown, structure[0, 0], atol=1 / 127)


def test_the_hidden_pixels_are_not_looked_at(pipe):
    image, mask = noise(40, 60), hole_in((40, 60))
    other = np.where(mask, 255 - image, image)
    for first, second in zip(*(pixels_of(pipe(given, mask, num_variants=2)) for given in (image, other)), strict=True):
        np.testing.assert_array_equal(first, second)


def test_channels_of_a_colour_picture_share_their_noise(pipe):
    gray = noise(*SIZE)
    completions = pipe(np.dstack([gray] * 3), hole_in(SIZE), num_variants=2)
    alone = pipe(gray, hole_in(SIZE), num_variants=2)
    for pixels, single in zip(pixels_of(completions), pixels_of(alone), strict=True):
        np.testing.assert_array_equal(pixels, np.dstack([single] * 3))


def test_candidates_are_chosen_from(pipe):
    image, mask = noise(*SIZE), hole_in(SIZE)
    all_ = pipe(image, mask, num_variants=12)
    chosen = pipe(image, mask, num_variants=3, num_candidates=12)
    assert len(set(chosen.seeds)) == 3
    assert chosen.seeds[0] == int(np.argmax(all_.log_likelihoods))
    assert min(chosen.log_likelihoods) >= sorted(all_.log_likelihoods)[3] - 1e-6
    for seed, pixels in zip(chosen.seeds, pixels_of(chosen), strict=True):
        np.testing.assert_array_equal(pixels, pixels_of(all_)[seed])


def test_more_like_one(pipe):
    image, mask = noise(40, 60, 3), hole_in((40, 60), (5, 5, 6, 8), (30, 40, 5, 5))
    first = pipe(image, mask, num_variants=2)
    same = pipe(image, mask, num_variants=1, seed=50, like=first.tokens[1], keep=1.0)
    np.testing.assert_array_equal(pixels_of(same)[0][mask], pixels_of(first)[1][mask])
    more = pipe(image, mask, num_variants=1, seed=50, like=first.tokens[1], keep=0.5)
    for kept, new in zip(first.tokens[1], more.tokens[0], strict=True):
        assert torch.equal(kept[:, :2], new[:, :2])
        assert not torch.equal(kept, new)
    for others in (first.tokens[1][:1], [tokens[:, :2] for tokens in first.tokens[1]]):
        with pytest.raises(UserError, match="of another picture or mask"):
            pipe(image, mask, like=others)


def test_the_kept_share_is_of_the_hole():
    hole = torch.zeros(GRID, dtype=torch.bool)
    hole[1:3, 2:4] = True
    assert first_of(hole, 0.0).flatten().nonzero()[-1].item() == 7  # all before the hole
    assert first_of(hole, 0.5).flatten().nonzero()[-1].item() == 13
    assert first_of(hole, 1.0).all()


# ---- the fast mode ---------------------------------------------------------------------------------------------------


def test_the_fast_mode_takes_what_is_far_from_the_picture():
    pipe = tiny_pipeline(fast_distance=1)
    images, mask = torch.rand(1, 1, *SIZE) * 2 - 1, torch.zeros(1, 1, *SIZE)
    mask[..., 0:4, 0:4] = 1
    painted = pipe.paint([Cut(images, mask)], Request(num_variants=3, mode="fast"))
    given = pipe.vqvae.encode(prefilled(images, mask)).top_ids
    far = torch.ones(GRID, dtype=torch.bool)
    far[:2, :2] = False
    assert (painted.tokens[0][:, 0, far] == given[0, far]).all()
    assert not (painted.tokens[0][:, 0, ~far] == given[0, ~far]).all()


def test_a_model_without_a_fast_mode_says_so(pipe):
    with pytest.raises(UserError, match="this model has no fast mode"):
        pipe(noise(*SIZE), hole_in(SIZE), mode="fast")


# ---- what cannot work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_variants": 0}, "num_variants is 0"),
        ({"num_candidates": 3}, "num_candidates is 3, less than num_variants 6"),
        ({"mode": "slow"}, "mode is 'slow'"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"invert_mask": True}, "the hole covers .* up to 25%: give a smaller hole"),
    ],
)
def test_impossible_requests_are_sentences(pipe, options, sentence):
    with pytest.raises(UserError, match=sentence):
        pipe(noise(*SIZE), hole_in(SIZE), **options)


def test_how_large_a_hole_may_be_is_the_training_masks_matter(pipe):
    image, mask = noise(*SIZE), hole_in(SIZE, (0, 0, 16, 12))
    with pytest.raises(UserError, match="covers 50% of what the network would see"):
        pipe(image, mask)
    assert len(tiny_pipeline(mask_kinds=("centre", "half"))(image, mask, num_variants=1).images) == 1


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_saved_pipeline_opens_and_fills_the_same(tmp_path):
    pipe = tiny_pipeline(fast_distance=2)
    pipe.save_pretrained(tmp_path)
    names = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.json")}
    assert names == {"model_index.json", "vqvae", "structure", "texture"}
    again = gen.load(tmp_path)
    assert isinstance(again, DiverseInpaintPipeline)
    assert (again.native_size, again.config.fast_distance) == (SIZE, 2)
    image, mask = noise(40, 60), hole_in((40, 60))
    again.set_progress_bar_config(disable=True)
    for first, second in zip(*(pixels_of(p(image, mask, num_variants=2)) for p in (pipe, again)), strict=True):
        np.testing.assert_array_equal(first, second)


def test_it_generates_no_data_sets(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipeline")
    with pytest.raises(UserError, match="fills holes of pictures: use workbench inpaint"):
        sample_data_set(SampleConfig(pipeline=str(tmp_path / "pipeline"), output=tmp_path / "data", device="cpu"))


@pytest.mark.parametrize("part", ["structure", "texture"])
def test_networks_of_another_codebook_are_refused(pipe, tmp_path, part):
    parts = dict(pipe.components)
    parts[part] = getattr(tiny_pipeline(), part)
    parts[part].register_to_config(codebook_hash="another")
    with pytest.raises(UserError, match=f"the {part} network was trained with another VQ-VAE"):
        DiverseInpaintPipeline(**parts)
    tiny_pipeline().save_pretrained(tmp_path)
    parts[part].save_pretrained(tmp_path / part)
    with pytest.raises(UserError, match=f"^the {part} network was trained with another VQ-VAE"):
        gen.load(tmp_path)
