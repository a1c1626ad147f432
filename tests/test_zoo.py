"""What the zoo promises: small, documented generators that make recognisable items at their sizes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import gen
from gen.loading import ZOO, find_pipeline
from workbench.datasets import load_images
from workbench.errors import UserError

MEGABYTES = {"fashion-rpe2d": 8}


def test_every_model_is_named_here() -> None:
    assert sorted(MEGABYTES) == sorted(path.parent.name for path in ZOO.glob("*/model_index.json"))


@pytest.mark.parametrize("name", MEGABYTES)
def test_a_model_is_small_and_has_its_card(name: str) -> None:
    files = [path for path in (ZOO / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MEGABYTES[name] * 1e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    card = (ZOO / name / "README.md").read_text()
    for part in (f"zoo:{name}", "samples.png", "## Measured", "## Training", "seed:", "## Limits"):
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
