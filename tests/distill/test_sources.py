"""Real images held out by class, by the seed, and never in two places."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distill.data import as_float, checksum, hold_out, load_sources
from workbench import seeds
from workbench.datasets import LabelledImages
from workbench.errors import UserError


def numbered(sizes: list[int]) -> LabelledImages:
    """Images whose pixel says which they are, so many of each class."""
    labels = torch.cat([torch.full((size,), k) for k, size in enumerate(sizes)])
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 3, 2).contiguous()
    return LabelledImages(images, labels, tuple("abcdefgh"[: len(sizes)]), "numbered")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.floats(0, 0.9), st.integers(0, 100))
def test_held_out_images_are_a_share_of_each_class(sizes: list[int], share: float, seed: int) -> None:
    data = numbered(sizes)
    kept, held = hold_out(data, share, seeds.generator(seed))
    together = torch.cat([kept.images, held.images])[:, 0, 0, 0]
    assert sorted(together.tolist()) == list(range(sum(sizes)))
    for label, size in enumerate(sizes):
        out = int((held.labels == label).sum())
        assert out == 0 if share == 0 else abs(out - share * size) <= 1
        assert out < size


def test_the_seed_says_which() -> None:
    data = numbered([30, 30])
    first = hold_out(data, 0.5, seeds.generator(0))[1].images
    assert torch.equal(first, hold_out(data, 0.5, seeds.generator(0))[1].images)
    assert not torch.equal(first, hold_out(data, 0.5, seeds.generator(1))[1].images)


def write(folder: Path, count: int = 12, size: tuple[int, int] = (8, 6)) -> Path:
    pixels = np.random.default_rng(0)
    for label in ("bag", "coat"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            image = pixels.integers(0, 255, (*size, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / label / f"{number}.png")
    return folder


def test_a_test_split_is_taken_where_there_is_one(tmp_path: Path) -> None:
    write(tmp_path / "train", 20)
    write(tmp_path / "test", 3)
    found = load_sources(str(tmp_path))
    assert [len(part) for part in found] == [36, 4, 6]
    assert len(load_sources(str(tmp_path), validation_share=0.0).validation) == 0


def test_else_a_tenth_of_the_images_is_kept_for_the_test(tmp_path: Path) -> None:
    found = load_sources(str(write(tmp_path / "images", 20)), resolution=(4, 6), classes=["coat", "bag"])
    assert [len(part) for part in found] == [32, 4, 4]
    assert found.train.images.shape[1:] == (3, 4, 6)
    assert found.test.label_names == ("coat", "bag")
    pixels = [part.images.flatten(1).unique(dim=0) for part in found]
    assert len(torch.cat(pixels).unique(dim=0)) == sum(map(len, pixels))


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    write(tmp_path / "images")
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "bag" / "other.png")
    with pytest.raises(UserError, match="have several sizes; give one with --resolution"):
        load_sources(str(tmp_path / "images"))


def test_checksum_tells_pixels_labels_and_names_apart() -> None:
    data = numbered([3, 4])
    other = numbered([4, 3])
    assert checksum(data) == checksum(numbered([3, 4]))
    assert len({checksum(data), checksum(other), checksum(data.select([0, 1, 2, 3]))}) == 3
    assert as_float(data).max() == 6 / 255
