"""Filters of new images: copies and sure answers go, small changes and wrong answers stay."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float, UInt8
from tiny_released import save_clip
from torch import Tensor

from augment_synth.debias_data import DebiasData
from augment_synth.filters import NEAR, Filters, least_change, too_easy
from augment_synth.likeness import ZeroShotLikeness, open_likeness
from augment_synth.synthetic import Synthetic
from workbench.errors import UserError

SIZE = (24, 16)


def pictures(count: int, seed: int) -> UInt8[Tensor, "n 3 h w"]:
    """Coloured blocks: each differs from any other in some cell."""
    blocks = torch.randint(0, 255, (count, 3, 6, 4), generator=torch.Generator().manual_seed(seed))
    return blocks.repeat_interleave(4, 2).repeat_interleave(4, 3).byte()


def data() -> DebiasData:
    images = pictures(6, 0)
    ids = tuple("abcdef")
    return DebiasData(images, torch.tensor([0, 0, 0, 1, 1, 1]), ("bag", "boot"), ids, None, None, None, (), ())


def made(images: UInt8[Tensor, "n 3 h w"], labels: Sequence[int], source: str = "generated") -> Synthetic:
    return Synthetic(images, [{"label": label, "source": source} for label in labels])


def sure(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
    """Of bags where the first pixel is bright."""
    p = images[:, 0, 0, 0].float() / 255
    return torch.stack([p, 1 - p], 1)


def test_copies_and_what_hardly_differs_are_near_duplicates() -> None:
    real, new = data().images, pictures(3, 1)
    barely = (real[0].int() + 3).clamp(max=255).byte()
    images = torch.stack([real[0], barely, new[0], new[0], real[3], new[1]])
    change = least_change(images, torch.tensor([0, 0, 0, 0, 0, 1]), data())
    assert change[0] == 0
    assert change[1] < NEAR
    assert change[2] > NEAR  # the first of its kind
    assert change[3] == 0  # the second
    assert change[4] > NEAR  # a copy, but of another class
    assert change[5] > NEAR


def test_a_small_object_that_is_gone_is_a_change() -> None:
    edited = data().images[:1].clone()
    edited[:, :, 3:6, 2:4] = 255 - edited[:, :, 3:6, 2:4]
    assert least_change(edited, torch.tensor([0]), data())[0] > NEAR


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pictures(11, 2), torch.arange(11) % 2
    whole = least_change(images, labels, data())
    monkeypatch.setattr("augment_synth.filters.AT_ONCE", 2)
    torch.testing.assert_close(least_change(images, labels, data()), whole)


def test_too_easy_is_right_and_surer_than_usual() -> None:
    of_training = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6]])  # bags 0.7 on average, boots 0.6
    new = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9], [0.1, 0.9], [0.45, 0.55]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    easy = too_easy(new, labels, of_training, torch.tensor([0, 0, 1]))
    assert easy.tolist() == [True, False, False, True, False]  # the third is surely wrong: it stays


def test_edits_are_never_too_easy_and_every_row_says_what_was_measured() -> None:
    images = pictures(4, 3)
    images[:, :, :4, :4] = 250
    usual = torch.full((6, 2), 0.5)
    edits = Filters(sure, usual).apply(made(images, [0] * 4, "edited"), data())
    assert len(edits) == 4
    assert edits.left_out == {"near-duplicates": 0, "too easy": 0}
    assert all(row["p_given"] > 0.9 and row["least_change"] > NEAR for row in edits.rows)
    drawn = Filters(sure, usual).apply(made(images, [0, 0, 1, 1]), data())
    assert drawn.left_out == {"near-duplicates": 0, "too easy": 2}
    assert [row["label"] for row in drawn.rows] == [1, 1]
    assert torch.equal(drawn.images, images[2:])


class Suspicious:
    """Believes boots alone."""

    name = "suspicious"

    def scores(self, images: UInt8[Tensor, "n 3 h w"], labels: Sequence[str]) -> Float[Tensor, " n"]:
        return torch.tensor([float(label == "boot") for label in labels])


def test_what_does_not_look_like_its_label_goes() -> None:
    found = Filters(sure, torch.ones(6, 2), Suspicious()).apply(made(pictures(3, 4), [0, 1, 1], "edited"), data())
    assert found.left_out == {"near-duplicates": 0, "too easy": 0, "unlike their label (suspicious)": 1}
    assert [row["label_likeness"] for row in found.rows] == [1.0, 1.0]


def test_nothing_to_filter() -> None:
    nothing = made(torch.empty(0, 3, *SIZE, dtype=torch.uint8), [])
    assert Filters(sure, torch.ones(6, 2)).apply(nothing, data()) is nothing


def test_clip_answers_for_each_image_by_its_own_label(tmp_path: Path) -> None:
    """A CLIP of random weights: between 0 and 1, alike in any batch, by the label."""
    likeness: Any = open_likeness(str(save_clip(tmp_path / "clip")))
    assert isinstance(likeness, ZeroShotLikeness)
    images = pictures(3, 5)
    scores = likeness.scores(images, ["dog", "bag", "dog"])
    assert ((scores > 0) & (scores < 1)).all()
    torch.testing.assert_close(likeness.scores(images[2:], ["dog"]), scores[2:])
    assert not torch.allclose(likeness.scores(images[2:], ["bag"]), scores[2:], atol=1e-6)


def test_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("explain.describe.on_disk", lambda name: False)
    assert open_likeness("none") is None
    assert open_likeness("auto") is None
    with pytest.raises(UserError, match="--semantic-filter none"):
        open_likeness(str(tmp_path))
