"""How good generated shapes are: objects, labels, areas, distances as a whole and in patches, edges.

Values at different sizes must not be compared; each has its own noise floor.
Letters: n generated and m reference images, h rows, w columns, k patches.
"""

import torch
from jaxtyping import Float, Int, Shaped
from scipy.stats import wasserstein_distance
from shape_network import ShapeNetwork
from shape_objects import find_objects
from torch import Tensor

from workbench.distances import frechet_distance, kernel_distance
from workbench.errors import UserError
from workbench.scenes import shapes
from workbench.seeds import generator

REFERENCE_SEED = 2
GLOBAL_SIDE = 32
PATCH_SIDE, PATCHES_PER_IMAGE = 16, 4
PLACES, GLOBAL_SUBSETS, PATCH_SUBSETS = range(3)  # what a random stream is for


def measure(
    images: Shaped[Tensor, "n 3 h w"],
    labels: Int[Tensor, " n"],
    reference_images: Shaped[Tensor, "m 3 _ _"],
    network: ShapeNetwork,
    seed: int = 0,
) -> dict[str, float]:
    """All measures of images that were asked to show `labels`, against real renders of the same size.

    Images are uint8, or float in [0, 1].

    - `one_object`: share of the images with exactly one object
    - `label_accuracy`: share that the network takes for their label
    - `area_distance`: Wasserstein-1 distance of the shares of the picture that objects cover
    - `global_kernel`, `global_frechet`: distances of the network's features, at a shorter side of 32 pixels at most
    - `patch_kernel`, `patch_frechet`: distances of the first filters' responses in random 16x16 patches
    - `edge_width`: of the largest object, in pixels, median of the images; NaN where no image shows an object

    The Frechet distance is too large for few images. The kernel distance is unbiased for independent images; of two
    sets that hold every label equally often it is a little below 0. Raises `UserError` for images that are not of the
    references' size, or not finite.
    """
    pixels, references = _pixels(images), _pixels(reference_images)
    _check_sizes(pixels, references)
    objects, reference_objects = find_objects(pixels), find_objects(references)
    predicted = network.predict(network.features(pixels))
    return {
        "one_object": _share(objects.counts == 1),
        "label_accuracy": _share(predicted == labels),
        "area_distance": float(wasserstein_distance(objects.areas, reference_objects.areas)),
        **_global_distances(pixels, references, network, seed),
        **_patch_distances(pixels, references, network, seed),
        "edge_width": float(objects.edge_widths.nanmedian()),
    }


def real_shapes(
    size: tuple[int, int], count: int, first: int = 0
) -> tuple[Shaped[Tensor, "n 3 h w"], Int[Tensor, " n"]]:
    """Renders number `first` onwards that no network was trained on, and their labels, in turn."""
    scenes = shapes(range(first, first + count), size, REFERENCE_SEED)
    return scenes.images, scenes.labels


def noise_floor(size: tuple[int, int], count: int, network: ShapeNetwork, seed: int = 0) -> dict[str, float]:
    """What `measure` says of `count` real renders against `real_shapes(size, count)`, none of which they share."""
    return measure(*real_shapes(size, count, first=count), real_shapes(size, count)[0], network, seed)


def box_downsample(pixels: Float[Tensor, "n 3 h w"], side: int) -> Float[Tensor, "n 3 _ _"]:
    """Averages over the area of each new pixel, so that the shorter side has `side` pixels; never enlarges."""
    height, width = pixels.shape[2:]
    shorter = min(height, width)
    if shorter <= side:
        return pixels
    down, right = (_area_weights(length, round(length * side / shorter)) for length in (height, width))
    return down @ pixels @ right.T


def _area_weights(length: int, new_length: int) -> Float[Tensor, "new_length length"]:
    """How much of each new pixel every pixel covers, along one side; rows sum to 1."""
    edges = torch.arange(new_length + 1) * (length / new_length)
    start = torch.arange(length)
    overlap = torch.minimum(edges[1:, None], start + 1) - torch.maximum(edges[:-1, None], start)
    return overlap.clamp_min(0) * (new_length / length)


def patches(pixels: Float[Tensor, "n 3 h w"], seed: int) -> Float[Tensor, "k 3 16 16"]:
    """A few patches of each image, at places that depend on the seed, the size and the number of images alone."""
    count, _, height, width = pixels.shape
    draws = generator(seed, PLACES)
    top, left = (
        torch.randint(side - PATCH_SIDE + 1, (count, PATCHES_PER_IMAGE, 1), generator=draws) for side in (height, width)
    )
    rows = (top + torch.arange(PATCH_SIDE))[:, :, None, :, None]
    columns = (left + torch.arange(PATCH_SIDE))[:, :, None, None, :]
    image, channel = torch.arange(count).view(-1, 1, 1, 1, 1), torch.arange(3).view(1, 1, -1, 1, 1)
    return pixels[image, channel, rows, columns].flatten(0, 1)


def _global_distances(pixels: Tensor, references: Tensor, network: ShapeNetwork, seed: int) -> dict[str, float]:
    features, real = (network.features(box_downsample(part, GLOBAL_SIDE)) for part in (pixels, references))
    kernel, _ = kernel_distance(real, features, generator(seed, GLOBAL_SUBSETS))
    return {"global_kernel": kernel, "global_frechet": frechet_distance(real, features)}


def _patch_distances(pixels: Tensor, references: Tensor, network: ShapeNetwork, seed: int) -> dict[str, float]:
    textures, real = (network.texture(patches(part, seed)) for part in (pixels, references))
    kernel, _ = kernel_distance(real, textures, generator(seed, PATCH_SUBSETS))
    return {"patch_kernel": kernel, "patch_frechet": frechet_distance(real, textures)}


def _pixels(images: Shaped[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """In [0, 1], in 256 steps as real renders are."""
    if not images.is_floating_point():
        return images / 255
    if not images.isfinite().all():
        raise UserError("Some images hold numbers that are not finite; leave them out, or count the method as failed.")
    return (images.float().clamp(0, 1) * 255).round() / 255


def _check_sizes(pixels: Tensor, references: Tensor) -> None:
    (height, width), (real_height, real_width) = pixels.shape[2:], references.shape[2:]
    if (height, width) != (real_height, real_width):
        raise UserError(
            f"Images of {height}x{width} were given with references of {real_height}x{real_width}; render references "
            "of the same size."
        )
    if min(height, width) < PATCH_SIDE:
        raise UserError(f"Images of {height}x{width} are too small; give at least {PATCH_SIDE} pixels a side.")


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
