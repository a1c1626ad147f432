import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vaes import certain_vae

import gen
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


def test_examples_are_the_latents_of_their_images(place, tmp_path):
    recipe = RPE2DRecipe(settings(place, tmp_path / "run"))
    recipe.to(torch.device("cpu"))
    clean, box = recipe.examples(torch.tensor([3, 0]), {"crop": torch.tensor([0, 0])})
    assert torch.equal(box, torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2))
    mirrored = recipe.examples.cache.read(torch.tensor([3]), torch.tensor([0]))
    assert torch.equal(mirrored[0][0], clean[0])
    assert recipe.labels.tolist() == [0, 0, 0, 1, 1, 1]
    drawn = recipe.draw(400, torch.Generator().manual_seed(0), 1)
    assert drawn["crop"].unique().tolist() == [0, 1, 2, 3]
    assert drawn["noise"].shape == (400, 3, 6, 8)
    first = {name: values[:4] for name, values in drawn.items()}
    assert recipe.loss(recipe.model, torch.arange(4), first)["loss"].isfinite()


def test_runs_share_a_cache_and_refuse_another(place, tmp_path):
    shared = {"latent_cache": tmp_path / "latents", "validation_steps": 0}
    train(settings(place, tmp_path / "first", **shared))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "latents").iterdir()}
    train(settings(place, tmp_path / "second", seed=1, **shared))
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "latents").iterdir()}
    with pytest.raises(UserError, match=r"holds other latents: .*crop_probability"):
        train(settings(place, tmp_path / "third", crop_probability=0.1, **shared))


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


def test_encoding_follows_the_vae(place):
    """The VAE of these tests has no spread, so its encoding can be compared."""
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first, second = (encode(certain_vae(), images, torch.Generator().manual_seed(k)) for k in (0, 1))
    torch.testing.assert_close(first, second)
