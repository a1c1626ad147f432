"""Training of the texture stage, and of all stages in a row."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pixel_runs import train_on_two
from safetensors.torch import load_file
from tiny_inpaint_models import tiny_vqvae

import gen
from gen.inpaint.presets import PRESETS, StructureShape, TextureShape
from gen.inpaint.recipe import open_network, run_of, stages_of, train_all
from gen.inpaint.texture import TextureGenerator
from gen.inpaint.texture_config import DiverseInpaintConfig, TextureConfig
from gen.inpaint.texture_losses import completed, feature_loss
from gen.inpaint.texture_recipe import TextureRecipe, frozen
from gen.train import main, train
from workbench import seeds
from workbench.data_order import global_batch
from workbench.errors import UserError
from workbench.metrics_log import read_metrics
from workbench.training import STEP, Training

SIZE = (8, 12)
SMALL = PRESETS["tiny32"]._replace(structure=StructureShape(2, (1,), 8, 2, 2, 2, 1), texture=TextureShape(1, 8, 8, 3))


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    """In place of the smallest preset."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny32", SMALL)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Fourteen gray pictures, each a slope of its own."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number in range(14):
        slope = np.add.outer(np.arange(8) * random.integers(-9, 10), np.arange(12) * random.integers(-9, 10))
        pixels = (128 + slope - slope.mean() + random.integers(-20, 20)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def vqvae(tmp_path_factory):
    """The folder of a run with a VQ-VAE of random weights."""
    folder = tmp_path_factory.mktemp("vqvae")
    tiny_vqvae().save_pretrained(folder / "vqvae")
    return folder


def options(data, output, **changes):
    return {
        "data": str(data), "output_dir": output, "resolution": "8x12", "held_out_images": 3, "masks": ["centre"],
        "train_batch_size": 4, "max_train_steps": 2, "lr_warmup_steps": 0, "lr_scheduler": "constant",
        "logging_steps": 1, "mixed_precision": "no", "device": "cpu", **changes,
    }  # fmt: skip


def settings(data, vqvae, output, **changes):
    return TextureConfig(**options(data, output, vqvae=str(vqvae), **changes))


@pytest.fixture
def recipe(data, vqvae, tmp_path):
    return TextureRecipe(settings(data, vqvae, tmp_path / "run"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- one step --------------------------------------------------------------------------------------------------------


def test_a_step_is_that_of_two_optimizers(data, vqvae, tmp_path):
    """Against the same training written out: losses of each network, and an Adam for each."""
    config = settings(data, vqvae, tmp_path / "run", adversarial_weight=0.3, adversarial_warmup_steps=4)
    by_hand = TextureRecipe(config)
    texture, discriminator = by_hand.model.texture, by_hand.model.discriminator
    judge = tiny_vqvae().requires_grad_(False)
    adams = [
        torch.optim.Adam(part.parameters(), lr=config.learning_rate, betas=(0.5, 0.999))
        for part in (texture, discriminator)
    ]
    for step in (1, 2):
        draws = by_hand.draw(4, seeds.generator(0, STEP, step), step)
        images = by_hand.examples(global_batch(11, 4, 0, step), draws)
        mask, true = draws["mask"], judge.encode(images)
        painted = texture(images * (1 - mask), mask, judge.top.vectors(true.top_ids))
        whole = images + (painted - images) * mask
        seen = judge.encode(whole)
        reconstruction = (painted - images).abs().mean()
        opinion = discriminator(whole, mask).mean()
        structural = feature_loss(seen.top, judge.top.codebook, true.top_ids)
        textural = feature_loss(seen.bottom, judge.bottom.codebook, true.bottom_ids)
        loss = reconstruction - 0.3 * step / 4 * opinion + 0.1 * structural + 0.1 * textural
        texture_gradients = torch.autograd.grad(loss, list(texture.parameters()))
        real, fake = discriminator(images, mask), discriminator(whole.detach(), mask)
        hinge = 0.5 * (1 - real).clamp(min=0).mean() + 0.5 * (1 + fake).clamp(min=0).mean()
        discriminator_gradients = torch.autograd.grad(hinge, list(discriminator.parameters()))
        for part, gradients in ((texture, texture_gradients), (discriminator, discriminator_gradients)):
            for weight, gradient in zip(part.parameters(), gradients, strict=True):
                weight.grad = gradient
        for adam in adams:
            adam.step()
    Training(TextureRecipe(config)).train()
    trained = load_file(tmp_path / "run" / "checkpoints" / "step-00000002" / "model.safetensors")
    for name, weight in by_hand.model.named_parameters():
        torch.testing.assert_close(trained[name], weight.detach(), atol=2e-5, rtol=1e-3)
    published = TextureGenerator.from_pretrained(tmp_path / "run" / "texture")
    for name, weight in published.named_parameters():
        assert torch.equal(weight, trained[f"texture.{name}"])  # raw weights, as in the paper


def test_the_adversaries_do_not_move_each_other(recipe):
    """However much the generator cares, the discriminator learns by its own loss alone, and the other way round."""
    indices, draws = torch.arange(4), recipe.draw(4, seeded(), 1)
    recipe.model.eval()  # no power iteration between the two

    def gradients(weight):
        recipe.config.adversarial_weight = weight
        recipe.model.zero_grad()
        recipe.loss(recipe.model, indices, draws)["loss"].backward()
        return [
            torch.cat([w.grad.flatten() for w in part.parameters()])
            for part in (recipe.model.texture, recipe.model.discriminator)
        ]

    (texture, discriminator), (texture_, discriminator_) = gradients(0.0), gradients(50.0)
    assert torch.equal(discriminator, discriminator_)
    assert not torch.allclose(texture, texture_)
    play = recipe.model(*[torch.rand(2, c, *s) for c, s in ((1, SIZE), (1, SIZE), (4, (2, 3)))])
    recipe.model.zero_grad()
    (play.real.sum() + play.fake.sum()).backward()
    assert all(weight.grad is None for weight in recipe.model.texture.parameters())


def test_frozen_modules_thaw():
    layer = torch.nn.Linear(2, 2)
    with frozen(layer):
        assert not layer(torch.ones(1, 2)).requires_grad
    assert layer(torch.ones(1, 2)).requires_grad


def test_a_batch_may_be_split(recipe):
    recipe.model.eval()
    indices, draws = torch.arange(8), recipe.draw(8, seeded(), 1)
    whole = recipe.loss(recipe.model, indices, draws)["loss"]
    parts = [slice(0, 4), slice(4, 8)]
    losses = [recipe.loss(recipe.model, indices[p], {k: v[p] for k, v in draws.items()})["loss"] for p in parts]
    torch.testing.assert_close(whole, sum(losses) / 2)


def test_draws_belong_to_their_samples(data, vqvae, tmp_path):
    config = settings(data, vqvae, tmp_path, adversarial_warmup_steps=10, masks=["centre", "half"])
    recipe = TextureRecipe(config)
    drawn, again = recipe.draw(6, seeded(), 3), recipe.draw(6, seeded(), 3)
    assert {len(values) for values in drawn.values()} == {6}
    assert drawn["mask"].shape == (6, 1, *SIZE)
    assert all(torch.equal(drawn[key], again[key]) for key in drawn)
    assert drawn["warmup"].tolist() == pytest.approx([0.3] * 6)
    assert recipe.draw(1, seeded(), 11)["warmup"].tolist() == [1.0]
    assert set(drawn["mask"].mean((1, 2, 3)).tolist()) == {0.25, 0.5}


def test_figures_tell_what_happens(recipe):
    figures = recipe.loss(recipe.model, torch.arange(4), recipe.draw(4, seeded(), 1))
    names = {"loss", "reconstruction", "adversarial", "discriminator", "structural", "textural", "hole_error"}
    assert set(figures) == names | {"attention_self_weight", "attention_entropy"}
    assert 0 <= figures["attention_self_weight"] <= 1
    draws = recipe.draw(4, seeded(), 1)
    images = recipe.examples(torch.arange(4), draws)
    with torch.no_grad():
        vectors = recipe.vqvae.top.vectors(recipe.vqvae.encode(images).top_ids)
        painted = recipe.model.texture(images * (1 - draws["mask"]), draws["mask"], vectors)
    hole = draws["mask"].bool()
    torch.testing.assert_close(figures["hole_error"], (painted - images).abs()[hole].mean())
    torch.testing.assert_close(completed(painted, images, draws["mask"])[~hole], images[~hole])


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_the_uninterrupted_one(data, vqvae, tmp_path):
    def run(folder, steps):
        config = settings(data, vqvae, tmp_path / folder, max_train_steps=steps, validation_steps=3, ema_decay=0.5)
        Training(TextureRecipe(config)).train()

    run("whole", 4)
    run("parts", 2)
    run("parts", 4)
    first, second = (tmp_path / name / "checkpoints" / "step-00000004" for name in ("whole", "parts"))
    for file in ("model.safetensors", "ema.safetensors"):
        weights, others = load_file(first / file), load_file(second / file)
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    losses = [[row["loss"] for row in some if "loss" in row] for some in rows]
    assert losses[0] == losses[1]


def test_training_teaches_to_fill_slopes(data, vqvae, tmp_path):
    config = settings(
        data, vqvae, tmp_path / "run", max_train_steps=60, validation_steps=60, learning_rate=2e-3,
        train_batch_size=8, adversarial_weight=0.05, logging_steps=60,
    )  # fmt: skip
    recipe = TextureRecipe(config)
    before = recipe.validate(recipe.model, tmp_path, 0)["validation_hole_psnr"]
    Training(recipe).train()
    after = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["validation_hole_psnr"]
    assert after > before + 3
    with Image.open(tmp_path / "run" / "samples" / "step-00000060.png") as picture:
        assert picture.size == (3 * 14 + 2, 3 * 10 + 2)  # three columns, three rows, and their margins


@pytest.mark.parametrize(
    "changes", [{"single_stage": True}, {"attention": "none"}, {"attention": "known"}, {"feature_weight": 0.0}], ids=str
)
def test_ablations_run(data, vqvae, tmp_path, changes):
    train(settings(data, vqvae, tmp_path / "run", max_train_steps=1, **changes))
    texture = open_network(TextureGenerator, tmp_path / "run", "texture")
    row = read_metrics(tmp_path / "run" / "metrics.jsonl")[0]
    assert (texture.structure is None) == ("single_stage" in changes)
    assert ("structural" in row) == ("feature_weight" not in changes)
    assert ("attention_entropy" in row) == (changes.get("attention") != "none" and "single_stage" not in changes)


def test_the_result_knows_what_it_belongs_to(data, vqvae, tmp_path, capsys):
    train(settings(data, vqvae, tmp_path / "run", masks=["half", "centre"], attention="known", fuse=False))
    assert "workbench train inpaint --texture" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "texture" / "config.json").read_text())
    assert config["codebook_hash"] == tiny_vqvae().codebook_hash()
    assert config["mask_kinds"] == ["half", "centre"]
    assert (config["sample_size"], config["attention"], config["fuse"]) == ([8, 12], "known", False)
    card = (tmp_path / "run" / "texture" / "README.md").read_text()
    assert "Trained on 11 images" in card
    assert "single_stage: false" in card


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vqvae": ""}, "--vqvae is missing"),
        ({"vqvae": "nowhere"}, "there is no VQ-VAE in nowhere"),
        ({"channels": 3}, "the images have 3 channels and the VQ-VAE was trained on 1"),
        ({"attention_scale": 0.0}, "--attention-scale is 0.0"),
        ({"feature_weight": -1.0}, "--feature-weight is -1.0"),
        ({"resolution": "10"}, "--resolution 10 does not fit"),
    ],
)
def test_impossible_settings_are_named(data, vqvae, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        TextureRecipe(TextureConfig(**options(data, tmp_path, **{"vqvae": str(vqvae), **changes})))


def test_two_processes_train_what_one_does(data, vqvae, tmp_path):
    train(settings(data, vqvae, tmp_path / "one"))
    assert train_on_two(settings(data, vqvae, tmp_path / "two", train_batch_size=2)) == [0, 0]
    one, two = (open_network(TextureGenerator, tmp_path / name, "texture").state_dict() for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=2e-5, rtol=1e-3)


# ---- all stages ------------------------------------------------------------------------------------------------------


def chain(data, output, **changes):
    return DiverseInpaintConfig(**options(data, output, max_train_steps=1, validation_steps=0, **changes))


def test_settings_are_handed_down_where_they_are_given(data, tmp_path):
    config = DiverseInpaintConfig(
        data=str(data), output_dir=tmp_path, resolution="8x12", masks=["half"], texture_steps=7, adam_beta2=0.9
    )
    stages = {name: stage.config for name, stage in stages_of(config).items()}
    assert list(stages) == ["vqvae", "structure", "texture"]
    assert [stage.output_dir.name for stage in stages.values()] == list(stages)
    assert [stage.max_train_steps for stage in stages.values()] == [1000, 1000, 7]
    assert {stage.adam_beta2 for stage in stages.values()} == {0.9}
    assert stages["texture"].adam_beta1 == 0.5  # its own default
    assert stages["texture"].vqvae == stages["structure"].vqvae == run_of(config, "vqvae") == str(tmp_path / "vqvae")
    assert stages["structure"].masks == ["half"]
    for stage in stages.values():
        stage.check()


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    """All stages, one step each."""
    folder = tmp_path_factory.mktemp("chain") / "run"
    train(chain(data, folder))
    return folder


def test_all_stages_make_a_pipeline(data, whole_run):
    pipe = gen.load(whole_run)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.native_size == SIZE
    mask = np.zeros((20, 30), bool)
    mask[5:8, 10:14] = True
    assert len(pipe(np.zeros((20, 30), np.uint8), mask, num_variants=2).images) == 2
    card = (whole_run / "pipeline" / "README.md").read_text()
    assert "Trained on 11 images of" in card
    assert "8x12 pixels, vqvae for 1 steps, structure for 1 steps, texture for 1 steps." in card
    assert "bits_per_token" in card
    assert (whole_run / "pipeline" / "samples.png").exists()
    settings = yaml.safe_load((whole_run / "config.yaml").read_text())
    assert settings["recipe"] == "inpaint"
    with pytest.raises(UserError, match="is finished"):
        train(chain(data, whole_run))


def test_stages_trained_elsewhere_are_joined(data, whole_run, vqvae, tmp_path):
    runs = {name: str(whole_run / name) for name in ("vqvae", "structure", "texture")}
    train(chain(data, tmp_path / "joined", **runs))
    assert gen.load(tmp_path / "joined").vqvae.codebook_hash() == gen.load(whole_run).vqvae.codebook_hash()
    assert not (tmp_path / "joined" / "texture").exists()
    with pytest.raises(UserError, match="the structure network was trained with another VQ-VAE"):
        train(chain(data, tmp_path / "other", **{**runs, "vqvae": str(vqvae)}))
    train(settings(data, whole_run / "vqvae", tmp_path / "single", single_stage=True, max_train_steps=1))
    with pytest.raises(UserError, match="trained as a single stage"):
        train(chain(data, tmp_path / "another", **{**runs, "texture": str(tmp_path / "single")}))
    with pytest.raises(UserError, match="--vqvae is missing"):
        train(chain(data, tmp_path / "more", texture=runs["texture"]))


def test_a_stopped_chain_goes_on(data, tmp_path, monkeypatch):
    def stop(config, *rest):
        if isinstance(config, TextureConfig):
            raise KeyboardInterrupt
        train(config)

    config = chain(data, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train_all(config, stop)
    trained = []
    train_all(config, lambda stage: (trained.append(type(stage)), train(stage)))
    assert trained == [TextureConfig]
    assert gen.load(tmp_path / "run").native_size == SIZE


def test_two_processes_train_all_stages(data, tmp_path):
    assert train_on_two(chain(data, tmp_path / "run", train_batch_size=2, overwrite=True)) == [0, 0]
    assert gen.load(tmp_path / "run").native_size == SIZE
    assert train_on_two(chain(data, tmp_path / "run", train_batch_size=2, overwrite=True)) == [0, 0]


def test_a_dry_run_shows_all_stages(data, tmp_path, capsys):
    words = ["--data", str(data), "--output-dir", str(tmp_path / "run"), "--resolution", "8x12"]
    main(["inpaint", *words, "--held-out-images", "3", "--dry-run"])
    told = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [stage["max_train_steps"] for stage in told] == [1000] * 3
    assert not (tmp_path / "run").exists()
