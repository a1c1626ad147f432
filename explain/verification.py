"""Does a region carry a class? What is left of the class's probability with the region alone, and without it.

    for one in verify_region(classifier, image, targets=[3], mask=mask):
        print(one.fill, one.keep, one.remove, one.control_keep, one.control_remove)

Each number is a forward pass of the classifier. These are the only statements on causes that an explanation may make.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from explain.hiding import hiding
from explain.probability import target_probabilities
from workbench import seeds
from workbench.pixel_classifier import PixelClassifier

FILLS = ("mean", "blur")  # that the blur may leave a large object recognisable is why it comes second
CONTROL = 43  # stream of randomness
CONTROLS, DISPLACEMENTS = 4, 32
SMALLEST = 1e-12  # probability that is divided by
LEAST_EFFECT = 0.01  # of the probability


@dataclass(frozen=True)
class Verification:
    """Probability of a class for the whole picture, the region alone, and the picture without it; the last two for
    regions of the same shape and area elsewhere (mean); and with all hidden. `fill` is what hidden pixels show."""

    target: int
    fill: str
    probability: float
    keep: float
    remove: float
    control_keep: float
    control_remove: float
    nothing: float

    @property
    def sufficiency(self) -> float:
        """Share of the probability that the region alone has."""
        return self.keep / max(self.probability, SMALLEST)

    @property
    def necessity(self) -> float:
        """Share of the probability that is lost without the region; below 0 where it rises."""
        return (self.probability - self.remove) / max(self.probability, SMALLEST)

    @property
    def matters(self) -> bool:
        """Whether the region, alone or hidden, does more for the class than regions of its shape elsewhere do; alone,
        also more than nothing."""
        more = max(self.keep - max(self.control_keep, self.nothing), self.control_remove - self.remove)
        return more > LEAST_EFFECT * self.probability


def verify_region(
    classifier: PixelClassifier,
    image: Float[Tensor, "c h w"],
    targets: Sequence[int],
    mask: Bool[Tensor, "h w"],
    *,
    fills: Sequence[str] = FILLS,
    seed: int = 0,
    batch_size: int = 50,
) -> tuple[Verification, ...]:
    """Every target with every fill, fills first, for an image in [0, 1]: 1 + 11 forward passes for each fill.

    An image of more pixels than the classifier looks at is evaluated smaller, as for its Shapley values.
    """
    masks = torch.cat([mask[None], displaced(mask, seed)]).to(image.device)  # the region, then the controls
    [image] = classifier.shrink(image[None].to(classifier.mean))
    masks = F.interpolate(masks[:, None].float(), image.shape[1:], mode="area")[:, 0] >= 0.5
    others = torch.cat([~masks, torch.zeros_like(masks[:1])])  # without them, then without anything
    numbers = torch.tensor(list(targets), device=image.device)

    def seen(images: Float[Tensor, "n c h w"]) -> list[list[float]]:
        found = target_probabilities(classifier, images, numbers.expand(len(images), -1), batch_size)
        return found.T.tolist()

    whole, verified = seen(image[None]), []
    for fill in fills:
        hide = hiding(image, fill)
        keep, remove = seen(hide(masks)), seen(hide(others))
        for row, target in enumerate(targets):
            kept, removed = (values[row][0] for values in (keep, remove))
            elsewhere = [sum(values[row][1 : 1 + CONTROLS]) / CONTROLS for values in (keep, remove)]
            figures = (whole[row][0], kept, removed, elsewhere[0], elsewhere[1], remove[row][-1])
            verified.append(Verification(target, fill, *figures))
    return tuple(verified)


def displaced(mask: Bool[Tensor, "h w"], seed: int = 0) -> Bool[Tensor, "n h w"]:
    """The mask moved elsewhere, wrapped at the edges: of random displacements those that overlap it least."""
    height, width = mask.shape
    random = seeds.generator(seed, CONTROL)
    down, right = (torch.randint(side, (DISPLACEMENTS,), generator=random).tolist() for side in (height, width))
    moved = torch.stack([mask.roll(shift, (0, 1)) for shift in zip(down, right, strict=True)])
    return moved[(moved & mask).sum((1, 2)).argsort(stable=True)[:CONTROLS]]
