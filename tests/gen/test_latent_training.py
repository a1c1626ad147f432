import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_vaes import certain_vae

import gen
from gen.latent_cache import LatentCache
from gen.latents import encode
from gen.rpe2d.config import RPE2DConfig
from gen.rpe2d.recipe import RPE2DRecipe
from gen.train import train
from workbench.errors import UserError

SIZE = (12, 16)  # pixels; 6 x 8 latents


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images of two classes, twice the training size, and a VAE's folder."""
    folder = tmp_path_factory.mktemp("latents")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 24, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = folder / "data" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    certain_vae().save_pretrained(folder / "vae")
    return folder


def settings(place, output, **changes):
    options = {
        "data": str(place / "data"), "vae": str(place / "vae"), "output_dir": output, "resolution": "12x16",
        "patch_size": 2, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "max_positions": "8",
        "train_batch_size": 4, "max_train_steps": 2, "lr_warmup_steps": 0, "validation_images": 2,
        "validation_inference_steps": 1, "mixed_precision": "no", "device": "cpu", "random_flip": True,
    }  # fmt: skip
    return RPE2DConfig(**{**options, **changes})


def test_a_run_on_latents_leaves_a_pipeline_of_pixels(place, tmp_path):
    train(settings(place, tmp_path / "run"))
    pipe = gen.load(tmp_path / "run")
    assert (pipe.scale_factor, pipe.native_size) == (2, SIZE)
    assert tuple(pipe.transformer.config.sample_size) == (6, 8)
    assert pipe("dog", num_inference_steps=1).images[0].size == SIZE[::-1]
    larger = pipe("dog", 20, 32, 1, output_type="pt").images
    assert larger.shape == (1, 3, 20, 32)
    latents = pipe("dog", 20, 32, 1, output_type="latent").images
    assert latents.shape == (1, 3, 10, 16)
    with pytest.raises(UserError, match="10x32 pixels is not made of whole 4-pixel patches"):
        pipe("dog", 10, 32)


def latents_of(path):
    """Of the whole image, without the cache."""
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 127.5 - 1
    small = F.interpolate(pixels, SIZE, mode="bilinear", antialias=True)
    return encode(certain_vae(), small, torch.Generator())[0]


def test_examples_are_the_latents_and_labels_of_their_images(place, tmp_path):
    recipe = RPE2DRecipe(settings(place, tmp_path / "run", random_flip=False))
    recipe.to(torch.device("cpu"))
    files = [place / "data" / name / f"{number}.png" for name, number in [("dog", 3), ("cat", 0), ("cat", 4)]]
    indices = torch.tensor([4, 0, 2])
    clean, box = recipe.examples(indices, {"crop": torch.tensor([0, 0, 0])})
    expected = torch.stack([latents_of(path) for path in files])
    torch.testing.assert_close(clean, expected, atol=2e-3, rtol=2e-3)
    assert torch.equal(box, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 3))
    labels = recipe.labels[recipe.examples.kept[indices]]
    assert [recipe.label_names[label] for label in labels] == [path.parent.name for path in files]


def test_captions_follow_their_images_into_latents(place, tmp_path):
    data = tmp_path / "captioned"
    shutil.copytree(place / "data", data)
    names = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    rows = [{"file_name": name, "label_name": name[:3], "caption": f"number{Path(name).stem}"} for name in names]
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = settings(place, tmp_path / "run", data=str(data), caption_column="caption", random_flip=False)
    recipe = RPE2DRecipe(config)
    recipe.to(torch.device("cpu"))
    for index in range(len(recipe.examples)):
        clean, _ = recipe.examples(torch.tensor([index]), {"crop": torch.tensor([0])})
        (token,) = recipe.tokens[recipe.examples.kept[index]].unique()[-1:]
        number = recipe.token_names[token].removeprefix("number")
        (path,) = data.rglob(f"{number}.png")
        torch.testing.assert_close(clean[0], latents_of(path), atol=2e-3, rtol=2e-3)
    train(replace(config, output_dir=tmp_path / "whole run"))
    assert gen.load(tmp_path / "whole run")("dog", prompt="number3", num_inference_steps=1).images[0].size == SIZE[::-1]


