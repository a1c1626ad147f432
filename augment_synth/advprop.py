"""AdvProp: adversarial copies as further training images, with batch statistics of their own (arXiv 1911.09665)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from augment_synth.auxiliary_norm import AuxiliaryRecipe, routed
from augment_synth.robust_recipe import evaluating, pixels
from workbench.pixel_classifier import PixelClassifier
from workbench.recipe import Draws


class AdvProp(AuxiliaryRecipe):
    """Real images through the main norms; adversarial copies, and synthetic images, through the auxiliary ones."""

    name = "advprop"

    def draw(self, batch_size: int, generator: torch.Generator, step: int) -> Draws:
        """Where each attack starts, in units of its radius."""
        shape = (batch_size, *self.images.shape[1:])
        start = 2 * torch.rand(shape, generator=generator, device=generator.device) - 1
        return {**super().draw(batch_size, generator, step), "start": start}

    def objective(
        self, model: nn.Module, images: UInt8[Tensor, "b c h w"], labels: Int64[Tensor, " b"], draws: Draws
    ) -> Float[Tensor, ""]:
        """The mean over images and copies, all with the true class."""
        clean, radius = pixels(images), self.config.attack_radius
        attacked = adversarial(self.model, clean, labels, draws["start"], radius, self.config.attack_steps)
        synthetic = self.synthetic[draws["rows"]]
        with routed(self.model, torch.cat([synthetic, torch.ones_like(synthetic)])):
            return F.cross_entropy(model(torch.cat([clean, attacked])).float(), labels.repeat(2))


def adversarial(
    classifier: PixelClassifier,
    images: Float[Tensor, "b c h w"],
    labels: Int64[Tensor, " b"],
    start: Float[Tensor, "b c h w"],
    radius: float,
    steps: int,
) -> Float[Tensor, "b c h w"]:
    """Images within `radius` of each pixel and in [0, 1] that raise the loss: signed gradient steps of radius / steps.

    `start` in [-1, 1] is where the way begins, in units of the radius. The classifier, in evaluation mode, takes
    them through its auxiliary norms.
    """
    low, high = (images - radius).clamp(min=0), (images + radius).clamp(max=1)
    attacked = (images + radius * start).clamp(0, 1)
    everywhere = torch.ones(len(images), dtype=torch.bool, device=images.device)
    with evaluating(classifier), routed(classifier, everywhere):
        for _ in range(steps):
            attacked.requires_grad_()
            loss = F.cross_entropy(classifier(attacked).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, attacked)
            attacked = (attacked.detach() + radius / steps * gradient.sign()).clamp(low, high)
    return attacked
