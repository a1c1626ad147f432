"""Training of the VQ-VAE and of the structure generator: what a step computes, runs, and what they refuse."""

import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pixel_runs import train_on_two
from safetensors.torch import load_file
from scipy import stats

from gen.inpaint.config import StructureConfig, VQVAEConfig
from gen.inpaint.examples import InpaintExamples
from gen.inpaint.presets import PRESETS, Preset, StructureShape, TextureShape, VQVAEShape
from gen.inpaint.structure import StructureModel
from gen.inpaint.structure_recipe import StructureRecipe
from gen.inpaint.vqvae import HierarchicalVQVAE, open_vqvae
from gen.inpaint.vqvae_recipe import VQVAERecipe
from gen.train import train
from workbench.errors import UserError
from workbench.metrics_log import read_metrics

SMALL = Preset(
    VQVAEShape(1, 8, 4, 4, 12), StructureShape(2, (1, 2), 8, 2, 2, 2, 1), TextureShape(1, 8, 8, 2)
)  # fmt: skip
OPTIONS = {
    "resolution": "8x12", "train_batch_size": 4, "max_train_steps": 3, "lr_warmup_steps": 0, "logging_steps": 1,
    "validation_steps": 0, "held_out_images": 4, "mixed_precision": "no", "device": "cpu", "lr_scheduler": "constant",
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny32", SMALL)


def write_images(folder, count=16, size=(12, 18), seed=0):
    """Gray blobs without labels."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(seed)
    for number in range(count):
        pixels = np.kron(draws.integers(0, 256, (3, 3)), np.ones((size[0] // 3, size[1] // 3)))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images")


def vqvae_config(data, output, **changes):
    return VQVAEConfig(data=str(data), output_dir=output, **{**OPTIONS, **changes})


@pytest.fixture(scope="module")
def vqvae_run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vqvae"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny32", SMALL)
        train(vqvae_config(data, folder))
    return folder


@pytest.fixture
def structure_config(data, vqvae_run):
    def make(output, **changes):
        return StructureConfig(
            **{"data": str(data), "vqvae": str(vqvae_run), "output_dir": output, **OPTIONS, **changes}
        )

    return make


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def published(run, stage):
    return load_file(run / stage / "diffusion_pytorch_model.safetensors")


def assert_close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name, **tolerance)


# ------------------------------------------------------------------------------------------- examples


def test_images_are_set_aside_where_there_is_no_other_split(data, tmp_path):
    examples = InpaintExamples(vqvae_config(data, tmp_path))
    assert (len(examples), examples.validation.shape) == (12, (4, 1, 8, 12))
    assert (examples.channels, examples.label_names) == (1, ())
    whole = {"box": torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(12, 4), "flip": torch.zeros(12, dtype=torch.bool)}
    kept = examples(torch.arange(12), whole)
    assert kept.min() >= -1
    assert kept.max() <= 1
    assert torch.cdist(kept.flatten(1), examples.validation.flatten(1)).min() > 0.1


def test_another_split_is_for_validation(tmp_path):
    for split, count, seed in (("train", 6, 1), ("test", 5, 2)):
        write_images(tmp_path / "data" / split / "things", count, seed=seed)
    examples = InpaintExamples(vqvae_config(tmp_path / "data", tmp_path / "run"))
    assert (len(examples), len(examples.validation)) == (6, 4)  # one class will do
    more = InpaintExamples(vqvae_config(tmp_path / "data", tmp_path / "run", held_out_images=64))
    assert len(more.validation) == 5


def test_too_few_images(tmp_path):
    data = write_images(tmp_path / "data", 5)
    with pytest.raises(UserError, match=r"has 5 images, of which 4 would be set aside .* fewer --held-out-images"):
        InpaintExamples(vqvae_config(data, tmp_path / "run"))


def test_crops_are_of_pixels_that_are_there(data, tmp_path):
    examples = InpaintExamples(vqvae_config(data, tmp_path, crop_probability=1.0, crop_max_upsampling=1.0))
    assert examples.images.shape[2:] == (12, 18)
    assert examples.max_scale == 1.5
    draws = examples.draw(2000, seeded())
    assert draws["box"][:, 2].min() >= 1 / 1.5 - 1e-6
    assert not draws["flip"].any()
    assert examples(torch.zeros(3, dtype=torch.int64), {k: v[:3] for k, v in draws.items()}).shape == (3, 1, 8, 12)


# ------------------------------------------------------------------------------------------- the VQ-VAE


def test_a_vqvae_run(vqvae_run):
    model = open_vqvae(vqvae_run)
    assert (model.config.channels, model.config.num_codes, model.factor) == (1, 12, 4)
    rows = list(read_metrics(vqvae_run / "metrics.jsonl"))
    for row in rows:
        assert row["loss"] == pytest.approx(row["reconstruction"] + 0.25 * row["commitment"], rel=1e-5)
        assert 1 <= row["top_perplexity"] <= 12.001
        assert 1 <= row["bottom_live_codes"] <= 12
    assert "THIS_RUN" in (vqvae_run / "vqvae" / "README.md").read_text()


def test_the_vqvae_s_loss_is_of_what_it_gives_back(data, tmp_path):
    recipe = VQVAERecipe(vqvae_config(data, tmp_path, commitment_weight=0.5))
    recipe.to(torch.device("cpu"))
    indices, drawn = torch.tensor([3, 0, 5]), recipe.draw(3, seeded(), 1)
    drawn["without_texture"] = torch.tensor([False, True, False])
    recipe.model.eval()
    found = recipe.model.encode(recipe.examples(indices, drawn))
    top, bottom = recipe.model.top.vectors(found.top_ids), recipe.model.bottom.vectors(found.bottom_ids)
    texture = torch.stack([bottom[0], torch.zeros_like(bottom[1]), bottom[2]])
    error = (recipe.model.decode(top, texture) - recipe.examples(indices, drawn)).square().mean()
    distance = (found.top - top).square().mean() + (found.bottom - bottom).square().mean()
    torch.testing.assert_close(
        recipe.loss(recipe.model, indices, drawn)["loss"], error + 0.5 * distance, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_images_without_texture(data, tmp_path, share):
    recipe = VQVAERecipe(vqvae_config(data, tmp_path, texture_dropout_prob=share))
    drawn = recipe.draw(4000, seeded(), 1)["without_texture"]
    assert drawn.float().mean() == pytest.approx(share, abs=0.03)


def test_validation_judges_both_levels(data, tmp_path):
    recipe = VQVAERecipe(vqvae_config(data, tmp_path))
    recipe.to(torch.device("cpu"))
    figures = recipe.validate(recipe.model, tmp_path, 7)
    whole = recipe.model(recipe.examples.validation).images.clamp(-1, 1)
    error = (whole - recipe.examples.validation).square().mean()
    assert figures["validation_psnr"] == pytest.approx(-10 * math.log10(error.item() / 4), abs=1e-3)
    assert figures["validation_images"] == 4
    with Image.open(tmp_path / "step-00000007.png") as picture:
        assert picture.size == (4 * 14 + 2, 3 * 10 + 2)


def test_codes_move_once_a_step(data, tmp_path, monkeypatch):
    moved = []
    original = HierarchicalVQVAE.update_codebooks

    def watch(self, generator):
        moved.append(float(self.top.observed[:, 0].sum()))
        original(self, generator)

    monkeypatch.setattr(HierarchicalVQVAE, "update_codebooks", watch)
    train(vqvae_config(data, tmp_path / "run", train_batch_size=2, gradient_accumulation_steps=2))
    assert moved == [4 * 6] * 3  # all tokens of a step's images


def test_a_resumed_vqvae_equals_the_uninterrupted_one(data, vqvae_run, tmp_path):
    train(vqvae_config(data, tmp_path / "run", max_train_steps=1))
    train(vqvae_config(data, tmp_path / "run", max_train_steps=3))
    assert_close(published(tmp_path / "run", "vqvae"), published(vqvae_run, "vqvae"), atol=0, rtol=0)


def test_a_vqvae_step_may_be_split(data, vqvae_run, tmp_path):
    train(vqvae_config(data, tmp_path / "run", train_batch_size=2, gradient_accumulation_steps=2))
    assert_close(published(tmp_path / "run", "vqvae"), published(vqvae_run, "vqvae"), atol=1e-4, rtol=1e-3)


def test_two_processes_train_the_vqvae_that_one_does(data, vqvae_run, tmp_path):
    assert train_on_two(vqvae_config(data, tmp_path / "run", train_batch_size=2)) == [0, 0]
    assert_close(published(tmp_path / "run", "vqvae"), published(vqvae_run, "vqvae"), atol=1e-4, rtol=1e-3)


def test_a_bad_step_moves_no_codes(data, tmp_path, monkeypatch):
    seen, original = [], VQVAERecipe.loss

    def poisoned(self, model, indices, draws):
        losses = original(self, model, indices, draws)
        seen.append({name: value.clone() for name, value in self.model.named_buffers()})
        return losses | {"loss": losses["loss"] * (float("nan") if len(seen) == 2 else 1)}

    monkeypatch.setattr(VQVAERecipe, "loss", poisoned)
    train(vqvae_config(data, tmp_path / "run"))
    for name in ("top.codebook", "top.average", "bottom.codebook", "bottom.average"):
        assert not torch.equal(seen[0][name], seen[1][name])
        assert torch.equal(seen[1][name], seen[2][name])
    assert seen[2]["top.observed"][:, 0].sum() == 4 * 6  # what the bad step saw is forgotten


# ------------------------------------------------------------------------------------------- structure tokens


def prepared(config):
    recipe = StructureRecipe(config)
    recipe.config.output_dir.mkdir(parents=True, exist_ok=True)
    recipe.to(torch.device("cpu"))
    return recipe


def test_tokens_are_those_of_the_images_that_are_shown(structure_config, tmp_path):
    options = {"crops_per_image": 3, "crop_probability": 0.9, "crop_max_upsampling": 1.0, "random_flip": True}
    recipe = prepared(structure_config(tmp_path / "run", **options))
    assert recipe.tokens.num_views == 6
    indices = torch.arange(12)
    seen = []
    for view in range(6):
        images, ids = recipe.tokens.read(indices, torch.full((12,), view))
        assert torch.equal(ids, recipe.vqvae.encode(images).top_ids)
        seen.append(images)
    assert torch.equal(seen[0], recipe.examples(indices, {
        "box": torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(12, 4), "flip": torch.zeros(12, dtype=torch.bool)
    }))  # fmt: skip
    for view in range(3):
        torch.testing.assert_close(seen[view].flip(-1), seen[view + 3], atol=1e-5, rtol=0)
    assert (seen[1] != seen[0]).flatten(1).any(1).sum() > 6
    views = recipe.tokens.draw(6000, seeded())["view"]
    assert stats.chisquare(torch.bincount(views, minlength=6).numpy()).pvalue > 1e-3


def test_the_share_of_crops_is_the_one_asked_for(structure_config, tmp_path):
    options = {"crops_per_image": 4, "crop_probability": 0.5, "crop_max_upsampling": 1.0}
    recipe = StructureRecipe(structure_config(tmp_path / "run", **options))
    assert recipe.tokens.num_views == 4
    assert StructureRecipe(structure_config(tmp_path / "other")).tokens.num_views == 1  # no crops, no flips
    assert (recipe.tokens.boxes[..., 2] < 1).float().mean() == pytest.approx(0.5, abs=0.15)
    assert (recipe.tokens.boxes[:, 0, 2:] == 1).all()


def test_tokens_are_encoded_once(structure_config, tmp_path, monkeypatch):
    first = prepared(structure_config(tmp_path / "run"))
    file = tmp_path / "run" / "structure_tokens.safetensors"
    written = file.stat().st_mtime_ns

    def refuse(*arguments):
        raise AssertionError("encoded again")

    monkeypatch.setattr(HierarchicalVQVAE, "encode", refuse)
    again = prepared(structure_config(tmp_path / "run"))
    assert torch.equal(first.tokens.ids, again.tokens.ids)
    assert file.stat().st_mtime_ns == written


def test_tokens_of_another_vqvae_are_refused(data, structure_config, tmp_path):
    prepared(structure_config(tmp_path / "run"))
    train(vqvae_config(data, tmp_path / "other", seed=1, max_train_steps=1))
    with pytest.raises(UserError, match=r"made by another VQ-VAE or of other images \(codebook was .*--overwrite"):
        prepared(structure_config(tmp_path / "run", vqvae=str(tmp_path / "other")))
    anew = prepared(structure_config(tmp_path / "run", vqvae=str(tmp_path / "other"), overwrite=True))
    images, ids = anew.tokens.read(torch.arange(12), torch.zeros(12, dtype=torch.int64))
    assert torch.equal(ids, anew.vqvae.encode(images).top_ids)


def test_tokens_of_other_images_are_refused(structure_config, tmp_path):
    for number, seed in enumerate((0, 1)):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        write_images(tmp_path / "data", seed=seed)
        config = structure_config(tmp_path / "run", data=str(tmp_path / "data"))
        if number == 0:
            prepared(config)
    with pytest.raises(UserError, match="images was "):
        prepared(config)


def test_damaged_tokens_are_made_again(structure_config, tmp_path):
    expected = prepared(structure_config(tmp_path / "run")).tokens.ids.clone()
    file = tmp_path / "run" / "structure_tokens.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    assert torch.equal(prepared(structure_config(tmp_path / "run")).tokens.ids, expected)


# ------------------------------------------------------------------------------------------- structures


def test_the_structure_s_loss_is_the_likelihood_of_its_tokens(structure_config, tmp_path):
    recipe = prepared(structure_config(tmp_path / "run", dropout=0.0, masks=["centre", "half"]))
    indices, drawn = torch.tensor([3, 0, 5]), recipe.draw(3, seeded(), 1)
    figures = recipe.loss(recipe.model, indices, drawn)
    images, ids = recipe.tokens.read(indices, drawn["view"])
    h = recipe.model.condition(images * (1 - drawn["mask"]), drawn["mask"])
    law = recipe.model.logits(recipe.vqvae.top.vectors(ids), h).movedim(1, -1).log_softmax(-1)
    surprise = -torch.stack([law[b, y, x, ids[b, y, x]] for b in range(3) for y in range(2) for x in range(3)])
    torch.testing.assert_close(figures["loss"], surprise.mean())
    torch.testing.assert_close(figures["bits_per_token"], surprise.mean() / math.log(2))
    hole = F.max_pool2d(drawn["mask"], 4).flatten() > 0  # tokens that lie in a hole, in part at least
    torch.testing.assert_close(figures["hole_bits_per_token"], surprise[hole].mean() / math.log(2))


def test_dropout_is_of_each_sample_s_own_seed(structure_config, tmp_path):
    recipe = prepared(structure_config(tmp_path / "run", dropout=0.3))
    of_samples = recipe.draw(40, seeded(), 1)["dropout_seed"]
    mask = recipe._dropout_mask(of_samples)
    assert mask.shape == (40, 4, 8, 2, 3)
    assert mask.float().mean() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(recipe._dropout_mask(of_samples[7:9]), mask[7:9])
    assert len(mask.unique(dim=0)) == 40
    assert StructureRecipe(structure_config(tmp_path / "other", dropout=0.0))._dropout_mask(of_samples) is None


def test_a_structure_step_may_be_split(structure_config, tmp_path):
    recipe = prepared(structure_config(tmp_path / "run"))
    indices, drawn = torch.arange(6), recipe.draw(6, seeded(), 1)
    whole = recipe.loss(recipe.model, indices, drawn)["loss"]
    parts = [slice(0, 3), slice(3, 6)]
    losses = [recipe.loss(recipe.model, indices[p], {k: v[p] for k, v in drawn.items()})["loss"] for p in parts]
    torch.testing.assert_close(whole, sum(losses) / 2)


def test_draws_follow_their_generator_alone(structure_config, tmp_path):
    recipe = prepared(structure_config(tmp_path / "run"))
    first, again, other = (recipe.draw(5, seeded(seed), 1) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mask"], other["mask"])
    assert not torch.equal(first["dropout_seed"], other["dropout_seed"])
    assert {len(values) for values in first.values()} == {5}


def test_a_structure_run_stopped_and_resumed(structure_config, tmp_path):
    torch.manual_seed(5)
    train(structure_config(tmp_path / "whole"))
    torch.manual_seed(6)
    for steps in (1, 3):
        train(structure_config(tmp_path / "run", max_train_steps=steps))
    assert_close(published(tmp_path / "run", "structure"), published(tmp_path / "whole", "structure"), atol=0, rtol=0)
    model = StructureModel.from_pretrained(tmp_path / "run" / "structure")
    assert model.config.codebook_hash == open_vqvae(structure_config(tmp_path).vqvae).codebook_hash()
    assert model.config.mask_kinds == ["rectangle", "strokes"]
    assert model.config.dropout == 0.1


def test_validation_says_bits_and_shows_structures(structure_config, tmp_path):
    recipe = prepared(structure_config(tmp_path / "run"))
    figures = recipe.validate(recipe.model, tmp_path, 3)
    ids = recipe.vqvae.encode(recipe.examples.validation).top_ids
    share = torch.bincount(ids.flatten(), minlength=12) / ids.numel()
    share = share[share > 0]
    assert figures["validation_unigram_bits"] == pytest.approx(float(-(share * share.log2()).sum()), rel=1e-4)
    assert figures["validation_bits_per_token"] == pytest.approx(math.log2(12), rel=0.3)  # nothing is learned yet
    with Image.open(tmp_path / "step-00000003.png") as picture:
        assert picture.size == (4 * 14 + 2, 6 * 10 + 2)


# ------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        (VQVAEConfig, {"resolution": "30"}, "--resolution 30 does not fit --preset tiny32; give multiples of 4 from 8"),
        (VQVAEConfig, {"resolution": "64x4"}, "--resolution 64x4 does not fit"),
        (VQVAEConfig, {"preset": "px256", "resolution": "252"}, "give multiples of 8 from 16 on"),
        (VQVAEConfig, {"channels": 2}, "--channels is 2; give 1 for gray or 3 for colour"),
        (VQVAEConfig, {"commitment_weight": 0.0}, "--commitment-weight is 0.0; give more than 0"),
        (VQVAEConfig, {"texture_dropout_prob": 1.5}, "--texture-dropout-prob is 1.5; give a share from 0 to 1"),
        (VQVAEConfig, {"codebook_decay": 1.0}, "--codebook-decay is 1.0; give at least 0 and less than 1"),
        (VQVAEConfig, {"crop_probability": 2.0}, "--crop-probability is 2.0"),
        (StructureConfig, {}, "--vqvae is missing; give the run of gen/train.py inpaint-vqvae"),
        (
            StructureConfig,
            {"vqvae": "x", "masks": []},
            "--masks is empty; give one or more of centre, rectangle, strokes",
        ),
        (StructureConfig, {"vqvae": "x", "masks": ["centre", "left"]}, "--masks is centre left; give one or more of"),
        (StructureConfig, {"vqvae": "x", "dropout": 1.0}, "--dropout is 1.0; give at least 0 and less than 1"),
        (StructureConfig, {"vqvae": "x", "crops_per_image": 0}, "--crops-per-image is 0; give 1 or more"),
    ],
)
def test_impossible_settings_are_named(tmp_path, kind, changes, sentence):
    config = kind(output_dir=tmp_path)
    for name, value in changes.items():  # as from a file, whose values have no types
        setattr(config, name, value)
    with pytest.raises(UserError, match=sentence):
        config.check()


def test_a_vqvae_of_another_number_of_channels(structure_config, tmp_path):
    with pytest.raises(
        UserError, match="the images have 3 channels and the VQ-VAE was trained on 1; give --channels 1"
    ):
        StructureRecipe(structure_config(tmp_path, channels=3))


def test_there_is_no_vqvae(structure_config, tmp_path):
    with pytest.raises(UserError, match="there is no VQ-VAE in nowhere"):
        StructureRecipe(structure_config(tmp_path, vqvae="nowhere"))
