"""What a training step of T-TAME computes, and runs of it from the command line: stop, resume, refusals."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from colour_blocks import HEIGHT, WIDTH, blocks, colour_classifier
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from explain.passes import counted
from explain.train import main
from explain.ttame import TTame
from explain.ttame_config import PRESETS, TTameConfig
from explain.ttame_data import cropped, larger
from explain.ttame_memory import megabytes
from explain.ttame_recipe import TTameRecipe, fit
from workbench import seeds
from workbench.classifiers import save_classifier
from workbench.config import from_mapping
from workbench.errors import UserError
from workbench.metrics_log import read_metrics
from workbench.networks import build_classifier
from workbench.pixel_classifier import PixelClassifier
from workbench.training import Training


def config(output: Path, **changes: Any) -> TTameConfig:
    settings: dict[str, Any] = {
        "classifier": "given", "data": "given", "output_dir": output, "max_train_steps": 4, "train_batch_size": 4,
        "device": "cpu", "mixed_precision": "no", "validation_steps": 0, "logging_steps": 1, "learning_rate": 0.05,
    }  # fmt: skip
    return TTameConfig(**{**settings, **changes})


def recipe(output: Path, multi_label: bool = False, **changes: Any) -> TTameRecipe:
    made = TTameRecipe(config(output, **changes), colour_classifier(multi_label=multi_label), blocks(40)[0])
    made.to(torch.device("cpu"))
    return made


# ---- a step ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regularise", ["batch", "own"])
@pytest.mark.parametrize("fill", ["black", "mean"])
def test_a_step_is_the_papers(tmp_path: Path, regularise: str, fill: str) -> None:
    """Against the step written out, from the frozen classifier's own layers and all classes' maps."""
    made = recipe(tmp_path, regularise=regularise, fill=fill, train_batch_size=6, crop_margin=1.25)
    draws = made.draw(6, seeds.generator(0, 1), 1)
    indices = torch.arange(6)
    figures = made.loss(made.model.train(), indices, draws)

    network = made.classifier.network
    stored = made.pictures.images[indices]
    views = []
    for k in range(6):
        top, left = int(draws["top"][k]), int(draws["left"][k])
        view = stored[k, :, top : top + HEIGHT, left : left + WIDTH].float() / 255
        views.append(view.flip(-1) if draws["flip"][k] else view)
    x = torch.stack(views)
    first = network.first(x)
    second = network.second(first.relu())
    seen = network(x).argmax(1)
    every = made.model.train()([first, second], torch.arange(3)).sigmoid()
    own = every[torch.arange(6), seen]
    regularised = every[:, seen] if regularise == "batch" else own[:, None]
    mask = F.interpolate(own[:, None], (HEIGHT, WIDTH), mode="bilinear")
    ground = 0 if fill == "black" else x.mean((2, 3), keepdim=True)
    masked = network(mask * x + (1 - mask) * ground)
    area = (regularised + 5e-4).pow(0.3).mean()
    slopes = (regularised.diff(dim=2) ** 2).sum() + (regularised.diff(dim=3) ** 2).sum()
    border = sum((edge**2).sum() for edge in (regularised[:, :, 0], regularised[:, :, -1],
                                              regularised[..., 0], regularised[..., -1]))  # fmt: skip
    variation = (slopes + 0.3 * border) / 2 / (regularised.shape[0] * regularised.shape[1])
    weight = 0.01 * (32 if regularise == "batch" else 1)
    expected = 1.5 * F.cross_entropy(masked, seen) + 2 * area + weight * variation
    torch.testing.assert_close(figures["loss"], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(figures["mask_area"], own.mean())


def test_features_that_are_kept_are_those_that_are_seen(tmp_path: Path) -> None:
    changes = {"random_flip": False, "crop_margin": 1.0}
    seeing, keeping = recipe(tmp_path, **changes), recipe(tmp_path, cache_features=True, **changes)
    indices, draws = torch.tensor([3, 20, 7, 3]), seeing.draw(4, seeds.generator(0, 1), 1)
    with counted(seeing.classifier) as seen:
        expected = seeing.loss(seeing.model.train(), indices, draws)
    with counted(keeping.classifier) as kept:
        figures = keeping.loss(keeping.model.train(), indices, draws)
    for name, value in expected.items():
        torch.testing.assert_close(figures[name], value, rtol=1e-3, atol=1e-3)
    assert (seen.forward_passes, kept.forward_passes) == (8, 4)
    assert keeping.memory is not None
    assert {kept.dtype for kept in keeping.memory.features} == {torch.float16}
    size = len(keeping.pictures.images) * 3 * (12 * 16 + 6 * 8) * 2 / 1e6
    assert megabytes(keeping.ttame.layers, len(keeping.pictures.images)) == pytest.approx(size)
    assert any("take 0.1 MB of memory" in note for note in keeping.notes)


def test_features_are_not_kept_of_images_that_change_or_where_they_overflow(tmp_path: Path) -> None:
    for changes in ({"random_flip": False}, {"crop_margin": 1.0}):
        with pytest.raises(UserError, match="give --no-random-flip --crop-margin 1"):
            config(tmp_path, cache_features=True, **changes).check()
    classifier = colour_classifier()
    classifier.network.first.weight.data *= 1e6
    settings = config(tmp_path, cache_features=True, random_flip=False, crop_margin=1.0)
    with pytest.raises(UserError, match="do not fit in half precision; leave --cache-features out"):
        TTameRecipe(settings, classifier, blocks(40)[0]).to(torch.device("cpu"))


def test_the_gradient_reaches_the_module_through_the_frozen_classifier(tmp_path: Path) -> None:
    """With nothing but the confidence in the loss."""
    made = recipe(tmp_path, area_weight=0.0, variation_weight=0.0)
    before = {name: value.clone() for name, value in made.classifier.state_dict().items()}
    made.loss(made.model.train(), torch.arange(4), made.draw(4, seeds.generator(0, 1), 1))["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.model.parameters())
    assert all(p.grad is None and not p.requires_grad for p in made.classifier.parameters())
    assert not made.classifier.training
    assert all(torch.equal(before[name], value) for name, value in made.classifier.state_dict().items())


def test_the_callers_classifier_is_left_as_it_was(tmp_path: Path) -> None:
    classifier = colour_classifier()
    fit(classifier, blocks(40)[0], tmp_path / "run", **{k: v for k, v in RUN.items() if k != "resolution"})
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())
    assert not any(module._forward_hooks for module in classifier.modules())


def test_batch_norm_of_the_classifier_does_not_move(tmp_path: Path) -> None:
    network = build_classifier("convnet", 3, image_size=(16, 24), width=8, normalisation="batch", depth=2)
    classifier = PixelClassifier.wrap(network, mean=(0.5,) * 3, std=(0.25,) * 3, size=(16, 24))
    made = TTameRecipe(config(tmp_path / "run"), classifier.train(), blocks(40)[0])
    before = {name: value.clone() for name, value in made.classifier.state_dict().items()}
    Training(made).train()
    assert all(torch.equal(before[name], value) for name, value in made.classifier.state_dict().items())


def test_a_multi_label_classifier_is_trained_by_each_class_it_sees(tmp_path: Path) -> None:
    made = recipe(tmp_path, multi_label=True)
    assert set(made.draw(4, seeds.generator(0, 1), 1)) == {"choice", "top", "left", "flip"}
    made.pictures.images = blocks(40, objects=2)[0]
    made.config.crop_margin = 1.0
    draws = made.draw(40, seeds.generator(0, 1), 1)
    seen = []
    model = Recorder(made.model, seen)
    figures = made.loss(model.train(), torch.arange(40), draws)
    assert figures["loss"].isfinite()
    _, colours, _ = blocks(40, objects=2)
    own = torch.cat(seen)
    assert all(int(a) in b.tolist() for a, b in zip(own, colours, strict=True))
    firsts = (own == colours.min(1).values).float().mean().item()
    assert 0.2 < firsts < 0.8  # now the one, now the other


class Recorder(nn.Module):
    """A module, and the classes that it is asked for."""

    def __init__(self, module: nn.Module, seen: list[Tensor]) -> None:
        super().__init__()
        self.module, self.seen = module, seen

    def forward(self, features: Any, classes: Tensor) -> Tensor:
        self.seen.append(classes)
        return self.module(features, classes)


def test_crops_are_the_drawn_ones() -> None:
    images = torch.arange(2 * 3 * 6 * 8, dtype=torch.uint8).view(2, 3, 6, 8)
    shown = cropped(images, torch.tensor([0, 2]), torch.tensor([3, 1]), torch.tensor([False, True]), (4, 5))
    assert torch.equal(shown[0], images[0, :, 0:4, 3:8])
    assert torch.equal(shown[1], images[1, :, 2:6, 1:6].flip(-1))


def test_the_margin_is_that_of_256_to_224() -> None:
    assert larger((224, 224), 256 / 224) == (256, 256)
    assert larger((28, 20), 256 / 224) == (32, 23)
    assert larger((28, 20), 1.0) == (28, 20)


# ---- settings --------------------------------------------------------------------------------------------------------


def test_presets_fill_in_what_is_not_given(tmp_path: Path) -> None:
    paper = TTameConfig(classifier="c", output_dir=tmp_path)
    assert (paper.optimizer, paper.learning_rate, paper.lr_scheduler) == ("sgd", 1e-3, "one_cycle")
    assert (paper.confidence_weight, paper.area_weight, paper.variation_weight) == (1.5, 2.0, 0.01)
    assert (paper.area_exponent, paper.regularise, paper.ema_decay, paper.fill) == (0.3, "batch", 0.0, "black")
    other = TTameConfig(classifier="c", output_dir=tmp_path, preset="ptame-like", learning_rate=0.5)
    assert (other.optimizer, other.learning_rate, other.variation_weight) == ("adamw", 0.5, 0.0)
    again = from_mapping(TTameConfig, {"classifier": "c", "output_dir": str(tmp_path), "preset": "ptame-like"})
    assert again.optimizer == "adamw"
    assert set(PRESETS["paper"]) == set(PRESETS["ptame-like"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_layers": 0}, "--num-layers is 0; give 1 or more"),
        ({"area_exponent": 0.0}, "--area-exponent is 0.0; give more than 0"),
        ({"area_weight": -1.0}, "--area-weight is -1.0; give 0 or more"),
        ({"crop_margin": 0.9}, "--crop-margin is 0.9; give 1 or more"),
        ({"resolution": "big"}, "'big' is not a size"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0; give more than 0"),
    ],
)
def test_impossible_settings_are_named(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config(tmp_path, **changes).check()


# ---- the command -----------------------------------------------------------------------------------------------------


RUN: dict[str, Any] = {
    "max_train_steps": 4, "train_batch_size": 4, "device": "cpu", "mixed_precision": "no", "validation_steps": 4,
    "checkpointing_steps": 2, "logging_steps": 2, "resolution": "16x24",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier, thirty training images without labels, and seven to test on."""
    root = tmp_path_factory.mktemp("files")
    network = build_classifier("convnet", 3, image_size=(16, 24), width=8, depth=2)
    classifier = PixelClassifier.wrap(network, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=list("abc"), size=(16, 24))
    save_classifier(classifier, root / "classifier", {})
    for split, count in (("train", 30), ("test", 7)):
        (root / "data" / split).mkdir(parents=True)
        for k, image in enumerate(blocks(count)[0]):
            Image.fromarray(np.asarray(image.permute(1, 2, 0))).save(root / "data" / split / f"{k:02d}.png")
    return root


