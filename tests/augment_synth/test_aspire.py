"""Steps 1 to 5 on coloured scenes, with a classifier whose reliance is known because it is written down."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_released import save_language_model
from torch import Tensor, nn

from augment_synth.aspire import augmentation, discover
from augment_synth.debias_config import DebiasConfig
from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import StepCache
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

NAMES = ("bag", "boot")
COLOURS = {"grass": (40, 160, 40), "gravel": (120, 120, 120), "sand": (210, 190, 60)}


class ByBackground(nn.Module):
    """Says bag where the upper left corner is green: all it sees is the background."""

    def forward(self, pixels: Tensor) -> Tensor:
        corner = pixels[:, :, 0, 0]
        green = corner[:, 1] - corner[:, 0]
        return torch.stack([20 * (green - 0.2), 20 * (0.2 - green)], 1)


class ByObject(nn.Module):
    """Says bag where the middle is red: the label's own object."""

    def forward(self, pixels: Tensor) -> Tensor:
        middle = pixels[:, :, pixels.shape[2] // 2, pixels.shape[3] // 2]
        red = middle[:, 0] - middle[:, 2]
        return torch.stack([10 * red, -10 * red], 1)


def scenes(count: int = 80) -> DebiasData:
    """A red bag mostly on grass, a blue boot mostly on gravel, noise over all; each tenth image has the other one's."""
    images = torch.randint(0, 12, (count, 3, 20, 16), generator=torch.Generator().manual_seed(0))
    captions = []
    for position in range(count):
        label = position % 2
        background = ("grass", "gravel")[label if position % 20 > 1 else 1 - label]
        images[position] += torch.tensor(COLOURS[background])[:, None, None]
        images[position, :, 6:13, 5:11] = torch.tensor([(220, 20, 20), (20, 20, 220)][label])[:, None, None]
        captions.append(f"a {NAMES[label]} on {background}")
    masks = torch.zeros(count, 20, 16, dtype=torch.bool)
    masks[:, 6:13, 5:11] = True
    labels = torch.arange(count) % 2
    ids = tuple(f"{k:04d}" for k in range(count))
    return DebiasData(images.byte(), labels, NAMES, ids, tuple(captions), masks, None, (), ())


def config(**changes: Any) -> DebiasConfig:
    values: dict[str, Any] = {"data": "scenes", "classifier": "toy", "output": Path("unused"), "min_support": 8}
    return DebiasConfig(**(values | changes))


def classifier(network: nn.Module, names: Sequence[str] = NAMES) -> PixelClassifier:
    network.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    return PixelClassifier.wrap(network, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), class_names=names)


@pytest.fixture
def cache(tmp_path: Path) -> StepCache:
    return StepCache(tmp_path / "steps")


def test_what_it_relies_on_is_found(cache: StepCache) -> None:
    found = discover(config(), scenes(), classifier(ByBackground()), cache)
    assert {(f.label, f.kind, f.name) for f in found.spurious} == {
        (0, "background", "grass"),
        (1, "background", "gravel"),
    }
    assert all(f.flip_rate == 1 and f.placebo_flip_rate == 0 for f in found.spurious)
    edits = augmentation(found, "default", 0.02)
    assert {(row.label, row.replaced_by) for row in edits} == {(0, "gravel"), (1, "grass")}
    assert all(row.label_change == 0 and row.flipped for row in edits)
    # only correct images are edited: those on the other's background are not
    assert all(row.pred_before == row.label for row in found.rows)


def test_nothing_is_found_where_there_is_nothing(cache: StepCache) -> None:
    found = discover(config(), scenes(), classifier(ByObject()), cache)
    assert found.spurious == []
    assert augmentation(found, "default", 0.02) == []
    assert len(found.ranking) == 4  # both backgrounds of both classes were tried
    assert all(feature.flip_rate == 0 for feature in found.ranking)


def test_results_are_read_from_the_cache(cache: StepCache, monkeypatch: pytest.MonkeyPatch) -> None:
    data, judge = scenes(), classifier(ByBackground())
    first = discover(config(), data, judge, cache)
    monkeypatch.setattr("augment_synth.edits.Editing._make", lambda *_: pytest.fail("edited again"))
    assert discover(config(), data, judge, cache).rows == first.rows


def test_another_classifier_shares_no_edits(cache: StepCache) -> None:
    data = scenes()
    discover(config(), data, classifier(ByBackground()), cache)
    other = classifier(ByObject())
    other.network.unused.data += 1
    assert discover(config(), data, other, cache).spurious == []


