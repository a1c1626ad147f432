import json
import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, DiffusionPipeline
from diffusers.utils import dynamic_modules_utils
from tiny_models import NAMES, generators
from tiny_pixel_models import pixel_pipeline, random_generator

import gen
from gen.pixel.noise import consistency
from gen.pixel.pipeline import EPGPipeline, make_scheduler
from gen.pixel.scheduler import KarrasX0ConsistencyScheduler, KarrasX0HeunScheduler
from workbench.errors import UserError

ONE_STEP = {"prediction_type": "consistency"}


@pytest.fixture(scope="module")
def pipe():
    """A diffusion model of three labels, 8 x 12 gray pixels. Not to be changed."""
    return pixel_pipeline()


@pytest.fixture(scope="module")
def one_step():
    """A consistency model of the same weights. Not to be changed."""
    return pixel_pipeline(**ONE_STEP)


@pytest.fixture
def asked(pipe, one_step, monkeypatch):
    """What the networks are asked: (images, labels, sigma) of each call."""
    calls = []
    for network in (pipe.transformer, one_step.transformer):
        forward = network.forward

        def spy(sample, timestep, class_labels=None, return_dict=True, forward=forward):
            labels = None if class_labels is None else class_labels.tolist()
            calls.append((sample, labels, math.exp(timestep[0].item() / 250)))
            return forward(sample, timestep, class_labels, return_dict)

        monkeypatch.setattr(network, "forward", spy)
    return calls


def images(pipe, labels=("hat", "bag"), seeds=(0, 1), **options):
    labels = list(labels) if labels else None
    return pipe(labels, generator=generators(*seeds), output_type="pt", **options).images


# ------------------------------------------------------------------------------------------- a consistency model


