import json
import math
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import dynamic_modules_utils
from tiny_models import NAMES, TINY, generators, pipeline_of, random_pipeline

import gen
from gen.rpe2d.extrapolation import extrapolate
from gen.rpe2d.pipeline import RPE2DPipeline
from gen.rpe2d.positions import inference_positions
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from workbench.errors import UserError

NATIVE, LARGE, SMALL = (8, 12), (16, 24), (4, 12)  # 24, 96 and 12 patches
IMAGE_OF_LABEL = torch.tensor([0.4, -0.5, 0.9, 0.1])  # the last is for "no label"


class KnownFlow(RPE2DTransformer2DModel):
    """Every label has one image, of one gray: the exact velocity is (x - image) / sigma. Notes what it was asked."""

    def forward(self, hidden_states, timestep, class_labels=None, **inputs):
        self.calls.append({"timestep": timestep, "labels": class_labels, **inputs})
        image = IMAGE_OF_LABEL[class_labels].view(-1, 1, 1, 1)
        return ((hidden_states - image) / (timestep.view(-1, 1, 1, 1) / 1000),)


@pytest.fixture
def known():
    model = KnownFlow(**TINY)
    model.calls = []
    return pipeline_of(model)


@pytest.fixture(scope="module")
def pipe():
    return random_pipeline()


def images(pipe, *arguments, **options):
    return pipe(*arguments, **{"num_inference_steps": 3, "output_type": "latent", **options}).images


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


# ------------------------------------------------------------------------------------------- the flow


@pytest.mark.parametrize("size", [NATIVE, LARGE])
def test_euler_follows_a_straight_flow_exactly(known, size):
    path, start = [], noise(2, 1, *size)
    final = images(
        known, [0, 1], *size, latents=start, num_inference_steps=4,
        callback_on_step_end=lambda pipe, step, timestep, tensors: path.append(tensors["latents"]),
    )  # fmt: skip
    target = IMAGE_OF_LABEL[:2].view(2, 1, 1, 1).expand(2, 1, *size)
    torch.testing.assert_close(final, target.contiguous())
    for sigma, latents in zip(known.scheduler.sigmas[1:], path, strict=True):
        torch.testing.assert_close(latents, (1 - sigma) * target + sigma * start)


@pytest.mark.parametrize(
    ("size", "shift", "factor"),
    [
        (NATIVE, "auto", 1.0),
        (LARGE, "auto", 2.0),
        (SMALL, "auto", math.sqrt(0.5)),
        (LARGE, None, 1.0),
        (NATIVE, 3.0, 3.0),
        (SMALL, 1.5, 1.5),
    ],
)
def test_noise_levels_follow_the_formula(known, size, shift, factor):
    seen = []
    images(
        known, 0, *size, num_inference_steps=7, timestep_shift=shift,
        callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append((step, timestep.item())),
    )  # fmt: skip
    plain = [1 - k / 7 for k in range(7)]
    expected = [factor * sigma / (1 + (factor - 1) * sigma) for sigma in plain]
    np.testing.assert_allclose(known.scheduler.sigmas, [*expected, 0], atol=1e-6)
    np.testing.assert_allclose(
        [call["timestep"].item() / 1000 for call in known.transformer.calls], expected, atol=1e-6
    )
    assert [step for step, _ in seen] == list(range(7))
    np.testing.assert_allclose([timestep / 1000 for _, timestep in seen], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "scale", "factor"),
    [
        (NATIVE, "auto", 1.0),
        (LARGE, "auto", math.sqrt(math.log(96) / math.log(24))),
        (SMALL, "auto", 1.0),
        (LARGE, None, 1.0),
        (NATIVE, 1.3, 1.3),
    ],
)
def test_attention_is_scaled_by_the_entropy_rule(known, size, scale, factor):
    images(known, 0, *size, attention_scale=scale)
    for call in known.transformer.calls:
        assert (call["attention_scale"] or 1.0) == pytest.approx(factor)


def test_the_scheduler_of_a_run_does_not_depend_on_the_run_before(pipe):
    first = images(pipe, [0], *SMALL, generator=generators(1), num_inference_steps=4)
    images(pipe, [0], *LARGE, generator=generators(2))
    assert torch.equal(first, images(pipe, [0], *SMALL, generator=generators(1), num_inference_steps=4))


