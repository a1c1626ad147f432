"""Stage 2: the two losses, where they start from, and whole runs."""

import copy
import math
import shutil

import pytest
import torch
from pixel_runs import CLASSES, consistency, diffusion, pretraining, train_on_two, weights, write_images
from scipy import stats
from tiny_models import randomise
from tiny_pixel_models import Counted
from torch import nn

import gen
from gen.pixel.consistency import ConsistencyRecipe, pair_loss
from gen.pixel.diffusion import DiffusionRecipe, nearest_level
from gen.pixel.encoder import EPGEncoderModel
from gen.pixel.inheritance import open_encoder, open_run
from gen.pixel.noise import NoiseRange, denoise
from gen.pixel.noise import consistency as read_consistency
from gen.train import train
from workbench.errors import UserError
from workbench.metrics_log import read_metrics

CHOSEN = torch.tensor([11, 0, 4, 4])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def encoder_run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "encoder"
    train(pretraining(data, folder, max_train_steps=2))
    return folder


@pytest.fixture(scope="module")
def diffusion_run(data, encoder_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "diffusion"
    train(diffusion(data, folder, init_from=str(encoder_run), max_train_steps=2))
    return folder


def clean_images(recipe, draws):
    """The chosen ones as a network sees them, one at a time."""
    pixels = recipe.data.images[CHOSEN].double() / 255
    whole = recipe.data.images.double() / 255
    mean, std = whole.mean((0, 2, 3)), whole.std((0, 2, 3), correction=0)
    scaled = (pixels - mean[:, None, None]) / (2 * std[:, None, None])
    return torch.stack([x.flip(-1) if flip else x for x, flip in zip(scaled, draws["flip"], strict=True)]).float()


def ask(model, noisy, sigma, labels):
    """The network's raw output for one noise level at a time."""
    outputs = [
        model(x[None] / (s**2 + 0.25) ** 0.5, torch.tensor([250 * math.log(s)]), label[None]).sample[0]
        for x, s, label in zip(noisy, sigma.tolist(), labels, strict=True)
    ]
    return torch.stack(outputs)


# ------------------------------------------------------------------------------------------- diffusion


@pytest.fixture
def recipe(data, tmp_path):
    made = DiffusionRecipe(diffusion(data, tmp_path, sigma_shift=0.5))
    randomise(made.model)
    return made


@pytest.mark.parametrize("kind", ["smooth", "steps", "velocity"])
def test_the_diffusion_loss_is_that_of_the_paper(recipe, kind):
    recipe.config.diffusion_weight = kind
    draws = recipe.draw(4, seeded(), 1)
    draws["hide_label"] = torch.tensor([False, True, False, False])
    clean, unshifted = clean_images(recipe, draws), draws["sigma"]
    noisy = clean + 0.5 * unshifted[:, None, None, None] * draws["noise"]
    estimate = ask(recipe.model, noisy, 0.5 * unshifted, torch.tensor([2, 3, 1, 1]))
    levels = NoiseRange(sigma_max=20.0).karras(1280)
    index = (levels - unshifted[:, None]).abs().argmin(1)
    gaps = (levels[index] - levels[index + 1]).float()
    flow_time = 1 / (1 + unshifted)
    velocity = 1 / (1 - flow_time).clamp(min=0.05) ** 2
    weight = {"smooth": unshifted ** (-6 / 7), "steps": 1 / gaps, "velocity": velocity}[kind]
    expected = (weight * (estimate - clean).square().mean((1, 2, 3))).mean()
    figures = recipe.loss(recipe.model, CHOSEN, draws)
    torch.testing.assert_close(figures["loss"], expected, rtol=2e-3 if kind == "steps" else 1e-4, atol=0)
    assert figures["loss"] > 0.01


def test_levels_are_drawn_log_normally_from_the_grid(data, tmp_path):
    recipe = DiffusionRecipe(diffusion(data, tmp_path, log_sigma_mean=-1.0, log_sigma_std=0.7, class_dropout_prob=0.2))
    drawn = recipe.draw(5000, seeded(), 1)
    assert stats.kstest((drawn["sigma"].double().log() + 1) / 0.7, "norm").pvalue > 1e-3
    levels = recipe.noise_range.karras(1280).float()
    assert torch.isin(drawn["sigma"], levels).all()
    assert stats.binomtest(int(drawn["hide_label"].sum()), 5000, 0.2).pvalue > 1e-3


def test_the_nearest_level_is_the_nearest():
    levels = NoiseRange().karras(40).float()
    sigma = torch.cat([torch.logspace(-4, 3, 200), levels, levels[:1] / 2])
    expected = (levels - sigma[:, None]).abs().argmin(1)
    assert torch.equal(nearest_level(sigma, levels), expected)


# ------------------------------------------------------------------------------------------- consistency


@pytest.fixture
def consistent(data, tmp_path):
    made = ConsistencyRecipe(consistency(data, tmp_path, sigma_shift=0.5, max_train_steps=60))
    randomise(made.model)
    return made


def read(model, noisy, sigma, labels):
    """The consistency model, from the definition of its boundary."""
    above = (sigma - 0.5 * 0.002)[:, None, None, None]
    skip = 0.25 / (above**2 + 0.25)
    out = above * 0.5 / (sigma[:, None, None, None] ** 2 + 0.25).sqrt()
    return skip * noisy + out * ask(model, noisy, sigma, labels)


def test_the_consistency_loss_is_that_of_the_paper(consistent):
    draws = consistent.draw(4, seeded(), 25)
    clean, labels = clean_images(consistent, draws), torch.tensor([2, 0, 1, 1])
    more, less = 0.5 * draws["sigma"], 0.5 * draws["paired_sigma"]
    estimate, target = (
        read(consistent.model, clean + sigma[:, None, None, None] * draws["noise"], sigma, labels)
        for sigma in (more, less)
    )
    terms = []
    for k in range(4):
        distance = (estimate[k] - target[k].detach()).square().sum()
        terms.append(distance / (distance.detach() + 0.06**2).sqrt() / (more[k] - less[k]))
    expected = torch.stack(terms).mean()
    loss = consistent.loss(consistent.model, CHOSEN, draws)["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    gradients = [torch.autograd.grad(one, list(consistent.model.parameters())) for one in (loss, expected)]
    for mine, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-2, atol=1e-3 * plain.abs().max().item() + 1e-6)


def test_pairs_share_their_noise_and_only_one_is_trained(consistent):
    class Watch(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.seen = network, []

        def forward(self, sample, timestep, labels, return_dict):
            self.seen.append((sample, timestep, torch.is_grad_enabled()))
            return self.network(sample, timestep, labels, return_dict=return_dict)

    watch, draws = Watch(consistent.model), consistent.draw(4, seeded(), 25)
    consistent.loss(watch, CHOSEN, draws)
    clean, noises = clean_images(consistent, draws), []
    for (sample, timestep, graded), wanted in zip(watch.seen, (False, True), strict=True):
        sigma = (timestep / 250).exp()[:, None, None, None]
        noises.append((sample * (sigma**2 + 0.25).sqrt() - clean) / sigma)
        assert graded is wanted
    loud = draws["paired_sigma"] > 0.1  # the noise is lost in the images below
    torch.testing.assert_close(noises[0][loud], draws["noise"][loud], atol=1e-3, rtol=0)
    torch.testing.assert_close(noises[1][loud], noises[0][loud], atol=1e-3, rtol=0)


def test_the_levels_of_a_pair_come_closer(consistent):
    gaps = []
    for step in (1, 11, 59):
        drawn = consistent.draw(2000, seeded(), step)
        assert ((drawn["paired_sigma"] >= 0.002) & (drawn["paired_sigma"] <= drawn["sigma"])).all()
        assert drawn["sigma"].max() == 20
        gaps.append((1 - drawn["paired_sigma"] / drawn["sigma"])[drawn["sigma"] > 5].mean())
    assert gaps == pytest.approx([0.5, 0.25, 2**-6], rel=0.05)


def test_a_pair_without_a_gap_has_no_weight():
    estimate = torch.randn(2, 1, 2, 3, generator=seeded()).requires_grad_()
    target, gap = torch.zeros(2, 1, 2, 3), torch.tensor([0.5, 0.0])
    loss = pair_loss(estimate, target, gap, 0.06)
    loss.backward()
    squared = estimate[0].square().sum()
    assert loss.item() == pytest.approx((squared / (squared + 0.06**2).sqrt() / 0.5 / 2).item())
    assert (estimate.grad[1] == 0).all()
    # of 2 sqrt(S + c^2)
    torch.testing.assert_close(estimate.grad[0], estimate[0].detach() / (squared + 0.06**2).sqrt() * 2 / 0.5 / 2)


def test_dropout_is_the_same_for_both_of_a_pair(data, tmp_path):
    """With no gap between them the two estimates are then one; and the global stream is left alone."""
    recipe = ConsistencyRecipe(consistency(data, tmp_path, dropout=0.5))
    randomise(recipe.model).train()
    draws, outputs = recipe.draw(4, seeded(), 1), []
    draws["paired_sigma"] = draws["sigma"]
    recipe.model.register_forward_hook(lambda module, args, output: outputs.append(output[0].detach()))
    before = torch.get_rng_state()
    for _ in range(2):
        recipe.loss(recipe.model, CHOSEN, draws)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(outputs[0], one) for one in outputs[1:])
    recipe.loss(recipe.model, CHOSEN, recipe.draw(4, seeded(), 1) | {"dropout": torch.arange(4)})
    assert not torch.equal(outputs[0], outputs[-1])


def test_the_guide_compares_what_is_made_with_the_clean_images(data, encoder_run, tmp_path):
    recipe = ConsistencyRecipe(
        consistency(data, tmp_path, guide=str(encoder_run), guide_weight=0.3, guide_temperature=0.2)
    )
    randomise(recipe.model)
    made, images = torch.randn(2, 5, 3, 8, 12, generator=seeded())
    made.requires_grad_()
    guide, seen = EPGEncoderModel.from_pretrained(encoder_run / "encoder").eval(), []
    for part in (made, images):
        timestep = torch.full((5,), 250 * math.log(0.002))
        seen.append(guide(part / (0.002**2 + 0.25) ** 0.5, timestep).representation)
    similar = torch.nn.functional.cosine_similarity(seen[0][:, None], seen[1][None], dim=-1) / 0.2
    expected = -similar.log_softmax(-1).diagonal().mean()
    found = recipe.guide(made, images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    found.backward()
    assert made.grad.abs().sum() > 0
    assert not any(weight.requires_grad for weight in recipe.guide.encoder.parameters())
    figures = recipe.loss(recipe.model, CHOSEN, recipe.draw(4, seeded(), 1))
    torch.testing.assert_close(figures["loss"], figures["consistency"] + 0.3 * figures["guide"])


def test_the_guide_s_projection_can_be_compared(data, encoder_run, tmp_path):
    made = torch.randn(2, 3, 3, 8, 12, generator=seeded())
    losses = []
    for feature in ("representation", "projection"):
        config = consistency(data, tmp_path, guide=str(encoder_run), guide_feature=feature)
        losses.append(ConsistencyRecipe(config).guide(*made).item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


# ------------------------------------------------------------------------------------------- where a run starts


def test_a_generator_starts_from_the_encoder(data, encoder_run, tmp_path):
    model = DiffusionRecipe(diffusion(data, tmp_path, init_from=str(encoder_run))).model
    trained = weights(encoder_run)
    own = {name: weight for name, weight in model.state_dict().items() if name.startswith("encoder.")}
    assert own.keys() - trained.keys() == {"encoder.class_embed.weight"}
    assert all(torch.equal(weight, trained[name]) for name, weight in own.items() if name in trained)
    assert (model.proj_out.weight == 0).all()


def test_a_consistency_model_starts_from_a_diffusion_model(data, diffusion_run, tmp_path):
    """With the most noise, which one step begins with, both see nearly the same image."""
    recipe = ConsistencyRecipe(consistency(data, tmp_path, init_from=str(diffusion_run)))
    trained = gen.load(diffusion_run).transformer
    for name, weight in trained.state_dict().items():
        scale = 2 if name.startswith("proj_out") else 1
        assert torch.equal(recipe.model.state_dict()[name], scale * weight), name
    noise, sigma, labels = 20 * torch.randn(3, 3, 8, 12, generator=seeded()), torch.full((3,), 20.0), torch.arange(3)
    one = read_consistency(recipe.model, noise, sigma, labels, recipe.noise_range)
    many = denoise(trained, noise, sigma, labels, recipe.noise_range)
    torch.testing.assert_close(one, many, atol=5 * 0.25 / 20, rtol=0.01)  # what is left of the noise


def test_a_generator_goes_on_as_it_was(data, diffusion_run, tmp_path):
    model = DiffusionRecipe(diffusion(data, tmp_path, init_from=str(diffusion_run / "pipeline"))).model
    trained = weights(diffusion_run)
    assert all(torch.equal(weight, trained[name]) for name, weight in model.state_dict().items())


def test_first_weights_follow_the_seed_alone(data, tmp_path):
    torch.manual_seed(1)
    first = DiffusionRecipe(diffusion(data, tmp_path)).model.state_dict()
    torch.manual_seed(2)
    again = DiffusionRecipe(diffusion(data, tmp_path)).model.state_dict()
    other = DiffusionRecipe(diffusion(data, tmp_path, seed=1)).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.pos_embed"], other["encoder.pos_embed"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_layers": 1}, "num_layers is 1 but the encoder was trained with 2"),
        ({"init_from": "nowhere"}, "nowhere is not a trained pipeline"),
    ],
)
def test_another_encoder_is_a_sentence(data, encoder_run, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        DiffusionRecipe(diffusion(data, tmp_path, **{"init_from": str(encoder_run), **changes}))


def test_another_generator_is_a_sentence(data, diffusion_run, tmp_path):
    shape = {"decoder_num_attention_heads": 2, "decoder_attention_head_dim": 12}
    with pytest.raises(UserError, match="decoder_num_attention_heads is 3 there and 2 here, decoder_attention_head_"):
        DiffusionRecipe(diffusion(data, tmp_path, init_from=str(diffusion_run), **shape))
    with pytest.raises(UserError, match="id2label is"):
        DiffusionRecipe(diffusion(data, tmp_path, init_from=str(diffusion_run), classes=["emu", "dog", "cat"]))


def test_a_generator_is_no_guide(data, diffusion_run, encoder_run, tmp_path):
    with pytest.raises(UserError, match="holds a generator; give a run of pixel-pretrain"):
        open_encoder(diffusion_run)
    with pytest.raises(UserError, match="is of another size; pre-train one at 16x24 pixels"):
        ConsistencyRecipe(consistency(data, tmp_path, resolution="16x24", guide=str(encoder_run)))
    assert isinstance(open_run(encoder_run / "encoder"), EPGEncoderModel)


# ------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("make", "changes", "sentence"),
    [
        (diffusion, {"class_dropout_prob": 1.5}, "--class-dropout-prob is 1.5; give a share from 0 to 1"),
        (diffusion, {"diffusion_levels": 1}, "--diffusion-levels is 1; give 2 or more"),
        (diffusion, {"log_sigma_std": 0.0}, "--log-sigma-std is 0.0; give more than 0"),
        (diffusion, {"validation_inference_steps": 1}, "--validation-inference-steps is 1; give 2 or more"),
        (consistency, {"num_stages": 0}, "--num-stages is 0; give 1 or more"),
        (consistency, {"gap_base": 1.0}, "--gap-base is 1.0; give more than 1"),
        (consistency, {"dropout": 1.0}, "--dropout is 1.0; give at least 0 and less than 1"),
        (consistency, {"huber": 0.0}, "--huber is 0.0; give more than 0"),
        (consistency, {"validation_guidance_scale": 2.0}, "--validation-guidance-scale is 2.0; give 1: guidance is"),
        (consistency, {"guide": "x", "gradient_accumulation_steps": 2}, "all images of a step are compared"),
    ],
)
def test_impossible_settings_are_named(data, tmp_path, make, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        make(data, tmp_path, **changes).check()


# ------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("make", [diffusion, consistency])
def test_a_run_leaves_a_pipeline_with_its_card(data, tmp_path, make):
    train(make(data, tmp_path / "run", validation_steps=3))
    pipe = gen.load(tmp_path / "run")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.label_names == CLASSES
    assert pipe("emu", num_inference_steps=2).images[0].size == (12, 8)
    assert (tmp_path / "run" / "samples" / "step-00000003.png").exists()
    card = (tmp_path / "run" / "pipeline" / "README.md").read_text()
    assert "cat, dog, emu" in card
    assert pipe.transformer.scaling.low == pytest.approx(DiffusionRecipe(diffusion(data, tmp_path)).data.scaling.low)


@pytest.mark.parametrize("make", [diffusion, consistency])
def test_a_killed_run_goes_on_bit_for_bit(data, encoder_run, tmp_path, make):
    options = {"max_train_steps": 4, "checkpointing_steps": 2, "checkpoints_total_limit": 9}
    if make is consistency:
        options |= {"guide": str(encoder_run), "dropout": 0.3}
    train(make(data, tmp_path / "whole", **options))
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    (tmp_path / "run" / "finished.json").unlink()
    train(make(data, tmp_path / "run", **options))
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(tmp_path / "run").items())