@pytest.mark.parametrize("shift", [1.0, 0.4375])
def test_diffusers_own_consistency_pipeline_drives_our_model(shift):
    model = random_generator(
        sample_size=8, sigma_shift=shift, data_mean=[0.5], data_std=[0.25], data_range=[[-1.0], [1.0]], **ONE_STEP
    )
    scheduler = CMStochasticIterativeScheduler(sigma_min=0.002 * shift, sigma_max=80 * shift, sigma_data=0.5)
    theirs = ConsistencyModelPipeline(model, scheduler)
    ours = EPGPipeline(model, make_scheduler(model))
    for one in (theirs, ours):
        one.set_progress_bar_config(disable=True)
    latents = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = theirs(
        batch_size=2, class_labels=[2, 0], generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images  # fmt: skip
    found = ours([2, 0], latents=latents, output_type="pt").images
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    sigma = torch.full((2,), 80 * shift)
    with torch.no_grad():
        clean = consistency(model, latents * 80 * shift, sigma, torch.tensor([2, 0]), model.noise_range)
    torch.testing.assert_close(clean.clamp(-1, 1) / 2 + 0.5, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.05


def test_diffusers_own_consistency_pipeline_takes_several_steps():
    """Its levels are other ones, and so may be the noise it adds; what it must not do is fail."""
    model = random_generator(sample_size=8, **ONE_STEP)
    theirs = ConsistencyModelPipeline(model, CMStochasticIterativeScheduler())
    theirs.set_progress_bar_config(disable=True)
    made = theirs(batch_size=2, num_inference_steps=3, generator=generators(0, 1), output_type="np").images
    assert made.shape == (2, 8, 8, 1)


def test_one_step_is_one_call_at_the_most_noise(one_step, asked):
    images(one_step)
    ((sample, labels, sigma),) = asked
    assert len(sample) == 2
    assert labels == [2, 0]
    assert sigma == pytest.approx(80, rel=1e-4)
    assert sample.std().item() == pytest.approx(1, rel=0.15)


def test_a_few_steps_are_as_many_calls(one_step, asked):
    few = images(one_step, num_inference_steps=3)
    assert [len(sample) for sample, *_ in asked] == [2, 2, 2]
    assert [sigma for *_, sigma in asked] == pytest.approx(one_step.transformer.noise_range.karras(4)[:3].tolist())
    assert not torch.allclose(few, images(one_step))


def test_a_consistency_model_is_neither_guided_nor_asked_without_a_label(one_step):
    with pytest.raises(UserError, match=r"guidance_scale is 2.0; give 1: a consistency model"):
        images(one_step, guidance_scale=2.0)
    with pytest.raises(UserError, match="needs one for each image; give class_labels"):
        one_step(num_images=2)
    unlabelled = pixel_pipeline(num_class_embeds=None, id2label=None, **ONE_STEP)
    assert images(unlabelled, None, (0, 1), num_images=2).shape == (2, 1, 8, 12)


# ------------------------------------------------------------------------------------------- a diffusion model


def test_the_paper_s_sampler_asks_74_times_with_guidance_and_62_without(pipe, asked):
    plain = images(pipe, num_inference_steps=32)
    assert [len(sample) for sample, *_ in asked] == [2] * 62
    asked.clear()
    images(pipe, num_inference_steps=32, guidance_scale=2.5)
    assert sum(len(sample) for sample, *_ in asked) == 2 * 74
    doubled = {round(sigma, 2) for sample, _, sigma in asked if len(sample) == 4}
    assert doubled == {1.61, 1.17, 0.84, 0.6, 0.42, 0.28}
    asked.clear()
    assert torch.equal(images(pipe, num_inference_steps=32, guidance_scale=1.0), plain)
    assert [len(sample) for sample, *_ in asked] == [2] * 62
    asked.clear()
    assert torch.equal(images(pipe), plain)  # the default


def test_the_lower_bound_of_guidance_is_excluded_and_the_upper_one_included(pipe, asked):
    scheduler = make_scheduler(pipe.transformer)
    scheduler.set_timesteps(5)
    low, high = scheduler.sigmas[3], scheduler.sigmas[1]
    images(pipe, num_inference_steps=5, guidance_scale=2.0, guidance_sigma_range=(low, high))
    guided = [sigma for sample, _, sigma in asked if len(sample) == 4]
    assert guided == pytest.approx(2 * [scheduler.sigmas[1]] + 2 * [scheduler.sigmas[2]], rel=1e-4)


def test_guidance_bounds_are_not_shifted(asked):
    shifted = pixel_pipeline(sigma_shift=4.0)
    counts = []
    forward = shifted.transformer.forward
    shifted.transformer.forward = lambda sample, *rest, **options: (
        counts.append(len(sample)) or forward(sample, *rest, **options)
    )
    images(shifted, num_inference_steps=32, guidance_scale=2.5)
    assert sum(counts) == 2 * 74


def test_guidance_is_linear_in_the_clean_images():
    """Everywhere guided, one Euler step from an unclamped network shows the formula."""
    pipe = pixel_pipeline(data_range=[[-1e9], [1e9]])
    pipe.scheduler = KarrasX0HeunScheduler(solver_order=1, final_sigmas_type="zero")
    made = {
        scale: pipe(
            ["hat"], num_inference_steps=1, guidance_scale=scale, guidance_sigma_range=(0.0, 100.0),
            generator=generators(0), output_type="latent",
        ).images
        for scale in (0.0, 1.0, 3.0)
    }  # fmt: skip
    unlabelled = pipe(num_inference_steps=1, generator=generators(0), output_type="latent").images
    torch.testing.assert_close(made[0.0], unlabelled)
    torch.testing.assert_close(made[3.0], unlabelled + 3 * (made[1.0] - unlabelled), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(made[1.0], unlabelled, atol=1e-3)


def test_images_without_a_label_cost_no_guidance(pipe, asked):
    pipe(num_images=2, num_inference_steps=5, guidance_scale=3.0, generator=generators(0, 1))
    assert {len(sample) for sample, *_ in asked} == {2}
    assert {tuple(labels) for _, labels, _ in asked} == {(3, 3)}


@pytest.mark.parametrize("prediction_type", ["sample", "consistency"])
def test_estimates_keep_to_the_range_of_the_data(prediction_type):
    """Not to [-1, 1]: what is black or white in the data can be reached, and nothing beyond."""
    pipe = pixel_pipeline(prediction_type=prediction_type, data_range=[[-1.3], [1.2]])
    with torch.no_grad():
        pipe.transformer.proj_out.weight *= 100
    if prediction_type == "sample":
        pipe.scheduler = KarrasX0HeunScheduler(solver_order=1, final_sigmas_type="zero")
    made = pipe("hat", num_images=9, num_inference_steps=1, generator=generators(*range(9)), output_type="latent")
    assert (made.images.min().item(), made.images.max().item()) == pytest.approx((-1.3, 1.2), abs=1e-4)


def test_the_trajectory_is_that_of_the_network(pipe):
    """Five levels, against the same loop by hand."""
    model, noise_range = pipe.transformer, pipe.transformer.noise_range
    levels = noise_range.karras(5).tolist()
    x = torch.randn(1, 1, 8, 12, generator=generators(3)[0]) * 80
    labels = torch.tensor([1])

    def clean(x, sigma):
        with torch.no_grad():
            c_in = 1 / math.sqrt(sigma**2 + 0.25)
            answer = model(x * c_in, torch.tensor([250 * math.log(sigma)]), labels).sample
        return answer.clamp(-3 / 7, 1.0)

    for sigma, following in pairwise(levels):
        slope = (x - clean(x, sigma)) / sigma
        guess = x + (following - sigma) * slope
        x = x + (following - sigma) * (slope + (guess - clean(guess, following)) / following) / 2
    made = pipe("coat", num_inference_steps=5, generator=generators(3), output_type="latent").images
    torch.testing.assert_close(made, x, atol=2e-3, rtol=0)  # the sinusoid of c_noise magnifies rounding
    pixels = pipe("coat", num_inference_steps=5, generator=generators(3), output_type="pt").images
    torch.testing.assert_close(pixels, (0.3 + 0.7 * x).clamp(0, 1), atol=2e-3, rtol=0)


# ------------------------------------------------------------------------------------------- what both share


@pytest.mark.parametrize(("kind", "options"), [("pipe", {"guidance_scale": 2.0}), ("one_step", {})])
@pytest.mark.parametrize("steps", [2, 4])
def test_an_image_is_the_same_alone_and_in_a_batch(kind, options, steps, request):
    pipe = request.getfixturevalue(kind)
    together = images(pipe, num_inference_steps=steps, **options)
    for k, label in enumerate(("hat", "bag")):
        alone = images(pipe, [label], [k], num_inference_steps=steps, **options)
        torch.testing.assert_close(alone, together[k : k + 1], atol=1e-4, rtol=0)


def test_labels_by_name_and_by_number(one_step):
    assert one_step.label_names == NAMES
    assert torch.equal(images(one_step, ["hat", "bag"]), images(one_step, [2, 0]))
    assert not torch.allclose(images(one_step, ["hat", "bag"]), images(one_step, ["coat", "coat"]), atol=1e-3)


def test_noise_comes_from_the_generator_or_is_given(one_step):
    latents = torch.cat([torch.randn(1, 1, 8, 12, generator=g) for g in generators(0, 1)])
    given = one_step(["hat", "bag"], latents=latents, output_type="pt").images
    assert torch.equal(given, images(one_step))
    assert not torch.allclose(given, images(one_step, seeds=(5, 6)), atol=1e-3)


def test_a_callback_sees_each_evaluation_and_can_change_it(pipe):
    seen = []

    def callback(caller, step, timestep, tensors):
        seen.append((caller, step, round(timestep.item())))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 7 else None

    made = images(pipe, num_inference_steps=5, callback_on_step_end=callback)
    assert [step for _, step, _ in seen] == list(range(8))
    assert all(caller is pipe for caller, *_ in seen)
    assert seen[0][2] == round(250 * math.log(80))
    torch.testing.assert_close(made, torch.full_like(made, 0.3))  # 0 is the mean


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_output_types_agree(channels, mode):
    pipe = pixel_pipeline(in_channels=channels, **ONE_STEP)
    options = {"num_images": 2, "class_labels": "hat"}
    made = {
        kind: pipe(**options, generator=generators(0, 1), output_type=kind).images
        for kind in ("pt", "np", "pil", "latent")
    }
    assert made["pt"].shape == (2, channels, 8, 12)
    np.testing.assert_allclose(made["np"], made["pt"].permute(0, 2, 3, 1).numpy(), atol=1e-6)
    assert {(one.mode, one.size) for one in made["pil"]} == {(mode, (12, 8))}
    array = np.asarray(made["pil"][0]).reshape(8, 12, channels)
    np.testing.assert_allclose(array, made["np"][0] * 255, atol=0.51)
    torch.testing.assert_close(pipe.transformer.scaling.restore(made["latent"]), made["pt"])
    assert torch.equal(pipe(**options, generator=generators(0, 1), output_type="pt", return_dict=False)[0], made["pt"])


def test_low_precision_makes_similar_pictures(one_step):
    half = pixel_pipeline(**ONE_STEP).to(torch.bfloat16)
    assert (images(half) - images(one_step)).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"class_labels": "shoe"}, "unknown label 'shoe'; choose from: bag, coat, hat"),
        ({"class_labels": 3}, "unknown label 3"),
        ({"height": 16}, "images of 8x12 pixels only; leave the size out"),
        ({"width": 8}, "images of 8x12 pixels only"),
        ({"num_inference_steps": 1}, "num_inference_steps is 1; give 2 or more"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; give 2 or more"),
        ({"num_images": 0}, "no image is asked for"),
        ({"num_images": 3, "generator": generators(0, 1)}, "2 generators for 3 images"),
        ({"latents": torch.zeros(1, 1, 8, 8)}, "latents have shape"),
    ],
)
def test_what_cannot_be_made_is_refused(pipe, options, sentence):
    with pytest.raises(UserError, match=sentence):
        pipe(**options)


