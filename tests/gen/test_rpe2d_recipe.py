import inspect
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from scipy import stats
from tiny_models import randomise
from torch import nn

import gen
from gen.rpe2d.config import RPE2DConfig
from gen.rpe2d.recipe import RPE2DRecipe
from gen.rpe2d.transformer import RPE2DTransformer2DModel
from gen.train import train
from workbench.errors import UserError

SOURCE = (12, 18)  # stored pixels; training at 8 x 12 with crops of up to 1.5 needs just these
CLASSES = ("cat", "dog", "emu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def write_images(folder, pixels_of_class):
    for name, images in pixels_of_class.items():
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(images):
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def noise_images(count, *shape):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two colour images of noise in each of three classes."""
    folder = tmp_path_factory.mktemp("data") / "photographs"
    pixels = noise_images(6, *SOURCE, 3)
    return write_images(folder, {name: pixels[2 * k : 2 * k + 2] for k, name in enumerate(CLASSES)})


def settings(data, output, **changes):
    options = {
        "data": str(data), "output_dir": output, "resolution": "8x12", "patch_size": 2, "num_layers": 1,
        "num_attention_heads": 2, "attention_head_dim": 8, "max_positions": "6x9", "crop_max_scale": 1.5,
        "random_flip": True, "train_batch_size": 6, "max_train_steps": 2, "lr_warmup_steps": 0,
        "validation_images": 3, "validation_inference_steps": 2, "mixed_precision": "no", "device": "cpu",
    }  # fmt: skip
    return RPE2DConfig(**{**options, **changes})


@pytest.fixture
def recipe(photographs, tmp_path):
    made = RPE2DRecipe(settings(photographs, tmp_path / "run"))
    randomise(made.model)
    return made


# ------------------------------------------------------------------------------------------- the loss


@pytest.fixture
def draws(recipe):
    """Four samples: whole, whole and mirrored, cropped, cropped and mirrored; the second one's label is hidden."""
    drawn = recipe.draw(4, seeded(), 1)
    crop = [3 / 12, 2 / 18, 8 / 12, 12 / 18]
    drawn["box"] = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], crop, crop])
    drawn["flip"] = torch.tensor([False, True, False, True])
    drawn["hide_condition"] = torch.tensor([False, True, False, False])
    return drawn


def by_hand(recipe, draws):
    """What the network should see and give, for images 5, 0, 3, 3: from the definitions, one image at a time."""
    images = recipe.examples.images[[5, 0, 3, 3]] / 127.5 - 1
    whole, cropped = F.interpolate(images, (8, 12), mode="bilinear", antialias=True), images[..., 3:11, 2:14]
    x_0 = torch.stack([whole[0], whole[1].flip(-1), cropped[2], cropped[3].flip(-1)])
    x_t = torch.stack([(1 - t) * x + t * e for t, x, e in zip(draws["time"], x_0, draws["noise"], strict=True)])
    box = [[0, 0, 1, 1], [0, 0, 1, 1], [3 / 12, 2 / 18, 8 / 12, 12 / 18], [3 / 12, 4 / 18, 8 / 12, 12 / 18]]
    inputs = {
        "hidden_states": x_t,
        "timestep": 1000 * draws["time"],
        "class_labels": torch.tensor([2, 3, 1, 1]),
        "crop_box": torch.tensor(box),
        "position_ids": (draws["rows"], draws["columns"]),
    }
    return inputs, draws["noise"] - x_0


def test_the_loss_is_that_of_the_flow(recipe, draws):
    inputs, target = by_hand(recipe, draws)
    expected = (recipe.model(**inputs).sample - target).square().mean()
    loss = recipe.loss(recipe.model, torch.tensor([5, 0, 3, 3]), draws)["loss"]
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert loss > 0.5


class Listener(nn.Module):
    """Answers zero and remembers what it was asked, by the names of the transformer's arguments."""

    def forward(self, *arguments, **options):
        signature = inspect.signature(RPE2DTransformer2DModel.forward)
        self.heard = signature.bind(self, *arguments, **options).arguments
        return (torch.zeros_like(self.heard["hidden_states"]),)