# ------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize("mode", ["equispaced", "isotropic", "centered", "random"])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_one_set_of_positions_for_the_whole_trajectory(known, mode, guidance):
    images(known, [0, 1], *SMALL, position_mode=mode, guidance_scale=guidance, generator=generators(1, 2))
    first, *others = [call["position_ids"] for call in known.transformer.calls]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    if mode != "random":
        expected = inference_positions((2, 6), (9, 14), mode)
        assert all(torch.equal(a.flatten(), b) for a, b in zip(first, expected, strict=True))
    elif guidance > 1:  # both halves of the batch
        assert all(torch.equal(*axis.chunk(2)) for axis in first)


def test_drawn_positions_belong_to_the_image_not_to_the_batch():
    pipe = random_pipeline(inference_positions="random")
    together = images(pipe, [0, 1, 2], *SMALL, generator=generators(7, 8, 9), guidance_scale=1.5)
    alone = images(pipe, [1], *SMALL, generator=generators(8), guidance_scale=1.5)
    torch.testing.assert_close(together[1:2], alone)
    other = images(pipe, [1], *SMALL, generator=generators(8), guidance_scale=1.5, position_mode="equispaced")
    assert (alone - other).abs().max() > 0.01
    start = noise(1, 1, *SMALL).expand(2, -1, -1, -1)
    first, second = images(pipe, [1, 1], *SMALL, latents=start, generator=torch.Generator().manual_seed(0))
    assert (first - second).abs().max() > 0.01  # each image draws its own


# ------------------------------------------------------------------------------------------- guidance and labels


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5, 4.0])
def test_guidance_is_linear_in_the_velocities(known, guidance):
    final = images(known, [0, 1], guidance_scale=guidance, generator=generators(1, 2))
    nothing = IMAGE_OF_LABEL[3]
    expected = nothing + guidance * (IMAGE_OF_LABEL[:2] - nothing)
    torch.testing.assert_close(final, expected.view(2, 1, 1, 1).expand(2, 1, *NATIVE).contiguous(), atol=1e-4, rtol=0)


def test_guidance_costs_nothing_where_it_changes_nothing(known):
    images(known, [0, 1])
    images(known, num_images=2, guidance_scale=3.0)
    assert [call["labels"].tolist() for call in known.transformer.calls] == [[0, 1]] * 3 + [[3, 3]] * 3


def test_guidance_keeps_to_its_interval(known):
    """Noise levels of four steps at the training size: 1, 0.75, 0.5, 0.25."""
    images(known, [0], num_inference_steps=4, guidance_scale=3.0, guidance_interval=(0.5, 0.75))
    assert [len(call["labels"]) for call in known.transformer.calls] == [1, 2, 2, 1]


def test_a_prompt_guides_and_belongs_to_its_image():
    pipe = random_pipeline(token_names=("grass", "red hat", "sea"))
    start = noise(1, 1, *NATIVE).expand(3, -1, -1, -1)
    plain, grass, hat = images(pipe, [0, 0, 0], latents=start, prompt=["", "sea grass", ["Red hat"]])
    assert (plain - grass).abs().max() > 0.01
    assert (grass - hat).abs().max() > 0.01
    torch.testing.assert_close(plain, images(pipe, [0], latents=start[:1])[0])
    torch.testing.assert_close(grass, images(pipe, [0], latents=start[:1], prompt="grass, sea")[0])
    torch.testing.assert_close(hat, images(pipe, [0], latents=start[:1], prompt="Red hat")[0])
    with pytest.raises(UserError, match="unknown token 'red'"):
        pipe("bag", prompt="red sea")
    guided = images(pipe, num_images=1, latents=start[:1], prompt="sea", guidance_scale=3.0)[0]
    assert (guided - images(pipe, num_images=1, latents=start[:1], prompt="sea")[0]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("tokens", "prompt", "sentence"),
    [
        (("grass", "sea"), "gras", "unknown token 'gras' in the prompt; known are, for example: grass"),
        ((), "sea", "trained without captions"),
        (("sea",), ["sea", "sea"], "2 prompts for 1 images"),
    ],
)
def test_a_prompt_that_means_nothing_is_refused(tokens, prompt, sentence):
    with pytest.raises(UserError, match=sentence):
        random_pipeline(token_names=tokens)("bag", prompt=prompt)