def words(folder: Path, output: Path, **changes: Any) -> list[str]:
    settings = {**RUN, "classifier": folder / "classifier", "data": folder / "data", "output_dir": output, **changes}
    return [
        "ttame",
        *(str(word) for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)),
    ]


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    main(words(folder, output))
    return output


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "explainer" / "model.safetensors")


def test_a_run_leaves_an_explainer(folder: Path, run: Path) -> None:
    from workbench.classifiers import load_classifier

    ttame = TTame.load(run, load_classifier(folder / "classifier"))
    assert [layer.name for layer in ttame.layers] == ["blocks.0.2", "blocks.0", "blocks"]
    assert ttame.record["images"] == 30
    assert ttame.record["settings"]["global_batch_size"] == 4
    assert ttame.explain(torch.rand(2, 3, 20, 30), "top2").values.shape == (4, 20, 30)
    rows = read_metrics(run / "metrics.jsonl")
    assert {"confidence_loss", "area_loss", "variation_loss", "mask_area"} <= rows[0].keys()
    assert {"validation_average_drop", "validation_mask_area"} <= rows[-1].keys()
    with Image.open(run / "samples" / "step-00000004.png") as picture:
        assert picture.size == (2 + 6 * 26, 2 + 4 * 18)  # 7 images, two a row