def test_the_network_is_told_all_of_its_conditions(recipe, draws):
    listener = Listener()
    loss = recipe.loss(listener, torch.tensor([5, 0, 3, 3]), draws)["loss"]
    inputs, target = by_hand(recipe, draws)
    torch.testing.assert_close(loss, target.square().mean())
    for name, expected in inputs.items():
        torch.testing.assert_close(listener.heard[name], expected, atol=1e-5, rtol=0)


def test_a_batch_may_be_split(recipe):
    indices, drawn = torch.tensor([0, 1, 2, 3, 4, 5]), recipe.draw(6, seeded(), 1)
    whole = recipe.loss(recipe.model, indices, drawn)["loss"]
    parts = [slice(0, 3), slice(3, 6)]
    losses = [recipe.loss(recipe.model, indices[p], {k: v[p] for k, v in drawn.items()})["loss"] for p in parts]
    torch.testing.assert_close(whole, sum(losses) / 2)


def test_low_precision_is_close(recipe):
    drawn = recipe.draw(6, seeded(), 1)
    exact = recipe.loss(recipe.model, torch.arange(6), drawn)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = recipe.loss(recipe.model, torch.arange(6), drawn)["loss"]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


# ------------------------------------------------------------------------------------------- what is drawn


def test_draws_belong_to_their_samples(recipe):
    drawn = recipe.draw(5, seeded(), 1)
    assert {len(values) for values in drawn.values()} == {5}
    assert drawn["noise"].shape == (5, 3, 8, 12)
    assert (drawn["rows"].shape, drawn["columns"].shape) == ((5, 4), (5, 6))
    assert drawn["rows"].max() < 6
    assert drawn["columns"].max() < 9


def test_draws_follow_their_generator_alone(recipe):
    before = torch.get_rng_state()
    first, again, other = (recipe.draw(5, seeded(seed), 1) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in ("box", "noise", "time", "rows", "columns"))
    assert torch.equal(before, torch.get_rng_state())


def test_draws_have_the_documented_distributions(photographs, tmp_path):
    recipe = RPE2DRecipe(
        settings(photographs, tmp_path, class_dropout_prob=0.2, crop_probability=0.7, resolution="4x4")
    )
    drawn = recipe.draw(10_000, seeded(), 1)
    for normal in (drawn["time"].logit(), drawn["noise"][:, 0, 0, 0]):
        assert stats.kstest(normal.numpy(), "norm").pvalue > 0.001
    happens = {0.5: drawn["flip"], 0.2: drawn["hide_condition"], 0.7: drawn["box"][:, 2] < 1}
    for share, happened in happens.items():
        assert stats.binomtest(int(happened.sum()), 10_000, share).pvalue > 0.001
    for pair in ((drawn["flip"], drawn["hide_condition"]), (drawn["rows"][:, 0], drawn["columns"][:, 0])):
        assert stats.chi2_contingency(stats.contingency.crosstab(*pair).count).pvalue > 0.001


def test_what_is_turned_off_is_not_drawn(photographs, tmp_path):
    config = settings(
        photographs, tmp_path, random_flip=False, class_dropout_prob=0.0, crop_probability=0.0, max_positions="4x6"
    )
    drawn = RPE2DRecipe(config).draw(50, seeded(), 1)
    assert not drawn["flip"].any()
    assert not drawn["hide_condition"].any()
    assert torch.equal(drawn["box"], torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(50, 4))
    assert torch.equal(drawn["rows"], torch.arange(4).expand(50, 4))  # the fixed grid: no randomness left
    assert torch.equal(drawn["columns"], torch.arange(6).expand(50, 6))


