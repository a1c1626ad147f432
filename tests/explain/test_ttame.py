"""T-TAME on a classifier of colours: it finds the block, costs one pass, and speaks of its own classifier only."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from colour_blocks import HEIGHT, NAMES, WIDTH, blocks, colour_classifier
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from explain.layers import read
from explain.passes import counted
from explain.saliency import explain
from explain.ttame import TTame
from explain.ttame_recipe import fit
from workbench.errors import UserError

SETTINGS: dict[str, Any] = {
    "max_train_steps": 60, "train_batch_size": 16, "learning_rate": 0.05, "device": "cpu", "mixed_precision": "no",
    "crop_margin": 1.0, "validation_steps": 0, "logging_steps": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ttame") / "run"
    images, _, _ = blocks(300)
    fit(colour_classifier(), images, folder, **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def ttame(run: Path) -> TTame:
    return TTame.load(run, colour_classifier())


def scaled(images: Tensor) -> Tensor:
    return images.float() / 255


def hit_rate(values: Tensor, masks: Tensor) -> float:
    """Share of maps whose highest place is on the object."""
    return masks.flatten(1).gather(1, values.flatten(1).argmax(1, keepdim=True)).float().mean().item()


# ---- what it explains ------------------------------------------------------------------------------------------------


def test_it_finds_what_the_classifier_needs(ttame: TTame) -> None:
    images, colours, masks = blocks(64, seed=1)
    maps = ttame.explain(scaled(images))
    assert torch.equal(maps.targets, colours[:, 0])
    assert maps.values.shape == (64, HEIGHT, WIDTH)
    assert hit_rate(maps.values, masks[:, 0]) > 0.95
    inside = maps.values[masks[:, 0]].mean() / maps.values[~masks[:, 0]].mean()
    assert inside > 2.5


def test_maps_of_two_classes_are_of_two_objects(ttame: TTame) -> None:
    images, colours, masks = blocks(32, objects=2, seed=2)
    maps = ttame.explain(scaled(images), colours)
    assert torch.equal(maps.targets, colours.flatten())
    assert hit_rate(maps.values, masks.flatten(0, 1)) > 0.9


def test_one_forward_pass_for_all_classes(ttame: TTame) -> None:
    images = scaled(blocks(5)[0])
    with counted(ttame.classifier) as cost:
        maps = ttame.explain(images, "top3")
    assert (cost.forward_passes, cost.backward_passes) == (5, 0)
    assert (maps.forward_passes, maps.backward_passes, len(maps)) == (5, 0, 15)
    assert maps.targets.view(5, 3).sort().values.tolist() == [[0, 1, 2]] * 5
    for target in range(3):
        alone = ttame.explain(images, target)
        torch.testing.assert_close(alone.values, maps.values[maps.targets == target])


def test_an_image_is_explained_the_same_alone_and_in_any_size(ttame: TTame) -> None:
    images = scaled(blocks(3)[0])
    together = ttame.explain(images, "blue")
    torch.testing.assert_close(ttame.explain(images[1:2], "blue").values[0], together.values[1])
    large = ttame.explain(F.interpolate(images, (50, 90), mode="bilinear"), "blue")
    assert large.values.shape == (3, 50, 90)
    assert large.raw is not None
    assert together.raw is not None
    assert large.raw.shape == together.raw.shape == (3, HEIGHT // 2, WIDTH // 2)


def test_kinds_of_normalisation(ttame: TTame) -> None:
    images = scaled(blocks(4)[0])
    features, _ = read(ttame.classifier, ttame.layers, images)
    with torch.no_grad():
        logits = ttame.module(features, torch.tensor([2]))[:, 0]
    raw, sigmoid, minmax = (ttame.explain(images, 2, normalise=kind) for kind in ("raw", "sigmoid", "minmax"))
    for maps in (raw, sigmoid, minmax):
        torch.testing.assert_close(maps.raw, logits)
    stretched = torch.stack([(one - one.min()) / (one.max() - one.min() + 1e-10) for one in logits])
    for maps, small in ((raw, logits), (sigmoid, logits.sigmoid()), (minmax, stretched)):
        expected = F.interpolate(small[:, None], (HEIGHT, WIDTH), mode="bilinear")[:, 0]
        torch.testing.assert_close(maps.values, expected)


def test_the_masks_own_figures_are_not_stretched(ttame: TTame) -> None:
    images = scaled(blocks(4)[0])
    maps = ttame.explain(images, "top2")
    assert maps.raw is not None
    for n, mask in enumerate(maps.raw.sigmoid()):
        assert float(maps.figures["mask_area"][n]) == pytest.approx(float(mask.mean()), abs=1e-6)
        assert float(maps.figures["mask_peak"][n]) == pytest.approx(float(mask.max()), abs=1e-6)
    seen, other = maps.figures["mask_peak"].view(4, 2).unbind(1)
    assert (seen > other + 0.2).all()  # stretched, both would be 1


def test_a_flat_map_is_zero_and_not_divided_by_zero(ttame: TTame) -> None:
    maps = ttame.explain(torch.full((1, 3, HEIGHT, WIDTH), 0.5))
    assert maps.values.isfinite().all()


# ---- on disk ---------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(ttame: TTame, run: Path, tmp_path: Path) -> None:
    images = scaled(blocks(3)[0])
    expected = ttame.explain(images)
    folder = ttame.save(tmp_path / "copy")
    for place in (folder, run, run / "explainer"):
        assert torch.equal(TTame.load(place, colour_classifier()).explain(images).values, expected.values)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert not {name for name in load_file(folder / "model.safetensors") if "network" in name}  # no classifier
    with pytest.raises(UserError, match="exists already"):
        ttame.save(folder)
    assert ttame.save(folder, overwrite=True) == folder


def test_the_card_says_whose_it_is(run: Path) -> None:
    card = (run / "explainer" / "README.md").read_text()
    for words in ("first (3x12x16)", "second (3x6x8)", "60 steps of 16", "--method ttame", "sufficiency map"):
        assert words in card


def test_another_classifiers_module_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match=r"explains another classifier than this one \(fingerprint [0-9a-f]{16}, not"):
        TTame.load(run, colour_classifier(scale=30.0))


def test_a_module_of_the_same_layers_is_taken_by_force(ttame: TTame, run: Path) -> None:
    other, images = colour_classifier(scale=30.0), scaled(blocks(3)[0])
    forced = TTame.load(run, other, force=True)
    assert forced.classifier is other
    torch.testing.assert_close(forced.explain(images, 1).values, ttame.explain(images, 1).values)


def test_a_module_of_other_layers_is_refused_even_by_force(run: Path) -> None:
    without, wide, many = (colour_classifier() for _ in range(3))
    del without.network.second
    with pytest.raises(UserError, match="reads the layer second, which this classifier does not have"):
        TTame.load(run, without, force=True)
    wide.network.second = nn.Conv2d(3, 6, 2, stride=2)
    wide.network.head = nn.Linear(6, 3)
    many.network.head = nn.Linear(3, 5)
    for classifier, has in ((wide, r"has \[3, 6\] and 3"), (many, r"has \[3, 3\] and 5")):
        classifier.label_names = ()
        with pytest.raises(
            UserError, match=rf"reads \[3, 3\] channels of a classifier of 3 classes, and this one {has}"
        ):
            TTame.load(run, classifier, force=True).explain(scaled(blocks(1)[0]))


def test_an_untrained_module_shows_and_saves_nothing(run: Path, tmp_path: Path) -> None:
    fresh = TTame.build(colour_classifier())
    with pytest.raises(UserError, match=r"has not been trained, and its maps would mean nothing; train it with"):
        fresh.explain(scaled(blocks(1)[0]))
    with pytest.raises(UserError, match="untrained attention module is not saved"):
        fresh.save(tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()
    shutil.copytree(run / "explainer", tmp_path / "reset")
    weights = tmp_path / "reset" / "model.safetensors"
    untrained = {k: v.zero_() if "num_batches" in k else v for k, v in load_file(weights).items()}
    save_file(untrained, weights)
    with pytest.raises(UserError, match="has not been trained; train it again"):
        TTame.load(tmp_path / "reset", colour_classifier())


@pytest.mark.parametrize("damage", ["no weights", "short weights", "no layers", "not json", "other shapes"])
def test_damage_is_a_sentence(run: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(run / "explainer", folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    values = json.loads(config.read_text())
    if damage == "no weights":
        weights.unlink()
    elif damage == "short weights":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "not json":
        config.write_text("{")
    else:
        changed = {"layers": None} if damage == "no layers" else {"num_classes": 9}
        config.write_text(json.dumps({**values, **changed}))
    with pytest.raises(UserError, match=r"is damaged|holds no trained explainer"):
        TTame.load(folder, colour_classifier())


def test_a_folder_without_an_explainer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no trained explainer; give a folder such as runs/NAME"):
        TTame.load(tmp_path, colour_classifier())
    (tmp_path / "config.yaml").write_text("recipe: ttame")
    with pytest.raises(UserError, match=r"is a training run that is not finished; run its training command again"):
        TTame.load(tmp_path, colour_classifier())


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [(3, "no class number 3: the classifier's go from 0 to 2"), ("gren", "no class 'gren': the nearest are green")],
)
def test_a_class_that_is_not_there(ttame: TTame, targets: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ttame.explain(scaled(blocks(1)[0]), targets)


def test_a_single_class_is_no_choice_unless_it_is_yes_or_no() -> None:
    sure, yes_or_no = colour_classifier(), colour_classifier(multi_label=True)
    for classifier in (sure, yes_or_no):
        classifier.network.head, classifier.label_names = nn.Linear(3, 1), ()
    with pytest.raises(UserError, match=r"a single class, of which it is always sure.*multi_label=True"):
        TTame.build(sure)
    with pytest.raises(UserError, match="a single class, of which it is always sure"):
        explain("gradcam", sure, scaled(blocks(1)[0]))
    assert TTame.build(yes_or_no).module.num_classes == 1
    assert explain("gradcam", yes_or_no, scaled(blocks(2)[0])).targets.tolist() == [0, 0]


def test_images_that_are_none(ttame: TTame) -> None:
    with pytest.raises(UserError, match=r"float pixels in \[0, 1\], not torch.uint8"):
        ttame.explain(blocks(1)[0])
    with pytest.raises(UserError, match="add a batch axis"):
        ttame.explain(scaled(blocks(1)[0])[0])


def test_maps_that_are_not_numbers(ttame: TTame) -> None:
    with pytest.raises(UserError, match="the maps are not finite numbers"):
        ttame.explain(torch.full((1, 3, HEIGHT, WIDTH), torch.nan), NAMES[0])
