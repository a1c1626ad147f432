"""Empirical risk minimisation on drawn images: what every robust method changes in one place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor, nn

from augment_synth.groups import GroupedImages, group_table
from augment_synth.resampling import shared_out
from augment_synth.robust_config import RobustConfig
from workbench.classification import drawn_movement, evaluate, fresh_classifier, moved
from workbench.classifiers import save_classifier
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier
from workbench.recipe import Draws, Recipe

LARGEST_SEED = 2**31


class RobustRecipe(Recipe):
    """ERM. A method overrides which images are drawn (`weights`), what is seen of them (`batch`), or the `objective`.

    Images are drawn with replacement, synthetic ones with the probability `synthetic_share`.
    """

    name = "erm"
    result = "classifier"
    needs_groups = False
    config: RobustConfig
    model: PixelClassifier

    def __init__(self, config: RobustConfig, train: GroupedImages, validation: GroupedImages | None = None) -> None:
        check(config, train, self.name, self.needs_groups)
        self.config, self.train, self.validation = config, train, validation
        self.images, self.labels, self.synthetic = train.images, train.labels, train.synthetic
        self.groups = train.groups
        self.num_examples = len(train)
        self.model = fresh_classifier(config, train.images, train.label_names, normalisation=config.normalisation)
        self.row_weights = shared_out(self.weights(), train.synthetic, config.synthetic_share)

    def weights(self) -> Float64[Tensor, " n"]:
        """How readily each image is drawn, among the real ones and among the synthetic ones."""
        return torch.ones(len(self.train), dtype=torch.float64)

    def to(self, device: torch.device) -> None:
        """Keep the images beside the model."""
        for name in ("images", "labels", "synthetic", "groups", "row_weights"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).to(device))

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Which images, how they are moved, and a seed for each, for what a method asks of a library."""
        rows = torch.multinomial(
            self.row_weights.to(generator.device), batch_size, replacement=True, generator=generator
        )
        seed = torch.randint(LARGEST_SEED, (batch_size,), generator=generator, device=generator.device)
        return {"rows": rows, "seed": seed, **drawn_movement(self.config, batch_size, generator)}

    def batch(self, draws: Draws) -> tuple[UInt8[Tensor, "b c h w"], Int64[Tensor, " b"]]:
        """The drawn images, moved, and their classes."""
        rows = draws["rows"]
        return moved(self.images[rows], draws["shift"], draws["flip"]), self.labels[rows]

    def objective(
        self, model: nn.Module, images: UInt8[Tensor, "b c h w"], labels: Int64[Tensor, " b"], draws: Draws
    ) -> Float[Tensor, ""]:
        """What is minimised."""
        return F.cross_entropy(model(pixels(images)).float(), labels)

    def loss(self, model: nn.Module, indices: Int64[Tensor, " b"], draws: Draws) -> dict[str, Tensor]:
        """The objective on the drawn images; the loop's own order (`indices`) plays no part."""
        images, labels = self.batch(draws)
        return {"loss": self.objective(model, images, labels, draws)}

    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Accuracy on the validation images: of the worst group, and of all."""
        if self.validation is None:
            return {}
        assert isinstance(model, PixelClassifier)
        table = group_table(model, self.validation)
        return {"validation_worst_group": table.worst, "validation_accuracy": table.average}

    def publish(self, model: nn.Module, folder: Path, record: Mapping[str, Any]) -> None:
        """The classifier with its validation figures."""
        assert isinstance(model, PixelClassifier)
        publish(model, folder, {**record, "method": self.name}, self.train, self.validation)


def check(config: RobustConfig, train: GroupedImages, method: str, needs_groups: bool) -> None:
    """Raise UserError where settings and images cannot work together."""
    config.check()
    if not len(train):
        raise UserError("there are no training images; give some")
    if needs_groups and train.groups is None:
        raise UserError(f"{method} needs the group of each training image: give groups, or choose a method without")
    if tuple(train.images.shape[-2:]) != config.size:
        height, width = train.images.shape[-2:]
        raise UserError(f"the images are {height}x{width} but --resolution is {config.resolution}; give the same")


def publish(
    model: PixelClassifier,
    folder: Path,
    record: Mapping[str, Any],
    train: GroupedImages,
    validation: GroupedImages | None,
) -> None:
    """Save a classifier into the empty `folder`; where there are validation images, with its figures on them."""
    figures: dict[str, Any] = {}
    if validation is not None:
        counts = None if train.groups is None else train.select(~train.synthetic).group_counts()
        figures["test"] = evaluate(model, validation.labelled())
        figures["groups"] = group_table(model, validation, train_counts=counts).figures()
    folder.rmdir()  # save_classifier makes its own
    save_classifier(model, folder, {**record, **figures})


def pixels(images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """In [0, 1], as classifiers take them."""
    return images.float() / 255


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode inside the block, so that a look at the model changes no statistics; then as before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
