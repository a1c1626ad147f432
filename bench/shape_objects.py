"""The objects on pictures whose background is a linear gradient: how many, how large, how wide their edges.

Letters: n images, m of them with an object, h rows, w columns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

FRAME = 2  # pixels along the border, which an object seldom covers: where the fit begins
ROUNDS, NOISE = 10, 0.015  # of the fit; a pixel that differs by more than NOISE hardly counts
LEAST_DISTANCE = 0.1  # half of the least contrast that a real object has in any channel
LEAST_AREA, MOST_AREA = 0.01, 0.5  # of the picture: less is a speck, and around more there is no background
NEIGHBOURS = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))])  # never another image's
EDGE = (0.2, 0.8)  # opacities between which the slope is taken
REACH = 3  # pixels beside the boundary that can belong to the edge
FINER = 4
CHUNK = 64


@dataclass(frozen=True)
class Objects:
    """What is found on each image.

    `areas` is the share of the picture that all objects cover, to half of the way between background and object.
    `edge_widths`, of the largest object, is in pixels; NaN where there is none.
    """

    counts: Int[Tensor, " n"]
    areas: Float[Tensor, " n"]
    edge_widths: Float[Tensor, " n"]


@dataclass(frozen=True)
class Regions:
    """The largest object of each image; `core` is the half of its pixels that differs most from the background."""

    counts: Int[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]
    largest: Bool[np.ndarray, "n h w"]
    core: Bool[np.ndarray, "n h w"]


def find_objects(images: Float[Tensor, "n 3 h w"]) -> Objects:
    """The connected regions of pixels in [0, 1] that differ from a fitted gradient."""
    planes = background_planes(images)
    regions = _regions((images - planes).square().mean(1).sqrt().numpy())
    widths = torch.full((len(images),), torch.nan)
    found = regions.counts > 0
    if found.any():
        opacity = _opacity(images[found], planes[found], regions.core[found])
        widths[found] = _edge_widths(opacity, torch.from_numpy(regions.largest[found]))
    return Objects(torch.from_numpy(regions.counts), torch.from_numpy(regions.areas), widths)


def background_planes(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """The linear gradient behind the objects of each image, in every channel.

    Least squares with Cauchy weights, iterated from a fit to the picture's border. Pixels of objects, which may lie on
    the border too, soon weigh nothing.
    """
    count, _, height, width = images.shape
    pixels = images.double().flatten(2)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    basis = torch.stack([torch.ones(height, width), rows, columns], -1).flatten(0, 1).double()
    frame = functional.pad(torch.zeros(height - 2 * FRAME, width - 2 * FRAME), [FRAME] * 4, value=1.0)
    weights = frame.double().flatten().expand(count, -1)
    for _ in range(ROUNDS):
        planes = _weighted_fit(pixels, basis, weights)
        weights = 1 / ((pixels - planes).square().mean(1) + NOISE**2)
    return _weighted_fit(pixels, basis, weights).reshape(images.shape).float()


def _weighted_fit(
    pixels: Float[Tensor, "n 3 p"], basis: Float[Tensor, "p 3"], weights: Float[Tensor, "n p"]
) -> Float[Tensor, "n 3 p"]:
    squares = (weights @ (basis[:, :, None] * basis[:, None]).flatten(1)).unflatten(1, (3, 3))
    products = (weights[:, None] * pixels) @ basis
    return torch.linalg.solve(squares, products.mT).mT @ basis.T


def _regions(distance: Float[np.ndarray, "n h w"]) -> Regions:
    count, height, width = distance.shape
    numbers, last = ndimage.label(distance > LEAST_DISTANCE, NEIGHBOURS)
    sizes = np.bincount(numbers.ravel(), minlength=last + 1)
    image_of = np.zeros(last + 1, np.int64)
    image_of[numbers] = np.arange(count)[:, None, None]
    kept = (sizes > LEAST_AREA * height * width) & (sizes < MOST_AREA * height * width)
    kept[0] = False  # the background
    level = np.atleast_1d(ndimage.median(distance, numbers, np.arange(last + 1)))[numbers]

    by_size = np.flatnonzero(kept)[np.argsort(sizes[kept], kind="stable")]
    largest = np.full(count, -1)
    largest[image_of[by_size]] = by_size  # the last one stays
    is_largest = numbers == largest[:, None, None]
    solid = kept[numbers] & (distance > level / 2)
    counts = np.bincount(image_of[kept], minlength=count)
    return Regions(counts, solid.mean((1, 2)), solid & is_largest, is_largest & (distance >= level))


def _opacity(
    images: Float[Tensor, "m 3 h w"], planes: Float[Tensor, "m 3 h w"], core: Bool[np.ndarray, "m h w"]
) -> Float[Tensor, "m h w"]:
    """How far each pixel is on its way from the background to the object's colour: 0 to 1, and noise."""
    masked = images.masked_fill(~torch.from_numpy(core)[:, None], torch.nan)
    colour = masked.flatten(2).nanmedian(2).values[:, :, None, None]
    contrast = colour - planes
    return ((images - planes) * contrast).sum(1) / contrast.square().sum(1)


def _edge_widths(opacity: Float[Tensor, "m h w"], objects: Bool[Tensor, "m h w"]) -> Float[Tensor, " m"]:
    """The contrast divided by the mean slope of the edge, where the picture is interpolated linearly.

    A native edge is a ramp one pixel wide, of which the pixels show a sample: it comes out 1.5 pixels wide.
    """
    near = _near_boundary(objects)
    parts = zip(opacity.split(CHUNK), near.split(CHUNK), strict=True)
    return torch.cat([_width_of_part(*part) for part in parts])


def _near_boundary(objects: Bool[Tensor, "m h w"]) -> Bool[Tensor, "m h w"]:
    grown, shrunk = (
        functional.max_pool2d(mask[:, None].float(), 2 * REACH + 1, 1, REACH)[:, 0] > 0 for mask in (objects, ~objects)
    )
    return grown & shrunk


def _width_of_part(opacity: Float[Tensor, "m h w"], near: Bool[Tensor, "m h w"]) -> Float[Tensor, " m"]:
    fine = functional.interpolate(opacity[:, None], scale_factor=FINER, mode="bilinear")[:, 0]
    near = near.repeat_interleave(FINER, 1).repeat_interleave(FINER, 2)
    down, right = FINER * fine.diff(dim=1)[:, :, :-1], FINER * fine.diff(dim=2)[:, :-1]
    at_edge = (near & (fine > EDGE[0]) & (fine < EDGE[1]))[:, :-1, :-1]
    return at_edge.sum((1, 2)) / (torch.hypot(down, right) * at_edge).sum((1, 2))
