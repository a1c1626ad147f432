import colorsys
import copy
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from pixel_runs import CLASSES, pretraining, train_on_two, weights, write_images
from safetensors.torch import load_file
from tiny_models import randomise
from tiny_pixel_models import tiny_encoder

from gen.pixel.contrast import nce
from gen.pixel.encoder import EPGEncoderModel
from gen.pixel.noise import NoiseRange
from gen.pixel.pretraining import PretrainingRecipe
from gen.pixel.probe import neighbour_accuracy
from gen.pixel.representation import RepresentationLearner
from gen.train import main, train
from workbench.errors import UserError
from workbench.metrics_log import read_metrics

NOISE = NoiseRange(sigma_max=20.0, shift=0.5)
SIGMAS, TAU = torch.tensor([3.0, 2.0]), torch.tensor(0.15)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images")


def learner(**changes):
    model = RepresentationLearner(randomise(tiny_encoder(in_channels=1)), NOISE, **changes)
    randomise(model.target, seed=1)
    return model.train()


def batch(count=5):
    draws = torch.randn(4, count, 1, 8, 12, generator=seeded(2))
    return draws[0], (draws[1], draws[2]), draws[3], SIGMAS, TAU


# ------------------------------------------------------------------------------------------- the contrast


def test_nce_is_the_cross_entropy_of_matching_pairs():
    queries, keys = torch.randn(2, 4, 7, generator=seeded())
    terms = []
    for n in range(4):
        similar = [torch.cosine_similarity(queries[n], keys[m], dim=0) / 0.3 for m in range(4)]
        terms.append(-similar[n] + torch.stack(similar).logsumexp(0))
    torch.testing.assert_close(nce(queries, keys, 0.3), torch.stack(terms).mean())


def test_nce_of_equal_and_of_orthogonal_pairs():
    directions = torch.eye(6)
    assert nce(directions, directions, 0.05) < 1e-6
    assert nce(torch.ones(6, 6), torch.ones(6, 6), 0.1).item() == pytest.approx(math.log(6))


def test_keys_get_no_gradient():
    queries, keys = torch.randn(2, 4, 7, generator=seeded()).requires_grad_().unbind()
    queries.retain_grad(), keys.retain_grad()
    nce(queries, keys, 0.2).backward()
    assert queries.grad.abs().max() > 0
    assert keys.grad is None


def test_nce_is_computed_in_full_precision():
    queries, keys = torch.randn(2, 16, 8, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(nce(queries, keys, 0.1), nce(queries.double().float(), keys, 0.1))
        assert nce((1e-4 * queries).half(), keys.half(), 0.1).isfinite()
    torch.testing.assert_close(nce(queries, keys, 0.1), nce(100 * queries, keys, 0.1))


# ------------------------------------------------------------------------------------------- the loss


def by_hand(online, target, images, views, noise, sigmas, tau):
    """From the definitions: every network call by itself, in the plainest way."""

    def see(encoder, clean, sigma):
        noisy = clean + sigma * noise
        scaled = noisy / (sigma**2 + 0.25) ** 0.5
        timestep = torch.full((len(clean),), 250 * math.log(sigma))
        return encoder(scaled, timestep).representation

    least = 0.5 * 0.002
    q_a, q_b = (online.project(see(online, view, least)) for view in views)
    k_a, k_b = (target.project(see(target, view, least)) for view in views)
    near, far = (see(online, images, sigma) for sigma in sigmas.tolist())

    def loss(queries, keys, temperature):
        logits = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T / temperature
        return -logits.log_softmax(-1).diagonal().mean()

    return {
        "contrast": loss(q_a, k_b, 0.2) + loss(q_b, k_a, 0.2),
        "consistency": loss(near, far.detach(), tau),
    }


def test_the_loss_is_that_of_the_paper():
    model = learner()
    expected = by_hand(copy.deepcopy(model.online), copy.deepcopy(model.target), *batch())
    parts = model(*batch())
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value, msg=name)