def test_positions_of_crops_can_follow_the_crop(photographs, tmp_path):
    config = settings(photographs, tmp_path, crop_aligned_positions=True, crop_probability=1.0, random_flip=False)
    drawn = RPE2DRecipe(config).draw(300, seeded(), 1)
    close = drawn["box"][:, 2] < 0.7  # two thirds of six rows: as many as a grid needs
    assert close.any()
    assert (drawn["rows"][close].diff(dim=-1).float().mean(-1) < 1.7).all()
    top = drawn["box"][:, 0]
    assert drawn["rows"][top > 0.25, 0].min() > drawn["rows"][top < 0.05, 0].min()
    mirrored = RPE2DRecipe(replace(config, random_flip=True)).draw(300, seeded(), 1)
    left_half = mirrored["flip"] & (drawn["box"][:, 1] > 0.2)  # of the mirrored picture
    assert left_half.any()
    assert mirrored["columns"][left_half, 0].max() < drawn["columns"][left_half, 0].max()


@pytest.mark.parametrize(("step", "most"), [(1, 4), (50, 5), (99, 5), (100, 6), (500, 6)])
def test_the_range_widens_from_the_training_grid(photographs, tmp_path, step, most):
    recipe = RPE2DRecipe(settings(photographs, tmp_path, position_annealing_steps=100))
    assert recipe.draw(200, seeded(), step)["rows"].max() == most - 1


def test_a_run_goes_on_from_another_resolution(photographs, tmp_path):
    train(settings(photographs, tmp_path / "low", max_train_steps=1))
    second = settings(photographs, tmp_path / "high", resolution="12x18", init_from=str(tmp_path / "low"))
    model, low = RPE2DRecipe(second).model, gen.load(tmp_path / "low").transformer
    assert all(torch.equal(weight, low.state_dict()[name]) for name, weight in model.state_dict().items())
    assert tuple(model.config.sample_size) == (12, 18)
    train(second)
    assert gen.load(tmp_path / "high")("emu", num_inference_steps=1).images[0].size == (18, 12)


# ------------------------------------------------------------------------------------------- data and model


def test_images_and_labels_are_those_of_the_folder(recipe, photographs):
    assert recipe.examples.images.dtype == torch.uint8
    np.testing.assert_array_equal(recipe.examples.images.permute(0, 2, 3, 1), noise_images(6, *SOURCE, 3))
    assert recipe.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (recipe.num_examples, recipe.num_classes) == (6, 3)
    assert recipe.model.config.id2label == dict(enumerate(CLASSES))


@pytest.mark.parametrize(("stored", "closest"), [((16, 24), 2.0), ((12, 18), 1.875), ((8, 12), 1.25), ((4, 6), 1.0)])
def test_crops_do_not_magnify_the_source(tmp_path, stored, closest):
    data = write_images(tmp_path / "data", {name: noise_images(2, *stored) for name in CLASSES})
    recipe = RPE2DRecipe(settings(data, tmp_path / "run", crop_max_scale=2.0, crop_probability=1.0))
    assert recipe.examples.max_scale == pytest.approx(closest)
    assert recipe.examples.images.shape == (6, 1, *stored)
    assert recipe.draw(200, seeded(), 1)["box"][:, 2].min() >= 1 / closest - 1e-6


def test_classes_can_be_chosen(photographs, tmp_path):
    recipe = RPE2DRecipe(settings(photographs, tmp_path, classes=["emu", "cat"]))
    assert recipe.labels.tolist() == [1, 1, 0, 0]
    assert recipe.model.config.id2label == {0: "emu", 1: "cat"}


