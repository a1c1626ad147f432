"""What the zoo promises: small, documented models that do what their cards say."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gen
from explain.captioner import GAP, Captioner
from explain.prompts import Prompts
from explain.segment import open_segmenter
from explain.stability import iou
from gen.loading import ZOO, find_pipeline
from workbench.datasets import load_images
from workbench.errors import UserError
from workbench.fashion_mnist import LABEL_NAMES
from workbench.planted import planted
from workbench.tokens import tokenize

MEGABYTES = {"fashion-rpe2d": 8, "fashion-inpaint": 10, "small-sam": 12, "small-captioner": 12}
GENERATORS = ("fashion-rpe2d", "fashion-inpaint")


def test_every_model_is_named_here() -> None:
    assert sorted(MEGABYTES) == sorted(path.parent.name for path in ZOO.glob("*/README.md"))
    assert sorted(GENERATORS) == sorted(path.parent.name for path in ZOO.glob("*/model_index.json"))


@pytest.mark.parametrize("name", MEGABYTES)
def test_a_model_is_small_and_has_its_card(name: str) -> None:
    files = [path for path in (ZOO / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MEGABYTES[name] * 1e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    card = (ZOO / name / "README.md").read_text()
    for part in (f"zoo:{name}", "## Training", "seed:"):
        assert part in card
    assert "THIS_FOLDER" not in card


@pytest.mark.parametrize("name", GENERATORS)
def test_the_card_of_what_makes_pictures_has_some(name: str) -> None:
    card = (ZOO / name / "README.md").read_text()
    assert (ZOO / name / "samples.png").is_file()
    for part in ("samples.png", "## Measured", "## Limits"):
        assert part in card


@pytest.mark.parametrize("size", [(16, 16), (28, 28), (40, 28), (56, 56)])
def test_fashion_items_are_recognisable(size: tuple[int, int]) -> None:
    """By the nearest class means of real images, which know two thirds of real ones; chance is 0.1."""
    pipe = gen.load("zoo:fashion-rpe2d")
    pipe.set_progress_bar_config(disable=True)
    labels = list(range(10)) * 4
    images = pipe(labels, *size, 10, 1.5, torch.Generator().manual_seed(0), output_type="pt").images
    assert images.shape == (40, 1, *size)
    real = load_images("fashion-mnist:extract", "train", size)
    means = torch.stack([real.images[real.labels == k].float().mean(0) for k in range(10)]) / 255
    seen = F.normalize(images.flatten(1)) @ F.normalize(means.flatten(1)).T
    assert (seen.argmax(1) == torch.tensor(labels)).float().mean() > 0.4


def test_the_zoo_is_found_by_name(tmp_path: Path) -> None:
    assert find_pipeline("zoo:fashion-rpe2d") == ZOO / "fashion-rpe2d"
    with pytest.raises(UserError, match=r"there is no zoo:fashion; the zoo holds .*fashion-rpe2d"):
        gen.load("zoo:fashion")


def test_the_inpainter_fills_the_hole_in_several_ways_and_nothing_else() -> None:
    pipe = gen.load("zoo:fashion-inpaint")
    pipe.set_progress_bar_config(disable=True)
    picture = np.pad(load_images("fashion-mnist:extract", "test", (28, 28)).images[3][0].numpy(), ((4, 9), (6, 0)))
    hole = np.zeros(picture.shape, bool)
    hole[12:25, 14:27] = True
    filled = [np.asarray(image) for image in pipe(picture, hole, num_variants=4, seed=0).images]
    assert all((one[~hole] == picture[~hole]).all() for one in filled)
    contents = np.stack([one[hole] for one in filled]).astype(float)
    assert np.abs(contents[:, None] - contents[None]).mean((0, 1, 2)) > 3  # gray levels apart
    assert contents.std(1).min() > 5  # none is flat


def test_the_small_sam_cuts_out_held_out_items() -> None:
    scenes = planted(range(12), (96, 96), split="test", plant="none")
    segmenter, found = open_segmenter("zoo:small-sam"), []
    for image, mask in zip(scenes.images, scenes.masks, strict=True):
        places = mask.nonzero()
        y, x = places[(places - places.float().mean(0)).norm(dim=1).argmin()].tolist()
        masks, quality = segmenter.masks(segmenter.embed(image), Prompts(((float(x), float(y)),), (1,), None, (1.0,)))
        found.append(iou(masks[quality.argmax()], mask))
    assert sum(found) / len(found) > 0.85


def test_the_captioner_says_little_that_is_not_so() -> None:
    captioner = Captioner.load(ZOO / "small-captioner")
    scenes = planted(range(40), (64, 64), split="test", plant="none", classes=LABEL_NAMES)
    least = captioner.record["least_word_confidence"]
    said = [caption.sure(least).split() for caption in captioner.caption(scenes.images)]
    true = [set(tokenize(caption)) for caption in scenes.captions]
    wrong = sum(word not in words for told, words in zip(said, true, strict=True) for word in told if word != GAP)
    assert wrong <= 0.05 * sum(map(len, said))
    backgrounds = [scenes.background_names[number] for number in scenes.backgrounds]
    assert sum(name in told for name, told in zip(backgrounds, said, strict=True)) >= 36