def test_edits_given_and_vetoed(cache: StepCache) -> None:
    data, judge = scenes(), classifier(ByBackground())
    given = discover(config(edits=["background:grass"]), data, judge, cache)
    assert {f.name for f in given.ranking} == {"grass"}
    vetoed = discover(config(veto=["bag:grass"]), data, judge, cache)
    assert [f.name for f in vetoed.spurious] == ["gravel"]
    assert any("vetoed" in f.reason for f in vetoed.ranking)


def test_paper_mode_takes_few_and_flipped_ones(cache: StepCache) -> None:
    found = discover(config(mode="paper"), scenes(200), classifier(ByBackground()), cache)
    assert not any(row.placebo for row in found.rows)
    edits = augmentation(found, "paper", 0.02)
    assert [sum(row.label == label for row in edits) for label in (0, 1)] == [15, 15]
    assert {f.score for f in found.spurious} == {1.0}


def test_screening_stops_early(cache: StepCache) -> None:
    found = discover(config(min_support=20), scenes(600), classifier(ByObject()), cache)
    assert len(found.rows) < found.grid / 2


def test_what_it_refuses(cache: StepCache) -> None:
    data = scenes(40)
    with pytest.raises(UserError, match="does not know boot"):
        discover(config(), data, classifier(ByBackground(), ("bag", "hat")), cache)
    wrong = DebiasData(**{**vars(data), "labels": 1 - data.labels})
    with pytest.raises(UserError, match="no training image right"):
        discover(config(), wrong, classifier(ByObject()), cache)
    silent = DebiasData(**{**vars(data), "captions": None})
    with pytest.raises(UserError, match="captioner"):
        discover(config(captioner="column"), silent, classifier(ByObject()), cache)
    with pytest.raises(UserError, match="which images"):
        discover(config(edits=["background:grass"]), silent, classifier(ByObject()), cache)
    with pytest.raises(UserError, match="object:PHRASE"):
        config(edits=["grass"]).check()


def test_answers_left_to_the_rules_are_counted_in_the_notes(cache: StepCache, tmp_path: Path) -> None:
    """Also when the features are read from the cache."""
    model = save_language_model(tmp_path / "llm", '{"foreground": []')
    for _ in range(2):
        found = discover(config(extractor=str(model)), scenes(40), classifier(ByBackground()), cache)
        [note] = [note for note in found.notes if "left to the rules" in note]
        assert "4 of 4 answers were broken" in note  # a bag and a boot, on grass and on gravel
        assert "4 were broken then too" in note
    assert {f.caption for f in found.editing.subject.features} == {
        f"a {name} on {place}" for name in NAMES for place in ("grass", "gravel")
    }


def test_the_labels_object_without_masks(cache: StepCache) -> None:
    """A segmenter cuts it out of the middle; what swapping keeps is then nearly the object."""
    data = scenes(40)
    silent = DebiasData(**{**vars(data), "masks": None})
    found = discover(config(segmenter="random-walker"), silent, classifier(ByBackground()), cache)
    cut = found.editing.subject.label_masks
    assert data.masks is not None
    union = (cut | data.masks).sum((1, 2))
    assert ((cut & data.masks).sum((1, 2)) / union).mean() > 0.6
    assert any("box in the middle" in component.name for component in found.components)


def test_an_object_that_it_relies_on(cache: StepCache) -> None:
    """White dots in the corner, named by captions: found by the pointer, removed, and the answer changes."""
    data = scenes(240)
    has = [(k % 2 == 1) != (k % 14 < 2) for k in range(len(data))]  # not always where the gravel is
    images = data.images.clone()
    for k in range(len(data)):
        if has[k]:
            images[k, :, 1:4, 11:14] = 250
    captions = tuple(f"a {NAMES[k % 2]}" + (" with a ball" if has[k] else "") for k in range(len(data)))
    dotted = DebiasData(**{**vars(data), "images": images, "captions": captions})
    found = discover(config(pointer_steps=80), dotted, classifier(ByBall()), cache)
    assert [(f.label, f.kind, f.name) for f in found.spurious] == [(1, "object", "ball")]
    assert found.spurious[0].placebo_flip_rate < 0.3


class ByBall(nn.Module):
    """Says boot where the place of the dots is white."""

    def forward(self, pixels: Tensor) -> Tensor:
        white = pixels[:, :, 1:4, 11:14].mean((1, 2, 3))
        return torch.stack([20 * (0.8 - white), 20 * (white - 0.8)], 1)
