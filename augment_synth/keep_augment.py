"""KeepAugment: augment an image but leave its important region alone (Gong et al., 2021, arXiv 2011.11778).

What is important is the explanation's to say, so a classifier that leans on the background has its background kept.
Letters: b images, (h, w) pixels, (y, x) the upper left corners that a square may have.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from augment_synth.library_augmentations import rand_augmented
from augment_synth.robust_recipe import RobustRecipe, evaluating, pixels
from explain.saliency import explain
from workbench.recipe import Draws


class KeepAugment(RobustRecipe):
    """Erase an unimportant square of each image, or paste an important one onto its RandAugment copy."""

    name = "keepaugment"

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Where the square goes, and whether the warm-up is over."""
        place = torch.rand(batch_size, generator=generator, device=generator.device)
        active = torch.full_like(place, step > self.config.keep_warmup_steps, dtype=torch.bool)
        return {**super().draw(batch_size, generator, step), "place": place, "active": active}

    def objective(
        self, model: nn.Module, images: UInt8[Tensor, "b c h w"], labels: Int64[Tensor, " b"], draws: Draws
    ) -> Float[Tensor, ""]:
        whole = pixels(images)
        seen = self.kept(images, labels, draws) if bool(draws["active"].any()) else whole
        return F.cross_entropy(model(seen).float(), labels)

    def kept(
        self, images: UInt8[Tensor, "b c h w"], labels: Int64[Tensor, " b"], draws: Draws
    ) -> Float[Tensor, "b c h w"]:
        """The images, augmented where they may be."""
        config, whole = self.config, pixels(images)
        with evaluating(self.model):
            saliency = explain(config.keep_saliency, self.model, whole, labels).values.detach()
        side = max(1, round(config.keep_side * min(images.shape[-2:])))
        if config.keep_form == "cut":
            fill = self.model.mean.expand_as(whole[0])
            return selective_cut(whole, saliency, side, config.keep_quantile, draws["place"], fill)
        operations, magnitude = config.randaugment_operations, config.randaugment_magnitude
        augmented = pixels(rand_augmented(images, draws["seed"], operations, magnitude))
        return selective_paste(whole, augmented, saliency, side, config.keep_quantile, draws["place"])


def selective_cut(
    images: Float[Tensor, "b c h w"],
    saliency: Float[Tensor, "b h w"],
    side: int,
    quantile: float,
    place: Float[Tensor, " b"],
    fill: Float[Tensor, "c h w"],
) -> Float[Tensor, "b c h w"]:
    """`fill` in a random square whose importance is below the quantile; `place` in [0, 1) picks among them."""
    scores = region_scores(saliency, side)
    below = scores < _threshold(scores, quantile)
    least = scores == scores.amin((1, 2), keepdim=True)
    return torch.where(square(below, least, place, side)[:, None], fill, images)


def selective_paste(
    images: Float[Tensor, "b c h w"],
    augmented: Float[Tensor, "b c h w"],
    saliency: Float[Tensor, "b h w"],
    side: int,
    quantile: float,
    place: Float[Tensor, " b"],
) -> Float[Tensor, "b c h w"]:
    """A random square whose importance is above the quantile, back on the augmented image at its own place."""
    scores = region_scores(saliency, side)
    above = scores > _threshold(scores, quantile)
    most = scores == scores.amax((1, 2), keepdim=True)
    return torch.where(square(above, most, place, side)[:, None], images, augmented)


def region_scores(saliency: Float[Tensor, "b h w"], side: int) -> Float[Tensor, "b y x"]:
    """Mean saliency inside the square at each position, all of it within the image."""
    return F.avg_pool2d(saliency[:, None], side, stride=1)[:, 0]


def _threshold(scores: Float[Tensor, "b y x"], quantile: float) -> Float[Tensor, "b 1 1"]:
    return scores.flatten(1).quantile(quantile, dim=1)[:, None, None]


def square(
    admissible: Bool[Tensor, "b y x"], otherwise: Bool[Tensor, "b y x"], place: Float[Tensor, " b"], side: int
) -> Bool[Tensor, "b h w"]:
    """A mask of one square per image, uniform among the admissible positions; `otherwise` where there is none."""
    admissible = torch.where(admissible.flatten(1).any(1)[:, None, None], admissible, otherwise)
    counts = admissible.flatten(1).cumsum(1)
    chosen = (place.double() * counts[:, -1]).long() + 1  # the how many-th
    position = (counts >= chosen[:, None]).int().argmax(1)
    corners = torch.zeros_like(admissible).flatten(1).scatter(1, position[:, None], True).view_as(admissible)
    return F.max_pool2d(F.pad(corners.float(), [side - 1] * 4)[:, None], side, stride=1)[:, 0] > 0