@pytest.mark.parametrize("rule", ["extrapolation", "interpolation", "vision_yarn", "dype_ntk"])
def test_rules_reach_the_network_and_go_beyond_the_range(known, rule):
    images(known, 0, 24, 32, position_mode=rule, num_inference_steps=2, attention_scale=None)  # 12 x 16 of 9 x 14
    calls = known.transformer.calls
    for call in calls:
        expected = extrapolate(rule, (12, 16), (9, 14), 8, 100.0, call["timestep"].item() / 1000)
        assert torch.equal(call["position_ids"][0], expected.rows)
        assert call["attention_scale"] == pytest.approx(expected.logit_scale)  # YaRN's own; 1 for the others
        if expected.frequencies:
            torch.testing.assert_close(call["frequencies"][1], expected.frequencies[1])
    if rule == "dype_ntk":
        assert not torch.equal(calls[0]["frequencies"][0], calls[1]["frequencies"][0])


def test_yarns_factor_takes_the_place_of_the_automatic_one(pipe):
    own = (0.1 * math.log(16 / 14) + 1) ** 2
    assert pipe.size_factors((8, 32), "yarn", "auto", None) == pytest.approx((own, 1.0))
    assert pipe.size_factors((8, 32), "yarn", 1.5, None) == pytest.approx((1.5 * own, 1.0))
    entropy = math.sqrt(math.log(64) / math.log(24))
    assert pipe.size_factors((8, 32), "interpolation", "auto", "auto") == pytest.approx((entropy, math.sqrt(64 / 24)))


def test_guidance_of_one_is_the_conditional_path(pipe):
    start = noise(1, 1, *NATIVE)
    plain = images(pipe, [2], latents=start)
    near = images(pipe, [2], latents=start, guidance_scale=1 + 1e-6)
    torch.testing.assert_close(plain, near, atol=1e-4, rtol=0)
    assert (plain - images(pipe, [2], latents=start, guidance_scale=2.0)).abs().max() > 0.01
    assert (plain - images(pipe, latents=start)).abs().max() > 0.01


def test_labels_by_name_and_by_number(pipe):
    assert pipe.label_names == NAMES
    start = noise(2, 1, *NATIVE)
    expected = images(pipe, [1, 1], latents=start)
    for labels in (["coat", "coat"], ["coat", 1]):
        assert torch.equal(images(pipe, labels, latents=start), expected)
    for label in ("coat", 1):
        assert torch.equal(images(pipe, label, num_images=2, latents=start), expected)
    assert len(images(pipe, "hat")) == 1
    assert len(images(pipe, num_images=3)) == 3


@pytest.mark.parametrize("label", ["shoe", 3, -1, "1"])
def test_an_unknown_label_is_refused(pipe, label):
    with pytest.raises(UserError, match=rf"unknown label {label!r}.*bag, coat, hat"):
        pipe([0, label])


def test_labels_without_names_or_of_none():
    numbered = random_pipeline(id2label=None)
    assert numbered.label_names == ()
    assert images(numbered, [2]).shape == (1, 1, *NATIVE)
    with pytest.raises(UserError, match="choose from: 0 to 2"):
        numbered(["bag"])
    unlabelled = random_pipeline(num_classes=0, id2label=None)
    assert images(unlabelled, num_images=2, guidance_scale=1.5).shape == (2, 1, *NATIVE)
    with pytest.raises(UserError, match="no labels"):
        unlabelled(0)


def test_names_that_look_like_numbers_are_names():
    digits = random_pipeline(id2label={0: "7", 1: "0", 2: "1"})
    assert digits.label_ids(["7", "0", 0, 2]).tolist() == [0, 1, 0, 2]


# ------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_an_image_is_the_same_alone_and_in_a_batch(pipe, guidance):
    together = images(pipe, [0, 1, 2, 0], generator=generators(3, 4, 5, 6), guidance_scale=guidance)
    for k in range(4):
        alone = images(pipe, [k % 3], generator=generators(3 + k), guidance_scale=guidance)
        torch.testing.assert_close(together[k : k + 1], alone, atol=1e-4, rtol=0)


