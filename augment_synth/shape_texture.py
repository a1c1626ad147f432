"""Shape-texture debiased training: shape from one image, texture from another, and both classes (arXiv 2010.05981)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from augment_synth.auxiliary_norm import AuxiliaryRecipe, routed
from augment_synth.robust_recipe import pixels
from augment_synth.stylizer import trained_stylizer
from workbench.recipe import Draws


class ShapeTexture(AuxiliaryRecipe):
    """Each image as it is through the main norms, and with the texture of another of the forward pass through the
    auxiliary ones (Li et al., 2021)."""

    name = "shape-texture"

    def to(self, device: torch.device) -> None:
        """Train the stylizer beside the images, on all of them."""
        super().to(device)
        self.stylizer = trained_stylizer(self.images, self.config.stylizer_steps, self.config.seed)

    def objective(
        self, model: nn.Module, images: UInt8[Tensor, "b c h w"], labels: Int64[Tensor, " b"], draws: Draws
    ) -> Float[Tensor, ""]:
        """The mean over images and their stylised copies."""
        clean, order = pixels(images), draws["seed"].argsort()
        with torch.no_grad():
            stylised = self.stylizer(clean, clean[order], self.config.texture_blend)
        copies = torch.arange(2 * len(clean), device=clean.device) >= len(clean)
        with routed(self.model, copies):
            logits, logits_of_copies = model(torch.cat([clean, stylised])).float().chunk(2)
        mixed = two_label_loss(logits_of_copies, labels, labels[order], self.config.shape_weight)
        return (F.cross_entropy(logits, labels) + mixed) / 2


def two_label_loss(
    logits: Float[Tensor, "b k"], shapes: Int64[Tensor, " b"], textures: Int64[Tensor, " b"], shape_weight: float
) -> Float[Tensor, ""]:
    """Cross-entropy with the class of the shape, and with that of the texture."""
    return shape_weight * F.cross_entropy(logits, shapes) + (1 - shape_weight) * F.cross_entropy(logits, textures)
