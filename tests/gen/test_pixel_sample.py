import numpy as np
import pytest
import torch
from test_sample import assert_same_images, pixels
from tiny_models import NAMES
from tiny_pixel_models import pixel_pipeline

import gen
from gen.sample import sample
from gen.sampling_config import SampleConfig
from workbench.errors import UserError
from workbench.records import read_rows, verify


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A diffusion model and a consistency model, saved. Not to be changed."""
    parent = tmp_path_factory.mktemp("epg")
    pixel_pipeline().save_pretrained(parent / "diffusion")
    pixel_pipeline(prediction_type="consistency").save_pretrained(parent / "consistency")
    pixel_pipeline(num_class_embeds=None, id2label=None).save_pretrained(parent / "unlabelled")
    return parent


def settings(pipeline, output, **changes):
    options = {"pipeline": str(pipeline), "output": output, "num_images": 7, "batch_size": 3, "seed": 40}
    return SampleConfig(**{**options, "device": "cpu", **changes})


def made_again(row, pipe, generator):
    """The picture that a row describes, from the pipeline."""
    names = ("guidance_scale", "num_inference_steps", "guidance_sigma_range")
    given = {name: tuple(row[name]) if name.endswith("range") else row[name] for name in names if name in row}
    label = row["label_name"] if row["label"] >= 0 else None
    return np.asarray(pipe(label, generator=generator.manual_seed(row["seed"]), **given).images[0]).astype(int)


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("consistency", {}, {"guidance_scale": 1.0, "num_inference_steps": 1}),
        ("consistency", {"num_inference_steps": 1}, {"guidance_scale": 1.0, "num_inference_steps": 1}),
        ("consistency", {"num_inference_steps": 3}, {"guidance_scale": 1.0, "num_inference_steps": 3}),
        (
            "diffusion", {"num_inference_steps": 5},
            {"guidance_scale": 1.5, "num_inference_steps": 5, "guidance_sigma_range": [0.19, 1.61]},
        ),
        (
            "diffusion",
            {"num_inference_steps": 5, "guidance_scale": 3.0, "guidance_sigma_range": (0.0, 90.0), "size": ["8x12"]},
            {"guidance_scale": 3.0, "num_inference_steps": 5, "guidance_sigma_range": [0.0, 90.0]},
        ),
        (
            "unlabelled", {"num_inference_steps": 2},
            {"guidance_scale": 1.0, "num_inference_steps": 2, "guidance_sigma_range": [0.19, 1.61]},
        ),
    ],
)  # fmt: skip
def test_each_image_is_the_one_its_row_describes(folders, tmp_path, kind, changes, expected):
    data = sample(settings(folders / kind, tmp_path / "DATA", **changes))[0]
    assert verify(data).ok
    pipe = gen.load(folders / kind)
    pipe.set_progress_bar_config(disable=True)
    rows = read_rows(data)
    for number, (row, found) in enumerate(zip(rows, pixels(data), strict=True)):
        assert {key: row[key] for key in expected} == expected
        assert row["seed"] == 40 + number
        assert row["generator"].startswith("EPGPipeline ")
        assert (row["height"], row["width"]) == (8, 12)
        np.testing.assert_allclose(found, made_again(row, pipe, torch.Generator()), atol=1)
    labels = [-1] * 7 if kind == "unlabelled" else [0, 1, 2, 0, 1, 2, 0]
    assert [row["label"] for row in rows] == labels


@pytest.mark.parametrize("kind", ["diffusion", "consistency"])
def test_images_do_not_depend_on_the_batch_size(folders, tmp_path, kind):
    one, many = (
        sample(
            settings(folders / kind, tmp_path / str(size), num_images=4, num_inference_steps=3, batch_size=size)
        )[0]
        for size in (1, 4)
    )  # fmt: skip
    assert_same_images(one, many)


def test_labels_can_be_chosen(folders, tmp_path):
    rows = read_rows(sample(settings(folders / "consistency", tmp_path / "DATA", label=["hat", "0"]))[0])
    assert [row["label_name"] for row in rows] == ["hat", "bag"] * 3 + ["hat"]
    assert set(NAMES) > {row["label_name"] for row in rows}


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("consistency", {"size": ["8"]}, "images of 8x12 pixels only"),
        ("diffusion", {"size": ["8x12", "16"]}, "images of 8x12 pixels only"),
        ("consistency", {"guidance_scale": 1.5}, "guidance_scale is 1.5; give 1"),
        ("consistency", {"guidance_sigma_range": (0.0, 1.0)}, "--guidance-sigma-range means nothing to this EPG"),
        ("diffusion", {"num_inference_steps": 1}, "num_inference_steps is 1; give 2 or more"),
        ("diffusion", {"guidance_sigma_range": (2.0, 1.0)}, "--guidance-sigma-range is 2.0 1.0; give two noise"),
        ("diffusion", {"prompt": "dark"}, "--prompt means nothing to this EPGPipeline; leave it out"),
        ("diffusion", {"position_mode": "centered"}, "--position-mode means nothing"),
        ("diffusion", {"attention_scale": "none"}, "--attention-scale means nothing"),
        ("diffusion", {"timestep_shift": "2"}, "--timestep-shift means nothing"),
        ("diffusion", {"guidance_interval": (0.0, 0.5)}, "--guidance-interval means nothing"),
        ("unlabelled", {"label": ["hat"]}, "unknown label 'hat'"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_work(folders, tmp_path, kind, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        sample(settings(folders / kind, tmp_path / "DATA", **changes))
    assert list(tmp_path.iterdir()) == []


def test_sigma_ranges_mean_nothing_to_the_other_pipeline(pipeline_folder, tmp_path):
    with pytest.raises(UserError, match="--guidance-sigma-range means nothing to this RPE2DPipeline"):
        sample(settings(pipeline_folder, tmp_path / "DATA", guidance_sigma_range=(0.1, 1.0)))