def test_unlabelled_images_train_the_unconditional_path(tmp_path):
    names = ["cat", None, "dog", "dog", "cat"]
    write_images(tmp_path / "data", {"images": noise_images(len(names), *SOURCE)})
    rows = [{"file_name": f"images/{k}.png", "label_name": name} for k, name in enumerate(names)]
    (tmp_path / "data" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = RPE2DRecipe(settings(tmp_path / "data", tmp_path / "run"))
    assert recipe.labels.tolist() == [0, 2, 1, 1, 0]
    assert recipe.loss(recipe.model, torch.arange(3), recipe.draw(3, seeded(), 1))["loss"].isfinite()


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """Dark cats on grass and bright ones at sea, dogs alike; the caption, not the label, says how bright."""
    data = tmp_path_factory.mktemp("captioned")
    levels = {"grass": 30, "sea": 220}
    names = [(label, place) for label in ("cat", "dog") for place in levels for _ in range(4)]
    pixels = np.stack([np.full((8, 8), levels[place], np.uint8) for _, place in names])
    write_images(data, {"images": pixels})
    rows = [
        {"file_name": f"images/{k}.png", "label_name": label, "caption": f"A {label} on the {place}"}
        for k, (label, place) in enumerate(names)
    ]
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def test_captions_are_learned_beside_the_label(captioned, tmp_path):
    config = settings(
        captioned, tmp_path / "run", resolution="8", max_positions="8", caption_column="caption", random_flip=False,
        max_vocabulary=6, train_batch_size=16, max_train_steps=200, learning_rate=1e-2, ema_decay=0.9,
        validation_steps=0, class_dropout_prob=0.0, crop_probability=0.0,
    )  # fmt: skip
    recipe = RPE2DRecipe(config)
    assert recipe.token_names == ("a", "on", "the", "cat", "dog", "grass")  # no room for the sea
    assert [recipe.token_names[k] for k in recipe.tokens[0] if k >= 0] == ["a", "cat", "on", "the", "grass"]
    train(config)
    pipe = gen.load(tmp_path / "run")
    images = pipe(
        ["cat"] * 8, num_inference_steps=8, output_type="pt", generator=torch.Generator().manual_seed(0),
        prompt=["a cat on the grass"] * 4 + ["a cat on the"] * 4,
    ).images  # fmt: skip
    dark, bright = images.mean((1, 2, 3)).chunk(2)
    assert dark.max() < 0.3
    assert bright.min() > 0.7


def test_hidden_conditions_hide_the_tokens_too(captioned, tmp_path):
    recipe = RPE2DRecipe(settings(captioned, tmp_path, resolution="8", max_positions="8", caption_column="caption"))
    drawn = recipe.draw(4, seeded(), 1)
    drawn["hide_condition"] = torch.tensor([True, False, True, False])
    listener = Listener()
    recipe.loss(listener, torch.tensor([0, 0, 4, 4]), drawn)
    tokens = listener.heard["token_ids"]
    assert (tokens[[0, 2]] == -1).all()
    assert torch.equal(tokens[[1, 3]], recipe.tokens[[0, 4]])


def test_images_without_any_label(tmp_path):
    write_images(tmp_path / "data", {"images": noise_images(3, *SOURCE)})
    recipe = RPE2DRecipe(settings(tmp_path / "data" / "images", tmp_path / "run"))
    assert recipe.num_classes == recipe.model.config.num_classes == 0
    assert recipe.loss(recipe.model, torch.arange(3), recipe.draw(3, seeded(), 1))["loss"].isfinite()


def test_the_first_weights_follow_the_seed_alone(photographs, tmp_path):
    torch.manual_seed(1)
    first = RPE2DRecipe(settings(photographs, tmp_path)).model.state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = RPE2DRecipe(settings(photographs, tmp_path)).model.state_dict()
    assert torch.equal(before, torch.get_rng_state())
    other = RPE2DRecipe(settings(photographs, tmp_path, seed=1)).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["patch_embed.weight"], other["patch_embed.weight"])


def test_images_smaller_than_a_patch_are_refused(tmp_path):
    data = write_images(tmp_path / "data", {name: noise_images(2, 3, 9) for name in CLASSES})
    with pytest.raises(UserError, match="at most 3x4 pixels, less than a patch of 4"):
        RPE2DRecipe(settings(data, tmp_path / "run", patch_size=4))


def test_a_head_that_cannot_be_split_is_refused(photographs, tmp_path):
    with pytest.raises(UserError, match=r"--attention-head-dim is 6; .* multiple of 4"):
        RPE2DRecipe(settings(photographs, tmp_path, attention_head_dim=6))