def test_gradients_are_those_of_the_separate_passes():
    ours, plain = learner(), learner()
    sum(ours(*batch()).values()).backward()
    sum(by_hand(plain.online, plain.target, *batch()).values()).backward()
    for name, weight in ours.online.named_parameters():
        expected = plain.online.get_parameter(name).grad
        torch.testing.assert_close(weight.grad, expected, atol=1e-5, rtol=1e-4, msg=name)


def test_three_passes_do_it():
    model, calls = learner(), []
    for name, encoder in (("online", model.online), ("target", model.target)):
        encoder.register_forward_hook(
            lambda module, args, output, name=name: calls.append((name, len(args[0]), torch.is_grad_enabled()))
        )
    model(*batch())
    assert sorted(calls) == [("online", 5, False), ("online", 15, True), ("target", 10, False)]


@pytest.mark.parametrize(
    ("left_out", "calls", "kept"),
    [("contrast_weight", [("online", 5), ("online", 5)], "consistency"),
     ("consistency_weight", [("online", 10), ("target", 10)], "contrast")],
)  # fmt: skip
def test_a_part_of_no_weight_is_not_computed(left_out, calls, kept):
    model, seen = learner(**{left_out: 0.0}), []
    for name, encoder in (("online", model.online), ("target", model.target)):
        encoder.register_forward_hook(lambda module, args, output, name=name: seen.append((name, len(args[0]))))
    parts = model(*batch())
    assert (list(parts), sorted(seen)) == ([kept], calls)
    parts[kept].backward()
    waiting = {name for name, weight in model.online.named_parameters() if weight.requires_grad and weight.grad is None}
    assert not waiting  # or other processes would wait for it


def test_nothing_reaches_the_slow_copy_but_its_momentum():
    model = learner(momentum=0.9)
    before = copy.deepcopy(model)
    sum(model(*batch()).values()).backward()
    assert all(weight.grad is None for weight in model.target.parameters())
    assert all(torch.equal(weight, before.get_parameter(name)) for name, weight in model.named_parameters())
    model.move_target()
    for name, weight in model.target.named_parameters():
        online = before.online.get_parameter(name)
        torch.testing.assert_close(weight, 0.9 * before.target.get_parameter(name) + 0.1 * online, msg=name)


# ------------------------------------------------------------------------------------------- what is drawn


def test_all_images_share_one_pair_of_neighbours(data, tmp_path):
    recipe = PretrainingRecipe(pretraining(data, tmp_path, max_train_steps=300, sigma_shift=0.5))
    levels = recipe.noise_range.karras(81) * 0.5
    drawn = [recipe.draw(4, seeded(seed), 290) for seed in range(40)]
    for draws in drawn:
        assert {len(values) for values in draws.values()} == {4}
        assert (draws["sigmas"] == draws["sigmas"][0]).all()
        assert (draws["temperature"] == draws["temperature"][0]).all()
        index = (levels - draws["sigmas"][0, 0]).abs().argmin()
        torch.testing.assert_close(draws["sigmas"][0].double(), levels[index : index + 2], rtol=1e-5, atol=0)
    assert len({draws["sigmas"][0, 0].item() for draws in drawn}) > 20
    assert max(abs(draws["temperature"][0].item() - 0.1) for draws in drawn) < 1e-6


def test_the_temperature_follows_the_noise_at_the_start(data, tmp_path):
    recipe = PretrainingRecipe(pretraining(data, tmp_path))
    for seed in range(5):
        drawn = recipe.draw(2, seeded(seed), 1)
        sigma = drawn["sigmas"][0, 0].item()
        assert drawn["temperature"][0].item() == pytest.approx(0.1 + 0.1 * (sigma - 0.002) / (20 - 0.002), rel=1e-5)


