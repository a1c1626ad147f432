"""The arms of VALE's benchmark: prompts from the truth, figures of masks that are known, and captions taken apart."""

import pytest
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from vale_arms import CLASSES, Case, _attribution, from_centre, from_shap, from_truth, localisation, statements

from workbench.pixel_classifier import PixelClassifier
from workbench.planted import planted

HEIGHT, WIDTH = 24, 32


class Bright(nn.Module):
    """Two classes: how bright the picture is, and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2, 1, bias=False)
        self.head.weight.data = torch.tensor([[40.0] * 3, [0.0] * 3])[..., None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).mean((2, 3)) - torch.tensor([20.0, 0.0])


def block() -> Bool[Tensor, "h w"]:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[4:12, 16:28] = True
    return mask


def case() -> Case:
    """A bright block, and Shapley values that are on it."""
    image = torch.where(block(), 250, 40).to(torch.uint8).expand(3, -1, -1)
    return Case(image, block(), _attribution(block().float().numpy() / 96, 0, 100, 0, "mean"))


def test_a_mask_that_is_the_truth_has_the_figures_of_it() -> None:
    classifier = PixelClassifier.wrap(Bright(), mean=0.0, std=1.0)
    figures = localisation("SHAP above half, no segmenter", classifier, [case()], "", 0)
    assert figures["iou"] == figures["chosen"] == figures["point_inside"] == figures["right_place"] == 1
    assert figures["remove"] < figures["control_remove"]


def test_true_prompts_are_of_the_mask() -> None:
    prompts = from_truth(case())
    [(x, y)] = prompts.points
    assert block()[int(y), int(x)]
    assert prompts.box == (16, 4, 27, 11)
    found = from_shap(case())
    assert found is not None
    assert block()[round(found.points[0][1]), round(found.points[0][0])]
    assert from_centre(case()).points == ((16, 12),)


def test_captions_are_taken_apart() -> None:
    assert statements("an ankle boot on brick with a ball, a kite and a cup") == {
        ("item", "ankle boot"), ("background", "brick"), ("objects", "ball"), ("objects", "kite"), ("objects", "cup"),
    }  # fmt: skip
    assert statements("a t-shirt on grass") == {("item", "t-shirt"), ("background", "grass")}
    assert statements("a zebra on ice") == statements("") == set()


@pytest.mark.parametrize("index", range(4))
def test_every_true_caption_is_understood(index: int) -> None:
    scene = planted([index], 16, plant="none", classes=CLASSES)
    found = statements(scene.captions[0])
    assert ("item", CLASSES[index].lower()) in found
    assert ("background", scene.background_names[scene.backgrounds[0]]) in found
    assert {what for kind, what in found if kind == "objects"} == set(scene.distractors[0])
