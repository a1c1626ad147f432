"""Deep feature reweighting: a new linear head on a group-balanced set (Kirichenko et al., 2022, arXiv 2204.02937).

The features are of ERM on the real images. The head is learned from validation images with groups, else from the
training images, and from all synthetic training images besides: a sparse logistic regression, averaged over redraws.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from augment_synth.groups import GroupedImages
from augment_synth.logistic import Head, l1_logistic
from augment_synth.resampling import subsampled
from augment_synth.robust_config import RobustConfig
from augment_synth.robust_recipe import RobustRecipe, check, evaluating, pixels
from augment_synth.stages import Made, in_stages, trained
from workbench import seeds
from workbench.errors import UserError
from workbench.pixel_classifier import PixelClassifier

REDRAWS = 8  # stream of randomness
INVERSE_PENALTIES = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
BATCH = 256
CONSTANT = 1e-6  # a feature whose spread is below this share of its size says nothing


@dataclass(frozen=True)
class Features:
    """Features with class and group."""

    values: Float64[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    groups: Int64[Tensor, " n"]

    def select(self, chosen: Tensor) -> "Features":
        """Some of them."""
        return Features(self.values[chosen], self.labels[chosen], self.groups[chosen])


def train_dfr(config: RobustConfig, train: GroupedImages, validation: GroupedImages | None) -> Path:
    """ERM, then the head; returns the classifier's folder."""
    held_out = validation is not None and validation.groups is not None
    check(config, train, "dfr", needs_groups=not held_out)
    real = train.select(~train.synthetic)
    if not len(real):
        raise UserError("dfr learns its features from real images, and all of these are synthetic: give some real ones")

    def make() -> Made:
        first = replace(config, output_dir=config.output_dir / "features")
        classifier = trained(RobustRecipe(first, real, validation))
        balanced = validation if held_out and validation is not None else real
        penalty = reweigh(classifier, balanced, train.select(train.synthetic), config)
        return classifier, {"dfr_inverse_penalty": penalty, "dfr_on": "validation" if held_out else "train"}

    return in_stages("dfr", config, train, validation, make)


def reweigh(classifier: PixelClassifier, data: GroupedImages, synthetic: GroupedImages, config: RobustConfig) -> float:
    """Give the classifier its new head, in place; returns the inverse penalty that was chosen."""
    real, added = features_of(classifier, data), features_of(classifier, synthetic)
    std, mean = torch.std_mean(real.values, 0, correction=0)
    std = torch.where(std > CONSTANT * real.values.abs().amax(0), std, 1)
    real, added = (replace(part, values=(part.values - mean) / std) for part in (real, added))
    count, penalty = len(data.label_names), chosen_penalty(real, added, len(data.label_names), config)
    heads = [
        balanced_head(real, added, count, penalty, seeds.generator(config.seed, REDRAWS, 1 + redraw))
        for redraw in range(config.dfr_redraws)
    ]
    weights, bias = (torch.stack(parts).mean(0) for parts in zip(*heads, strict=True))
    head = classifier.network.head
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(weights / std)
        head.bias.copy_(bias - weights @ (mean / std))
    return penalty


@torch.no_grad()
def features_of(classifier: PixelClassifier, data: GroupedImages) -> Features:
    """What the classifier's linear head sees; class and group on its device. Unknown groups are one group."""
    device, network = classifier.mean.device, classifier.network
    with evaluating(classifier):
        parts = [
            network.features(classifier.preprocess(pixels(part.to(device)))).double()  # type: ignore[operator]
            for part in data.images.split(BATCH)
        ]
    groups = torch.zeros_like(data.labels) if data.groups is None else data.groups
    return Features(torch.cat(parts), data.labels.to(device), groups.to(device))


def chosen_penalty(real: Features, added: Features, num_classes: int, config: RobustConfig) -> float:
    """The inverse penalty whose head, from one half of the real images, is best on the worst group of the other."""
    draws = seeds.generator(config.seed, REDRAWS, 0)
    order = torch.randperm(len(real.labels), generator=draws).to(real.labels.device)
    half = len(order) // 2
    if not half:
        raise UserError("dfr needs at least two images to choose its penalty; give more")
    learned, judged = real.select(order[:half]), real.select(order[half:])
    state = draws.get_state()

    def worst(penalty: float) -> float:
        draws.set_state(state)  # the same balanced subset for each penalty
        return worst_group(balanced_head(learned, added, num_classes, penalty, draws), judged)

    return max(INVERSE_PENALTIES, key=worst)


def balanced_head(real: Features, added: Features, num_classes: int, penalty: float, draws: torch.Generator) -> Head:
    """A head learned from as many real images of each group as the smallest has, and from all added ones."""
    chosen = subsampled(real.groups.cpu(), draws) > 0
    balanced = real.select(chosen.to(real.labels.device))
    values, labels = torch.cat([balanced.values, added.values]), torch.cat([balanced.labels, added.labels])
    return l1_logistic(values, labels, num_classes, penalty)


def worst_group(head: Head, features: Features) -> float:
    """The lowest accuracy of a group."""
    weights, bias = head
    right = ((features.values @ weights.T + bias).argmax(1) == features.labels).double()
    return min(float(right[features.groups == group].mean()) for group in features.groups.unique())