def test_draws_follow_their_generator_alone(data, tmp_path):
    recipe, before = PretrainingRecipe(pretraining(data, tmp_path)), torch.get_rng_state()
    first, again, other = (recipe.draw(5, seeded(seed), 1) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["noise"], other["noise"])
    assert not torch.equal(first["a_box"], first["b_box"])
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"resolution": "10x12"}, "--resolution 10x12 is not made of whole patches of 4 pixels; give multiples of 4"),
        ({"train_batch_size": 1}, "--train-batch-size is 1; give 2 or more"),
        ({"gradient_accumulation_steps": 2}, "--gradient-accumulation-steps is 2, .* give 1, and a larger"),
        ({"first_levels": 90}, "--first-levels is 90 but --final-levels is 80"),
        ({"contrast_weight": 0.0, "consistency_weight": 0.0}, "are both 0: nothing is learned"),
        ({"contrast_weight": -1.0}, "--contrast-weight is -1.0; give 0 or more"),
        ({"target_momentum": 1.0}, "--target-momentum is 1.0; give at least 0 and less than 1"),
        ({"consistency_temperature_at_most_noise": (0.1, 0.0)}, "--consistency-temperature-at-most-noise is"),
        ({"sigma_max": 0.001}, "--sigma-max is 0.001; give more than --sigma-min 0.002"),
        ({"sigma_shift": 0.0}, "--sigma-shift is 0.0; give more than 0"),
        ({"num_layers": 0}, "--num-layers is 0; give 1 or more"),
        ({"projector_dim": 0}, "--projector-dim is 0; give 1 or more"),
    ],
)
def test_impossible_settings_are_named(data, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        pretraining(data, tmp_path, **changes).check()


# ------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A whole run of four steps, with its checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(pretraining(data, folder, **LONGER))
    return folder


LONGER = {"max_train_steps": 4, "checkpointing_steps": 2, "checkpoints_total_limit": 9, "validation_steps": 2}


def test_a_run_leaves_an_encoder_with_its_card(run):
    encoder = EPGEncoderModel.from_pretrained(run / "encoder")
    assert encoder.size == (8, 12)
    assert encoder.config.num_class_embeds is None
    assert not [path for path in (run / "encoder").rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]
    card = (run / "encoder" / "README.md").read_text()
    assert "pipeline_tag" not in yaml.safe_load(card.split("---")[1])
    assert "pixel-diffusion --init-from" in card
    assert "12 images" in card


def test_what_is_published_was_trained_and_is_not_the_slow_copy(run, data, tmp_path):
    stored = load_file(run / "checkpoints" / "step-00000004" / "model.safetensors")
    first = PretrainingRecipe(pretraining(data, tmp_path)).model.online.state_dict()
    for name, weight in weights(run).items():
        assert torch.equal(weight, stored[f"online.{name}"]), name
    moved = [name for name in first if "norm" not in name and not torch.equal(first[name], weights(run)[name])]
    assert len(moved) > 10
    name = "encoder.blocks.0.mlp.0.weight"
    assert not torch.equal(stored[f"online.{name}"], stored[f"target.{name}"])


def test_the_slow_copy_follows_each_step(data, tmp_path):
    """From equal weights, by theta' <- 0.99 theta' + 0.01 theta after each step, at the constant rate of the paper."""
    steps = {"max_train_steps": 3, "checkpointing_steps": 1, "checkpoints_total_limit": 9}
    first = PretrainingRecipe(pretraining(data, tmp_path / "run", **steps)).model.online.state_dict()
    train(pretraining(data, tmp_path / "run", **steps))
    name = "encoder.blocks.0.mlp.0.weight"
    slow = first[name]
    for step in (1, 2, 3):
        stored = load_file(tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
        slow = 0.99 * slow + 0.01 * stored[f"online.{name}"]
        torch.testing.assert_close(stored[f"target.{name}"], slow)


def test_a_killed_run_goes_on_bit_for_bit(run, data, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    (tmp_path / "run" / "finished.json").unlink()
    train(pretraining(data, tmp_path / "run", **LONGER))
    assert all(torch.equal(weight, weights(run)[name]) for name, weight in weights(tmp_path / "run").items())
    told = ("contrast", "consistency", "loss", "neighbour_accuracy_at_0.5")
    pick = [[{k: row[k] for k in told if k in row} for row in read_metrics(r / "metrics.jsonl")] for r in
            (run, tmp_path / "run")]  # fmt: skip
    assert pick[0] == pick[1]


def test_two_processes_train_what_one_does(data, tmp_path):
    """Noise levels, negatives and batch statistics are those of all images of a step."""
    train(pretraining(data, tmp_path / "one", max_train_steps=3, train_batch_size=8))
    assert train_on_two(pretraining(data, tmp_path / "two", max_train_steps=3, train_batch_size=4)) == [0, 0]
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert {k: second[k] for k in ("contrast", "consistency", "grad_norm")} == pytest.approx(
            {k: first[k] for k in ("contrast", "consistency", "grad_norm")}, rel=1e-4
        )
    expected = weights(tmp_path / "one")
    for name, weight in weights(tmp_path / "two").items():
        torch.testing.assert_close(weight, expected[name], atol=2e-5, rtol=1e-3, msg=name)


def test_images_without_labels_are_enough(data, tmp_path):
    (tmp_path / "flat").mkdir()
    for number, file in enumerate(sorted(data.rglob("*.png"))):
        shutil.copyfile(file, tmp_path / "flat" / f"{number}.png")
    train(pretraining(tmp_path / "flat", tmp_path / "run", max_train_steps=1, validation_steps=1))
    assert "neighbour_accuracy_at_0.5" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert EPGEncoderModel.from_pretrained(tmp_path / "run" / "encoder").size == (8, 12)


def test_training_learns_to_tell_images_apart(tmp_path):
    """Eight images of a colour each: both losses fall well below those of guessing."""
    (tmp_path / "colours").mkdir()
    for number in range(8):
        rgb = tuple(round(230 * part) for part in colorsys.hsv_to_rgb(number / 8, 0.8, 0.9))
        Image.new("RGB", (12, 8), rgb).save(tmp_path / "colours" / f"{number}.png")
    options = {"max_train_steps": 60, "train_batch_size": 8, "learning_rate": 5e-3, "logging_steps": 10}
    train(pretraining(tmp_path / "colours", tmp_path / "run", views="small", final_levels=20, **options))
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["contrast"] < 0.8 * 2 * math.log(8)
    assert last["consistency"] < 0.6 * math.log(8)


def test_the_command_says_what_comes_next(data, tmp_path, capsys):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in {
        "data": data, "output_dir": tmp_path / "run", "resolution": "8x12", "preset": "smoke", "num_layers": 1,
        "train_batch_size": 2, "max_train_steps": 1, "validation_steps": 0, "device": "cpu"}.items()]  # fmt: skip
    main(["pixel-pretrain", *words])
    told = capsys.readouterr().out
    assert f"The encoder is in {tmp_path / 'run' / 'encoder'}" in told
    assert f"workbench train pixel-diffusion --init-from {tmp_path / 'run' / 'encoder'}" in told
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["recipe"] == "pixel-pretrain"
    assert json.dumps(settings["consistency_temperature_at_most_noise"]) == "[0.2, 0.1]"


# ------------------------------------------------------------------------------------------- the probe


def test_the_probe_counts_votes_of_the_nearest():
    known = torch.tensor([[1.0, 0.0], [2.0, 0.2], [0.0, 1.0], [0.1, 3.0], [0.0, 2.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    asked = torch.tensor([[5.0, 0.1], [0.1, 5.0], [0.0, 1.0]])
    assert neighbour_accuracy(known, labels, asked, torch.tensor([0, 1, 2]), neighbours=3) == pytest.approx(2 / 3)
    assert neighbour_accuracy(known, labels, asked[:1], torch.tensor([0]), neighbours=99) in (0.0, 1.0)


def test_validation_asks_about_images_it_does_not_know(data, tmp_path):
    recipe = PretrainingRecipe(pretraining(data, tmp_path))
    figures = recipe.validate(recipe.model, tmp_path, 1)
    assert list(figures) == [f"neighbour_accuracy_at_{sigma}" for sigma in ("0.01", "0.5", "2")]
    assert figures == recipe.validate(recipe.model, tmp_path, 2)
    assert recipe._probe_images().unique().numel() == len(CLASSES) * 4
    few = PretrainingRecipe(replace(recipe.config, probe_images=0))
    assert few.validate(few.model, tmp_path, 1) == {}
