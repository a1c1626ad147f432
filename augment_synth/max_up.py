"""MaxUp: of several random copies of an image, learn from the worst (Gong et al., 2020, arXiv 2002.09024)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from augment_synth.groups import GroupedImages
from augment_synth.robust_config import RobustConfig
from augment_synth.robust_recipe import RobustRecipe, evaluating, pixels
from workbench.classification import drawn_movement, moved
from workbench.errors import UserError
from workbench.recipe import Draws


class MaxUp(RobustRecipe):
    """The copies are moved and mirrored at random, scored without gradient in evaluation mode, and the worst one of
    each image is learned from: a step costs (m + 3) / 3 plain ones."""

    name = "maxup"

    def __init__(self, config: RobustConfig, train: GroupedImages, validation: GroupedImages | None = None) -> None:
        if not (config.random_shift or config.random_flip):
            raise UserError("maxup compares random copies, but nothing is random: give --random-shift or --random-flip")
        super().__init__(config, train, validation)

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """One movement for each copy."""
        copies = self.config.maxup_copies
        draws = super().draw(batch_size, generator, step)
        movement = drawn_movement(self.config, batch_size * copies, generator)
        return {**draws, **{name: value.unflatten(0, (batch_size, copies)) for name, value in movement.items()}}

    @torch.no_grad()
    def batch(self, draws: Draws) -> tuple[UInt8[Tensor, "b c h w"], Int64[Tensor, " b"]]:
        """The worst copy of each image."""
        images, labels = self.images[draws["rows"]], self.labels[draws["rows"]]
        movements = zip(draws["shift"].unbind(1), draws["flip"].unbind(1), strict=True)
        copies = torch.stack([moved(images, shift, flip) for shift, flip in movements])  # (m, b, c, h, w)
        with evaluating(self.model):
            losses = [F.cross_entropy(self.model(pixels(copy)).float(), labels, reduction="none") for copy in copies]
        worst = worst_copies(torch.stack(losses))
        return copies[worst, torch.arange(len(labels), device=labels.device)], labels


def worst_copies(losses: Float[Tensor, "m b"]) -> Int64[Tensor, " b"]:
    """The copy of each image with the greatest loss."""
    return losses.argmax(0)
