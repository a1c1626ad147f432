"""Does a generator repeat its training images? Nearest neighbours, with held-out real images as the yardstick."""

from dataclasses import dataclass, replace

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from workbench.datasets import LabelledImages
from workbench.distances import nearest
from workbench.pictures import resize_images

CLOSEST_PAIRS = 10
NEAREST_SHARE = 0.01
SUSPICIOUS_SHARE = 0.05


@dataclass(frozen=True)
class SeenImages:
    """Images, and their features as a network sees them."""

    images: LabelledImages
    features: Float[Tensor, "n d"]

    def select(self, indices: Int[Tensor, " m"]) -> "SeenImages":
        """Some of the images."""
        return SeenImages(self.images.select(indices), self.features[indices])


@dataclass(frozen=True)
class Nearness:
    """Distances to the nearest training image: those of generated images compared with those of held-out real ones.

    `share_nearer` is the share of generated images as near as the nearest 1 % of the real ones: 0.01 for a generator
    that memorised nothing. `median_ratio` is generated / real; None where the real median is 0.
    """

    share_nearer: float
    median_ratio: float | None


@dataclass(frozen=True)
class ClosestPair:
    """The indices of a generated image and of the training image nearest to it in pixels.

    `pixel_distance` is the root mean square of the difference of their pixels, 0 to 255.
    """

    generated: int
    training: int
    pixel_distance: float


@dataclass(frozen=True)
class Memorisation:
    """What nearest neighbours say; copies are equal to a training image in every pixel."""

    features: Nearness
    pixels: Nearness
    copies: int
    held_out_copies: int
    closest: tuple[ClosestPair, ...]

    def warnings(self) -> tuple[str, ...]:
        """A sentence for what looks memorised."""
        sentences = []
        if self.copies:
            sentences.append(
                f"{self.copies} generated images are exact copies of training images "
                f"({self.held_out_copies} of the held-out real images are)."
            )
        if min(self.features.share_nearer, self.pixels.share_nearer) > SUSPICIOUS_SHARE:
            sentences.append(
                f"{self.pixels.share_nearer:.0%} of the generated images lie as near to a training image as the "
                f"nearest {NEAREST_SHARE:.0%} of real ones, in pixels and in features: look at the closest pairs."
            )
        return tuple(sentences)

    def with_generated_indices(self, indices: Int[Tensor, " n"]) -> "Memorisation":
        """The same for the set of which the generated images were the ones at `indices`."""
        closest = tuple(replace(pair, generated=int(indices[pair.generated])) for pair in self.closest)
        return replace(self, closest=closest)


def memorisation(generated: SeenImages, held_out: SeenImages, training: SeenImages) -> Memorisation:
    """How near generated images are to training images, and how near held-out real ones are.

    The comparison is that of Meehan et al. 2020 (arXiv 2004.05675), in features and in pixels.

    Pixels are compared at the size of the first training image, to which images of other sizes are resized.
    """
    height, width = training.images.images[0].shape[1:]
    known = _pixels(training, (height, width))
    distances, which = nearest(_pixels(generated, (height, width)), known)
    real_distances, _ = nearest(_pixels(held_out, (height, width)), known)
    order = distances.argsort(stable=True)[:CLOSEST_PAIRS]
    per_pixel = distances / known.shape[1] ** 0.5
    return Memorisation(
        _nearness(nearest(generated.features, training.features)[0], nearest(held_out.features, training.features)[0]),
        _nearness(distances, real_distances),
        int((distances == 0).sum()),
        int((real_distances == 0).sum()),
        tuple(ClosestPair(int(i), int(which[i]), float(per_pixel[i])) for i in order),
    )


def _pixels(seen: SeenImages, size: tuple[int, int]) -> UInt8[Tensor, "n d"]:
    return resize_images(seen.images.images, size).flatten(1)


def _nearness(generated: Float[Tensor, " n"], real: Float[Tensor, " m"]) -> Nearness:
    nearest_real = real.double().quantile(NEAREST_SHARE)
    median = float(real.median())
    share = float((generated.double() <= nearest_real).double().mean())
    return Nearness(share, float(generated.median()) / median if median > 0 else None)
