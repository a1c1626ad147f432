"""The images of `workbench classify train --method`: real ones, in groups where a column says which, and synthetic."""

from dataclasses import replace

import torch

from augment_synth.debias_data import load_data
from augment_synth.groups import GroupedImages, grouped
from augment_synth.robust_config import RobustTrainConfig
from workbench.classification import training_and_test
from workbench.datasets import LabelledImages, available_splits, load_images
from workbench.errors import UserError

Both = tuple[GroupedImages, GroupedImages]


def robust_data(config: RobustTrainConfig) -> Both:
    """Training and test images; those of `extra_data` count as synthetic, of no known group.

    Raises UserError for data that cannot be used so.
    """
    train, test = _without_groups(config) if config.group_column is None else _with_groups(config, config.group_column)
    if config.extra_data is None:
        return train, test
    extra = load_images(
        config.extra_data, "train", config.size, train.label_names, channels=train.images.shape[1], crop=False,
        max_pixels=config.max_image_pixels,
    )  # fmt: skip
    return _with_synthetic(train, extra.select(extra.labels >= 0)), test


def _without_groups(config: RobustTrainConfig) -> Both:
    train, test = (_ungrouped(part) for part in training_and_test(replace(config, extra_data=None)))
    return train, test


def _ungrouped(data: LabelledImages) -> GroupedImages:
    assert isinstance(data.images, torch.Tensor)  # one size was asked for
    real = torch.zeros(len(data), dtype=torch.bool)
    return GroupedImages(data.images, data.labels, data.label_names, None, (), real)


def _with_groups(config: RobustTrainConfig, column: str) -> Both:
    """Of the data's own splits: what is measured on needs groups too."""
    if config.classes is not None or config.test_data is not None:
        raise UserError("--group-column takes the data as they are: leave out --classes and --test-data")
    splits = available_splits(config.data)
    held_out = next((split for split in ("test", "validation") if split in splits), None)
    if held_out is None:
        raise UserError(f"{config.data} has no test or validation split to measure groups on: give it one")
    train = load_data(config.data, "train", config.size, "caption", column)
    test = load_data(config.data, held_out, config.size, "caption", column, train.attribute_names)
    return train.grouped(), test.grouped()


def _with_synthetic(real: GroupedImages, extra: LabelledImages) -> GroupedImages:
    """Both; in groups where the real ones are, the synthetic ones in one of their own."""
    assert isinstance(extra.images, torch.Tensor)
    images, labels = torch.cat([real.images, extra.images]), torch.cat([real.labels, extra.labels])
    made = torch.arange(len(images)) >= len(real)
    if real.groups is None:
        return GroupedImages(images, labels, real.label_names, None, (), made)
    count = len(real.group_names) // len(real.label_names)
    names = [name.rpartition(", ")[2] for name in real.group_names[:count]]
    attributes = torch.cat([real.groups % count, torch.full((len(extra),), -1)])
    return grouped(images, labels, real.label_names, attributes, names, made)
