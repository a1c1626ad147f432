"""Just Train Twice: what a first classifier gets wrong counts more for the second (Liu et al., arXiv 2107.09044)."""

import warnings
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from augment_synth.groups import GroupedImages
from augment_synth.robust_config import RobustConfig
from augment_synth.robust_recipe import RobustRecipe, check
from augment_synth.stages import Made, in_stages, trained
from workbench.classification import predict
from workbench.pixel_classifier import PixelClassifier


class Upweighted(RobustRecipe):
    """The second training, from scratch: errors of the first are drawn `jtt_upweight` times as often."""

    name = "jtt"

    def __init__(
        self,
        config: RobustConfig,
        train: GroupedImages,
        validation: GroupedImages | None,
        errors: Bool[Tensor, " n"],
    ) -> None:
        self.errors = errors
        super().__init__(config, train, validation)

    def weights(self) -> Float64[Tensor, " n"]:
        return torch.where(self.errors, self.config.jtt_upweight, 1.0).double()


def train_jtt(config: RobustConfig, train: GroupedImages, validation: GroupedImages | None) -> Path:
    """Both trainings; returns the folder of the second classifier."""
    check(config, train, "jtt", needs_groups=False)

    def make() -> Made:
        first = replace(
            config,
            output_dir=config.output_dir / "identification",
            max_train_steps=config.jtt_identification_steps,
            lr_warmup_steps=min(config.lr_warmup_steps, config.jtt_identification_steps // 2),
        )
        errors = mistaken(trained(RobustRecipe(first, train, validation)), train)
        second = replace(config, output_dir=config.output_dir / "reweighted")
        return trained(Upweighted(second, train, validation, errors)), {"jtt_errors": int(errors.sum())}

    return in_stages("jtt", config, train, validation, make)


def mistaken(classifier: PixelClassifier, train: GroupedImages) -> Bool[Tensor, " n"]:
    """Which training images are misclassified; warns when none is, because JTT then is ERM."""
    errors = predict(classifier, train.labelled()).argmax(1) != train.labels
    if not bool(errors.any()):
        warnings.warn(
            "the first classifier of jtt makes no error on the training images, so nothing is weighted: "
            "give fewer --jtt-identification-steps, or a higher --adam-weight-decay",
            stacklevel=2,
        )
    return errors