# ------------------------------------------------------------------------------------------- a whole run


def test_a_run_leaves_a_pipeline_with_its_card(photographs, tmp_path):
    train(settings(photographs, tmp_path / "run", validation_steps=1))
    run = tmp_path / "run"
    assert [path.name for path in sorted((run / "samples").iterdir())] == ["step-00000001.png", "step-00000002.png"]
    with Image.open(run / "samples" / "step-00000002.png") as picture:
        assert picture.size == (3 * 14 + 2, 8 + 4)  # three images, two pixels around each
    card = (run / "pipeline" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "diffusers"
    for part in ("6 images", "2 steps of 6 images", "cat, dog, emu", "samples.png", "attention_head_dim: 8"):
        assert part in card
    assert not [path for path in (run / "pipeline").rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]
    pipe = gen.load(run)
    assert pipe("emu", num_inference_steps=2).images[0].size == (12, 8)


def test_validation_shows_the_same_noise_every_time(recipe, tmp_path):
    for step in (1, 2):
        recipe.validate(recipe.model, tmp_path, step)
    first, second = (path.read_bytes() for path in sorted(tmp_path.glob("step-*.png")))
    assert first == second


def test_training_teaches_the_labels(tmp_path):
    """Dark and bright classes: each label then generates its own brightness, at a larger size of another shape too."""
    levels = np.linspace(0, 40, 8).astype(np.uint8)[:, None, None]
    pixels = np.broadcast_to(levels, (8, 8, 8))
    data = write_images(tmp_path / "data", {"dark": pixels, "bright": 255 - pixels})
    train(
        settings(
            data, tmp_path / "run", resolution="8", max_positions="8", max_train_steps=250, train_batch_size=16,
            learning_rate=1e-2, ema_decay=0.9, validation_steps=0, logging_steps=25,
        )
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.3 * rows[0]["loss"]
    pipe = gen.load(tmp_path / "run")
    for size in ((8, 8), (12, 16)):
        images = pipe(
            ["dark"] * 8 + ["bright"] * 8, *size, num_inference_steps=8, output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
        dark, bright = images.mean((1, 2, 3)).chunk(2)
        assert dark.max() < 0.3
        assert bright.min() > 0.7


@pytest.mark.parametrize("classes", [{"cat": 4}, {"cat": 4, "dog": 1}], ids=["one class", "a class of one image"])
def test_too_few_classes_are_a_sentence(tmp_path, classes):
    write_images(tmp_path / "data", {name: noise_images(count, *SOURCE) for name, count in classes.items()})
    with pytest.raises(UserError, match=r"at least 2 are needed|too few images of dog"):
        RPE2DRecipe(settings(tmp_path / "data", tmp_path / "run"))


def test_muon_trains_the_blocks_and_resumes_exactly(photographs, tmp_path):
    options = {
        "optimizer": "muon", "max_train_steps": 4, "checkpointing_steps": 2, "checkpoints_total_limit": 9,
        "validation_steps": 0, "logging_steps": 1,
    }  # fmt: skip
    recipe = RPE2DRecipe(settings(photographs, tmp_path / "whole", **options))
    names = {id(weight): name for name, weight in recipe.model.named_parameters()}
    assert {names[id(weight)].split(".", 2)[2] for weight in recipe.hidden_matrices()} == {
        "attention.to_qkv.weight", "attention.to_out.weight", "mlp.0.weight", "mlp.2.weight"
    }  # fmt: skip
    train(recipe.config)
    train(settings(photographs, tmp_path / "parts", **options))
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-00000004")
    (tmp_path / "parts" / "finished.json").unlink()
    train(settings(photographs, tmp_path / "parts", **options))
    whole, parts = (gen.load(tmp_path / name).transformer.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())


def test_muon_and_fp16_are_refused(photographs, tmp_path):
    with pytest.raises(UserError, match="muon does not work with --mixed-precision fp16"):
        train(settings(photographs, tmp_path / "run", optimizer="muon", mixed_precision="fp16"))