def test_noise_comes_from_the_generator_or_is_given(pipe):
    drawn = images(pipe, [0, 1], generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn, images(pipe, [0, 1], latents=noise(2, 1, *NATIVE)))
    before = torch.get_rng_state()
    images(pipe, [0], generator=generators(1))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(images(pipe, [0]), images(pipe, [0]))


def test_a_callback_can_change_the_latents(pipe):
    final = images(pipe, [0], callback_on_step_end=lambda *_: {"latents": torch.full((1, 1, *NATIVE), 0.25)})
    assert torch.equal(final, torch.full((1, 1, *NATIVE), 0.25))


# ------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_output_types_agree(channels, mode):
    pipe, start = random_pipeline(in_channels=channels), noise(2, channels, *LARGE)
    latent, pt, array, pictures = (
        images(pipe, [0, 1], *LARGE, latents=start, output_type=kind) for kind in ("latent", "pt", "np", "pil")
    )
    assert latent.shape == pt.shape == (2, channels, *LARGE)
    assert latent.abs().max() > 1  # so that clamping is tested
    torch.testing.assert_close(pt, (latent.clamp(-1, 1) + 1) / 2)
    np.testing.assert_allclose(array, pt.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    for picture, pixels in zip(pictures, array, strict=True):
        assert (picture.mode, picture.size) == (mode, LARGE[::-1])
        np.testing.assert_allclose(np.asarray(picture).reshape(pixels.shape), pixels * 255, atol=0.51)
    assert torch.equal(pipe([0, 1], *LARGE, 3, latents=start, output_type="pt", return_dict=False)[0], pt)


def test_the_training_size_is_the_default(pipe):
    assert images(pipe, [0]).shape == (1, 1, *NATIVE)
    assert images(pipe, [0], height=6).shape == (1, 1, 6, 12)


def test_low_precision_makes_pictures():
    pipe = random_pipeline().to(torch.bfloat16)
    assert images(pipe, [0], generator=generators(1)).dtype == torch.bfloat16
    assert images(pipe, [0], output_type="pil", guidance_scale=1.5)[0].size == NATIVE[::-1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"height": 9}, "9x12 pixels .* whole 2-pixel patches"),
        ({"width": 30}, "15 patches .* trained on 14 positions"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; give 1 or more"),
        ({"generator": generators(1, 2)}, "2 generators for 1 images"),
        ({"latents": torch.zeros(1, 1, 12, 8)}, r"shape \(1, 1, 12, 8\); give \(1, 1, 8, 12\)"),
    ],
)
def test_what_cannot_be_made_is_refused(pipe, options, sentence):
    with pytest.raises(UserError, match=sentence):
        pipe([0], **options)


# ------------------------------------------------------------------------------------------- saving


def index_of(folder):
    index = json.loads((folder / "model_index.json").read_text())
    return {key: value for key, value in index.items() if key not in ("_diffusers_version", "_name_or_path")}


def test_every_door_opens_the_same_pipeline(pipe, pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    doors = [
        gen.load(pipeline_folder),
        RPE2DPipeline.from_pretrained(pipeline_folder),
        DiffusionPipeline.from_pretrained(pipeline_folder, trust_remote_code=True),
    ]
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(pipeline_folder)
    expected = images(pipe, ["hat", "bag"], *LARGE, generator=generators(1, 2), guidance_scale=1.5)
    for number, door in enumerate(doors):
        door.set_progress_bar_config(disable=True)
        assert isinstance(door, RPE2DPipeline)
        assert torch.equal(
            images(door, ["hat", "bag"], *LARGE, generator=generators(1, 2), guidance_scale=1.5), expected
        )
        door.save_pretrained(tmp_path / str(number))
        assert index_of(tmp_path / str(number)) == index_of(pipeline_folder)


def test_the_folder_holds_what_readers_of_the_format_expect(pipeline_folder):
    files = sorted(path.relative_to(pipeline_folder).as_posix() for path in pipeline_folder.rglob("*.*"))
    assert files == [
        "model_index.json", "pipeline.py", "scheduler/scheduler_config.json", "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    assert index_of(pipeline_folder) == {
        "_class_name": ["pipeline", "RPE2DPipeline"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "transformer": ["gen.rpe2d.transformer", "RPE2DTransformer2DModel"],
        "vae": [None, None],
    }