@pytest.mark.parametrize("make", [diffusion, consistency])
def test_two_processes_train_what_one_does(data, encoder_run, tmp_path, make):
    options = {"max_train_steps": 3, "guide": str(encoder_run)} if make is consistency else {"max_train_steps": 3}
    train(make(data, tmp_path / "one", train_batch_size=8, **options))
    assert train_on_two(make(data, tmp_path / "two", train_batch_size=4, **options)) == [0, 0]
    one, two = ([row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)
    expected = weights(tmp_path / "one")
    for name, weight in weights(tmp_path / "two").items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("make", [diffusion, consistency])
def test_a_step_may_be_split(data, tmp_path, make):
    recipe = {diffusion: DiffusionRecipe, consistency: ConsistencyRecipe}[make](make(data, tmp_path))
    randomise(recipe.model)
    indices, drawn = torch.arange(6), recipe.draw(6, seeded(), 1)
    whole = recipe.loss(recipe.model, indices, drawn)["loss"]
    parts = [slice(0, 3), slice(3, 6)]
    losses = [recipe.loss(recipe.model, indices[p], {k: v[p] for k, v in drawn.items()})["loss"] for p in parts]
    torch.testing.assert_close(whole, sum(losses) / 2)


def test_images_without_labels_train_without(data, tmp_path):
    (tmp_path / "flat").mkdir()
    for number, file in enumerate(sorted(data.rglob("*.png"))):
        shutil.copyfile(file, tmp_path / "flat" / f"{number}.png")
    for make in (diffusion, consistency):
        train(make(tmp_path / "flat", tmp_path / make.__name__, max_train_steps=1, validation_steps=1))
        pipe = gen.load(tmp_path / make.__name__)
        assert pipe.num_classes == 0
        assert len(pipe(num_images=2, num_inference_steps=2).images) == 2


def test_low_precision_is_close(recipe, consistent):
    for one in (recipe, consistent):
        drawn = one.draw(4, seeded(), 1)
        exact = one.loss(one.model, CHOSEN, drawn)["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = one.loss(one.model, CHOSEN, drawn)["loss"]
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0)


def test_a_consistency_step_keeps_no_second_copy(consistent):
    counted = Counted(consistent.model)
    consistent.loss(counted, CHOSEN, consistent.draw(4, seeded(), 1))
    assert counted.images == 8
    assert sum(1 for _ in consistent.model.modules()) == sum(1 for _ in copy.deepcopy(consistent.model).modules())


def test_training_teaches_the_labels_and_the_single_step(data, tmp_path):
    """A dark and a bright class: each label has its brightness, in many steps, and in one step from the heir."""
    options = {"train_batch_size": 8, "learning_rate": 5e-3, "ema_decay": 0.9, "log_sigma_mean": 2.0}
    options["classes"] = ["cat", "emu"]
    train(diffusion(data, tmp_path / "many", max_train_steps=80, **options))
    train(consistency(data, tmp_path / "one", max_train_steps=100, init_from=str(tmp_path / "many"), **options))
    for run, steps in (("many", 6), ("one", 1)):
        pipe = gen.load(tmp_path / run)
        pipe.set_progress_bar_config(disable=True)
        labels = ["cat"] * 40 + ["emu"] * 40
        images = pipe(labels, num_inference_steps=steps, output_type="pt", generator=seeded()).images
        dark, bright = images.mean((1, 2, 3)).chunk(2)
        agreement = ((dark < 0.45).float().mean() + (bright > 0.55).float().mean()) / 2
        assert agreement > 0.8, run