def test_the_draws_of_a_step_fit_its_loss(place, tmp_path):
    recipe = RPE2DRecipe(settings(place, tmp_path / "run"))
    recipe.to(torch.device("cpu"))
    drawn = recipe.draw(400, torch.Generator().manual_seed(0), 1)
    assert drawn["crop"].unique().tolist() == [0, 1, 2, 3]
    assert drawn["noise"].shape == (400, 3, 6, 8)
    first = {name: values[:4] for name, values in drawn.items()}
    assert recipe.loss(recipe.model, torch.arange(4), first)["loss"].isfinite()


def test_crops_are_drawn_by_the_step_s_seed_and_given_on_the_model_s_device(place, tmp_path):
    """On the CPU, whatever the device of the step's generator, which is left as it was."""
    examples = RPE2DRecipe(settings(place, tmp_path / "run")).examples
    examples.to(torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    first = examples.draw(100, generator)["crop"]
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(examples.draw(100, generator)["crop"], first)
    assert not torch.equal(examples.draw(100, generator.manual_seed(2))["crop"], first)
    examples.device = torch.device("meta")
    clean, box = examples(torch.arange(3), {"crop": first[:3]})
    assert clean.is_meta
    assert box.is_meta


def test_runs_share_a_cache_and_refuse_another(place, tmp_path):
    shared = {"latent_cache": tmp_path / "latents", "validation_steps": 0}
    train(settings(place, tmp_path / "first", **shared))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "latents").iterdir()}
    train(settings(place, tmp_path / "second", seed=1, **shared))
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "latents").iterdir()}
    with pytest.raises(UserError, match=r"holds other latents: .*crop_probability"):
        train(settings(place, tmp_path / "third", crop_probability=0.1, **shared))


def test_latents_of_data_that_has_grown_are_refused(place, tmp_path):
    """Else every image after the new one had its neighbour's label."""
    data = shutil.copytree(place / "data", tmp_path / "data")
    shared = {"data": str(data), "latent_cache": tmp_path / "latents"}
    train(settings(place, tmp_path / "first", **shared))
    shutil.copy(data / "dog" / "5.png", data / "cat" / "1.png")
    with pytest.raises(UserError, match=r"images was 6, now 7.*give the same data.*another --latent-cache"):
        train(settings(place, tmp_path / "second", **shared))


def test_a_refused_cache_leaves_nothing_behind(place, tmp_path):
    shared = {"latent_cache": tmp_path / "latents", "validation_steps": 0}
    train(settings(place, tmp_path / "first", **shared))
    for overwrite in (False, True):  # which is of a run's own
        with pytest.raises(UserError, match=r"crop_probability was 0\.5, now 0\.1"):
            train(settings(place, tmp_path / "second", crop_probability=0.1, overwrite=overwrite, **shared))
    assert not (tmp_path / "second").exists()
    train(settings(place, tmp_path / "second", **shared))


def test_a_run_s_own_latents_are_made_anew_with_overwrite(place, tmp_path):
    run = tmp_path / "run"
    train(settings(place, run))
    with pytest.raises(UserError, match=r"crop_probability was .*--overwrite"):
        train(settings(place, run, crop_probability=0.1))
    train(settings(place, run, overwrite=True, crop_probability=0.1, dry_run=True))
    made = (run / "latents" / "index.json").stat().st_mtime_ns
    train(settings(place, run, overwrite=True))
    assert (run / "latents" / "index.json").stat().st_mtime_ns == made  # they were right
    train(settings(place, run, overwrite=True, crop_probability=0.1))
    assert LatentCache.open(run / "latents").index["identity"]["crop_probability"] == 0.1


def test_mistyped_data_is_told_before_the_vae_is_opened(place, tmp_path):
    with pytest.raises(UserError, match="no file or folder /nowhere"):
        train(settings(place, tmp_path / "run", data="/nowhere/at/all", vae="nowhere/at/all"))


def test_a_dry_run_encodes_nothing(place, tmp_path, capsys):
    train(settings(place, tmp_path / "run", dry_run=True))
    assert "examples: 6" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"resolution": "10x16"}, "10x16 is not made of whole patches of 4 pixels"),
        ({"max_positions": "3"}, "has 4 patches along an axis but --max-positions is 3"),
        ({"vae": "nowhere/at/all"}, "there is no VAE in nowhere/at/all"),
        ({"crop_aligned_positions": True}, "needs crops drawn in each step"),
    ],
)
def test_what_cannot_work_is_a_sentence(place, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        train(settings(place, tmp_path / "run", **changes))
