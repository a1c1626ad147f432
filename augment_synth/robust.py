"""Robust training: every method by its name, with real images alone or mixed with synthetic ones.

classifier = train_robust("group-dro", train, validation, RobustSettings(max_train_steps=600), Path("runs/dro"))
"""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from augment_synth.advprop import AdvProp
from augment_synth.balanced import RWG, RWY, SUBG, SUBY
from augment_synth.dfr import train_dfr
from augment_synth.group_dro import GroupDRO
from augment_synth.groups import GroupedImages
from augment_synth.jtt import train_jtt
from augment_synth.keep_augment import KeepAugment
from augment_synth.library_augmentations import CutMix, MixUp, RandAugment
from augment_synth.max_up import MaxUp
from augment_synth.robust_config import RobustConfig, RobustSettings
from augment_synth.robust_recipe import RobustRecipe
from augment_synth.shape_texture import ShapeTexture
from workbench.classifiers import load_classifier
from workbench.devices import choose_device
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier
from workbench.training import Training

Train = Callable[[RobustConfig, GroupedImages, GroupedImages | None], Path]


def on_the_loop(recipe: type[RobustRecipe]) -> Train:
    """One training of a recipe."""

    def train(config: RobustConfig, data: GroupedImages, validation: GroupedImages | None) -> Path:
        return Training(recipe(config, data, validation)).train()

    return train


RECIPES: tuple[type[RobustRecipe], ...] = (
    RobustRecipe, GroupDRO, SUBG, SUBY, RWG, RWY, MixUp, CutMix, RandAugment, KeepAugment, MaxUp, ShapeTexture, AdvProp,
)  # fmt: skip
METHODS: dict[str, Train] = {
    **{recipe.name: on_the_loop(recipe) for recipe in RECIPES},
    "jtt": train_jtt,
    "dfr": train_dfr,
}


def train_robust(
    method: str,
    train: GroupedImages,
    validation: GroupedImages | None,
    settings: RobustSettings,
    folder: Path,
) -> PixelClassifier:
    """Train by a method of METHODS, with its run in `folder`, and the classifier in `folder / "classifier"`.

    The resolution is that of the images. A run that was stopped goes on; one of other images or settings is not
    touched. Raises UserError for an unknown method, for groups that a method needs and nobody gave, and for a
    finished folder.
    """
    resolution = "{}x{}".format(*train.images.shape[-2:])
    known = f"images in memory, SHA-256 {fingerprint(train)}"
    config = replace(settings, output_dir=folder, resolution=resolution, data=known)
    return load_classifier(str(chosen(method)(config, train, validation)), choose_device(settings.device))


def chosen(method: str) -> Train:
    """The method of a name; raises UserError for one that there is not."""
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(METHODS)}"
        raise UserError(f"there is no method {method!r}; {hint}")
    return METHODS[method]


def fingerprint(data: GroupedImages) -> str:
    """16 hexadecimal digits of all images, classes, groups and origins."""
    digest = hashlib.sha256(repr((data.label_names, data.group_names)).encode())
    for tensor in (data.images, data.labels, data.groups, data.synthetic):
        if tensor is not None:
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
