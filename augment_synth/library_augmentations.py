"""MixUp, CutMix and RandAugment: torchvision's own, each draw fixed by a seed. Magnitudes count as torchvision does."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torchvision.transforms import v2

from augment_synth.robust_recipe import RobustRecipe, pixels
from workbench.recipe import Draws


@contextmanager
def global_seed(seed: Int64[Tensor, ""]) -> Iterator[None]:
    """The global random stream, from which torchvision draws, begins at `seed` inside; outside it is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        yield


class MixUp(RobustRecipe):
    """Blends of two images with blends of their classes (Zhang et al., arXiv 1710.09412).

    The partner is the image before it in the forward pass; one share serves the pass.
    """

    name = "mixup"

    def mixer(self) -> nn.Module:
        """torchvision's transform of a batch."""
        return v2.MixUp(alpha=self.config.mixup_alpha, num_classes=len(self.train.label_names))

    def objective(
        self, model: nn.Module, images: UInt8[Tensor, "b c h w"], labels: Int64[Tensor, " b"], draws: Draws
    ) -> Float[Tensor, ""]:
        with global_seed(draws["seed"][0]):
            mixed, shares = self.mixer()(pixels(images), labels)
        return F.cross_entropy(model(mixed).float(), shares)


class CutMix(MixUp):
    """A box of one image in another, with classes by area (Yun et al., arXiv 1905.04899)."""

    name = "cutmix"

    def mixer(self) -> nn.Module:
        """torchvision's transform of a batch."""
        return v2.CutMix(alpha=self.config.cutmix_alpha, num_classes=len(self.train.label_names))


class RandAugment(RobustRecipe):
    """A few random operations of one strength on each image (Cubuk et al., arXiv 1909.13719)."""

    name = "randaugment"

    def objective(
        self, model: nn.Module, images: UInt8[Tensor, "b c h w"], labels: Int64[Tensor, " b"], draws: Draws
    ) -> Float[Tensor, ""]:
        operations, magnitude = self.config.randaugment_operations, self.config.randaugment_magnitude
        return super().objective(model, rand_augmented(images, draws["seed"], operations, magnitude), labels, draws)


def rand_augmented(
    images: UInt8[Tensor, "b c h w"], seeds: Int64[Tensor, " b"], operations: int, magnitude: int
) -> UInt8[Tensor, "b c h w"]:
    """RandAugment of each image by itself: on a batch, torchvision would do the same to all of it."""
    transform = v2.RandAugment(operations, magnitude)
    augmented = []
    for image, seed in zip(images, seeds, strict=True):
        with global_seed(seed):
            augmented.append(transform(image))
    return torch.stack(augmented)
