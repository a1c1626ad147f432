"""Groups of class and attribute, and the table of accuracies."""

import pytest
import torch
from halves import halves
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from augment_synth.groups import SYNTHETIC, GroupedImages, group_table, grouped
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier


class SaysLeft(nn.Module):
    """Class 0 where the first pixel is dark."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.5))

    def forward(self, pixels: Tensor) -> Tensor:
        dark = pixels[:, 0, 0, 0] < self.threshold
        return torch.stack([dark, ~dark], 1).float()


def says_left() -> PixelClassifier:
    return PixelClassifier.wrap(SaysLeft(), mean=0.0, std=1.0, class_names=("left", "right"))


def images_of(groups: list[int], right: list[bool], labels_of: tuple[int, ...] = (0, 0, 1, 1)) -> GroupedImages:
    """One pixel each, classified right or wrong."""
    labels = torch.tensor([labels_of[group] for group in groups])
    bright = labels.bool() == torch.tensor(right)
    images = (bright.view(-1, 1, 1, 1) * torch.full((1, 1, 2, 3), 255)).byte()
    names = tuple("abcd")
    return GroupedImages(images, labels, ("left", "right"), torch.tensor(groups), names, torch.zeros(len(groups)) > 0)


def test_the_table_of_a_hand_made_case() -> None:
    data = images_of([0, 0, 0, 0, 2, 2, 3], [True, True, True, False, True, False, True])
    table = group_table(says_left(), data, batch_size=3, train_counts={"a": 10, "c": 30, "b": 60})
    assert [(row.group, row.n, row.accuracy, row.train_n) for row in table.rows] == [
        ("a", 4, 0.75, 10), ("c", 2, 0.5, 30), ("d", 1, 1.0, 0),
    ]  # fmt: skip
    assert table.worst == 0.5
    assert table.average == pytest.approx(5 / 7)
    assert table.weighted == pytest.approx((10 * 0.75 + 30 * 0.5) / 40)


def test_without_groups_the_classes_are_the_groups_and_nothing_is_weighted() -> None:
    data = images_of([0, 0, 2, 2], [True, False, True, True])
    bare = GroupedImages(data.images, data.labels, data.label_names, None, (), data.synthetic)
    table = group_table(says_left(), bare)
    assert [(row.group, row.accuracy) for row in table.rows] == [("left", 0.5), ("right", 1.0)]
    assert table.weighted is None


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30))
def test_the_average_is_plain_accuracy_and_the_worst_is_least(cases: list[tuple[int, bool]]) -> None:
    groups, right = map(list, zip(*cases, strict=True))
    table = group_table(says_left(), images_of(groups, right))
    assert table.average == pytest.approx(sum(right) / len(right))
    assert table.worst == min(row.accuracy for row in table.rows) <= table.average + 1e-12


def test_the_group_of_a_synthetic_image_is_its_targets_or_synthetic() -> None:
    data = halves((2, 2, 2, 2), synthetic=3)
    assert data.group_names == ("left, top", "left, bottom", "right, top", "right, bottom", SYNTHETIC)
    assert data.groups is not None
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert data.group_counts()[SYNTHETIC] == 3
    assert halves((2, 2, 2, 2)).group_names == data.group_names[:4]


def test_a_real_image_without_attribute_is_refused() -> None:
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(UserError, match="no attribute"):
        grouped(images, labels, ("a", "b"), torch.tensor([0, -1]), ("x",))


@pytest.mark.parametrize(("labels", "groups"), [([0, 2], [0, 0]), ([0, 1], [0, 5])])
def test_numbers_that_do_not_fit_are_refused(labels: list[int], groups: list[int]) -> None:
    images, origin = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.bool)
    with pytest.raises(UserError):
        GroupedImages(images, torch.tensor(labels), ("a", "b"), torch.tensor(groups), ("x", "y"), origin)
