"""ASPIRE on planted scenes, against what was planted; the classifier sees the border of the picture alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from augment_synth.aspire import Discovery, augmentation, discover
from augment_synth.debias_config import DebiasConfig
from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import StepCache
from augment_synth.removal import shrunk
from augment_synth.synthetic import decoded
from workbench.pixel_classifier import PixelClassifier
from workbench.planted import planted
from workbench.scenes import Scenes

pytestmark = pytest.mark.oracle
SIZE = (24, 32)


class Border(nn.Module):
    """Says bag where the rows at the top and bottom are greener than gravel is."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(60.0))

    def forward(self, pixels: Tensor) -> Tensor:
        red, green, blue = pixels[:, :, [0, 1, -2, -1]].mean((2, 3)).unbind(1)
        green = (green - (red + blue) / 2) / (red + green + blue)
        return self.scale * torch.stack([green - 0.06, 0.06 - green], 1)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return planted(range(240), SIZE, seed=3, correlation=0.9)


@pytest.fixture(scope="module")
def found(scenes: Scenes, tmp_path_factory: pytest.TempPathFactory) -> Discovery:
    data = DebiasData(
        images=scenes.images, labels=scenes.labels, label_names=scenes.label_names, ids=tuple(map(str, range(240))),
        captions=scenes.captions, masks=scenes.masks, attributes=None, attribute_names=(), notes=(),
    )  # fmt: skip
    judge = PixelClassifier.wrap(Border(), mean=(0.0,) * 3, std=(1.0,) * 3, class_names=scenes.label_names)
    config = DebiasConfig(data="planted", classifier="border", output=Path("unused"), pointer_steps=20)
    return discover(config, data, judge, StepCache(tmp_path_factory.mktemp("steps")))


def test_what_was_planted_is_found_and_nothing_else(found: Discovery) -> None:
    assert {(f.label, f.kind, f.name) for f in found.spurious} == {
        (0, "background", "grass"),
        (1, "background", "gravel"),
    }
    for feature in found.spurious:
        assert feature.placebo_edits >= 20
        assert feature.placebo_flip_rate < feature.flip_rate / 4
    tried = {(feature.kind, feature.name) for feature in found.ranking}
    assert {("object", "ball"), ("object", "kite"), ("object", "cup")} <= tried


def test_the_true_object_stays_as_it_is_in_all_that_is_trained_on(found: Discovery, scenes: Scenes) -> None:
    edits = augmentation(found, "default", 0.02)
    assert len(edits) > 100
    positions = [row.position for row in edits]
    after, before, truth = decoded(edits, SIZE), scenes.images[positions], shrunk(scenes.masks[positions])
    inside = truth[:, None].expand_as(before)
    assert torch.equal(after[inside], before[inside])
    assert (after != before).float().mean() > 0.2
    assert [row.label for row in edits] == scenes.labels[positions].tolist()


def test_the_background_that_it_got_is_the_one_it_is_said_to_have(found: Discovery, scenes: Scenes) -> None:
    """By colour: grass is greener, for nearly all tints."""
    edits = augmentation(found, "default", 0.02)
    free = ~found.editing.subject.occupied[[row.position for row in edits]]
    means = [image.float()[:, outside].mean(1) for image, outside in zip(decoded(edits, SIZE), free, strict=True)]
    red, green, blue = torch.stack(means).unbind(1)
    green_ones = green > 1.3 * (red + blue) / 2
    agreed = green_ones == torch.tensor([row.replaced_by == "grass" for row in edits])
    assert agreed.float().mean() > 0.9