# ------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(
    ("kind", "scheduler"), [("pipe", KarrasX0HeunScheduler), ("one_step", KarrasX0ConsistencyScheduler)]
)
def test_every_door_opens_the_same_pipeline(kind, scheduler, request, tmp_path, monkeypatch):
    pipe = request.getfixturevalue(kind)
    pipe.save_pretrained(tmp_path / "pipeline")
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    doors = [
        EPGPipeline.from_pretrained(tmp_path / "pipeline"),
        gen.load(tmp_path),
        DiffusionPipeline.from_pretrained(tmp_path / "pipeline", trust_remote_code=True),
    ]
    expected = images(pipe, num_inference_steps=3)
    for door in doors:
        assert isinstance(door, EPGPipeline)
        assert isinstance(door.scheduler, scheduler)
        door.set_progress_bar_config(disable=True)
        assert torch.equal(images(door, num_inference_steps=3), expected)
        assert door.label_names == NAMES
        assert door.native_size == (8, 12)


def test_the_folder_holds_what_readers_of_the_format_expect(one_step, tmp_path):
    one_step.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "EPGPipeline"]
    assert index["transformer"] == ["gen.pixel.transformer", "EPGTransformer2DModel"]
    assert index["scheduler"] == ["gen.pixel.scheduler", "KarrasX0ConsistencyScheduler"]
    config = json.loads((tmp_path / "transformer" / "config.json").read_text())
    assert config["prediction_type"] == "consistency"
    assert config["data_range"] == [[-3 / 7], [1.0]]
    assert (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").exists()