def test_a_resumed_run_is_the_uninterrupted_one(folder: Path, run: Path, tmp_path: Path) -> None:
    """From the checkpoint in the middle, with SGD's momentum and the norms' statistics."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    stored = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**stored, "output_dir": str(copy)}))
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    shutil.rmtree(copy / "explainer")
    (copy / "finished.json").unlink()
    main(words(folder, copy))
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(copy).items())


def test_a_changed_classifier_is_not_resumed(folder: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    copy, other = tmp_path / "run", tmp_path / "classifier"
    shutil.copytree(run, copy)
    shutil.copytree(folder / "classifier", other)
    stored = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**stored, "classifier": str(other)}))
    from safetensors.torch import save_file

    save_file({k: v + 1 for k, v in load_file(other / "model.safetensors").items()}, other / "model.safetensors")
    with pytest.raises(SystemExit) as stopped:
        main(words(folder, copy, classifier=other))
    assert stopped.value.code == 2
    assert "classifier_fingerprint was" in capsys.readouterr().err


def test_the_stored_settings_do_the_same_run(folder: Path, run: Path, tmp_path: Path) -> None:
    stored = yaml.safe_load((run / "config.yaml").read_text())
    settings = {k: v for k, v in stored.items() if k not in ("recipe", "global_batch_size")}
    again = from_mapping(TTameConfig, {**settings, "output_dir": str(tmp_path / "again")})
    Training(TTameRecipe(again)).train()
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(tmp_path / "again").items())
    wrong = from_mapping(TTameConfig, {**settings, "classifier_fingerprint": "0" * 16})
    with pytest.raises(UserError, match=r"is not the one that the settings were made for"):
        TTameRecipe(wrong)


def test_bf16_is_trained_by_finite_numbers(folder: Path, tmp_path: Path) -> None:
    main(words(folder, tmp_path / "run", mixed_precision="bf16"))
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    assert not any("skipped_steps" in row for row in read_metrics(tmp_path / "run" / "metrics.jsonl"))


def test_a_dry_run_lists_the_layers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*words(folder, tmp_path / "run"), "--dry-run"])
    told = capsys.readouterr().out
    settings, _, layers = told.partition("# layers that --layers can name:\n")
    assert yaml.safe_load(settings)["parameters"] == 3 * (8 * 8 + 8 + 16) + 24 * 3 + 3
    assert "  blocks.1 (8x4x6), channels-first" in layers
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_is_looked_for(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*words(folder, tmp_path / "run", mixed_precision="bf16"), "--find-learning-rate"])
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == ["rate", "loss"]
    assert re.fullmatch(r"suggested: --learning-rate [\de.-]+", told[-1])
    assert not (tmp_path / "run").exists()


def test_without_a_split_of_its_own_some_images_are_held_out(folder: Path, tmp_path: Path) -> None:
    made = TTameRecipe(config(tmp_path, classifier=str(folder / "classifier"), data=str(folder / "data" / "train")))
    assert (len(made.pictures.images), len(made.pictures.held_out)) == (27, 3)
    few = TTameRecipe(
        config(tmp_path, classifier=str(folder / "classifier"), data=str(folder / "data"), max_images=9)
    )  # fmt: skip
    assert (len(few.pictures.images), len(few.pictures.held_out)) == (9, 7)
    assert any("9 of the 30 images are learned from" in note for note in few.notes)
    assert few.pictures.images.shape[1:] == (3, 19, 28)


def test_a_class_that_owns_the_black_image_is_told(tmp_path: Path) -> None:
    classifier = colour_classifier()
    classifier.network.head.bias.data = torch.tensor([0.0, 3.0, 0.0])
    images = blocks(40)[0]
    notes = TTameRecipe(config(tmp_path), classifier, images).notes
    assert any("sees green in a black image (91%)" in note and "--fill mean" in note for note in notes)
    assert not any("black" in note for note in TTameRecipe(config(tmp_path, fill="mean"), classifier, images).notes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"classifier": "nowhere"}, "'nowhere' is no folder and no classifier"),
        ({"data": "nowhere"}, "no file or folder nowhere"),
        ({"layers": "blocks.9"}, "'blocks.9' is no layer that puts out one map over the image"),
        ({"layers": "head"}, "'head' is no layer"),
        ({"max_images": 1}, "has 1 images to learn from"),
    ],
)
def test_mistakes_are_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words(folder, tmp_path / "run", **changes))
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.startswith("error: ")
    assert sentence in told
    assert not (tmp_path / "run").exists()
