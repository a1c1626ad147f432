"""Segmentation without a trained network, from the same prompts: GrabCut, the random walker, the evidence itself.

Rother, Kolmogorov, Blake, "GrabCut", 2004; Grady, "Random Walks for Image Segmentation", 2006.
"""

import importlib.util
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from explain.prompts import Box, Prompts, region_of
from workbench.errors import UserError
from workbench.pictures import resize_images

LARGEST = 320  # pixels along the longer side at which an image is cut
SURE, PROBABLE = 1 / 24, 1 / 6  # radii of the discs around points, of the shorter side
ITERATIONS = 4
BETA = 300.0  # of the random walker: how much a step over an edge costs
BACKGROUND, OBJECT, PROBABLY_BACKGROUND, PROBABLY_OBJECT = 0, 1, 2, 3  # as OpenCV numbers them


class SizedImage(NamedTuple):
    """The image at the size at which it is cut, and its own size."""

    pixels: UInt8[np.ndarray, "h w 3"]
    size: tuple[int, int]


class Classical(ABC):
    """What the methods without weights have in common."""

    classical = True
    trained = True  # there is nothing to train
    name: ClassVar[str]
    smallest: ClassVar[int] = 1  # pixels along the longer side at which an image is cut

    def embed(self, image: UInt8[Tensor, "3 h w"]) -> SizedImage:
        """The image at a size that suits the method."""
        size = (image.shape[1], image.shape[2])
        scale = min(max(max(size), self.smallest), LARGEST) / max(size)
        sized = resize_images(image[None].cpu(), (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
        return SizedImage(np.ascontiguousarray(sized[0].permute(1, 2, 0).numpy()), size)

    @abstractmethod
    def masks(self, embedding: SizedImage, prompts: Prompts) -> tuple[Bool[Tensor, "1 h w"], Float[Tensor, " 1"]]:
        """One mask at the image's size, whose quality nobody predicts."""


class Cutting(Classical):
    """The image is cut at a size of its own, the mask brought back to the image's."""

    def masks(self, embedding: SizedImage, prompts: Prompts) -> tuple[Bool[Tensor, "1 h w"], Float[Tensor, " 1"]]:
        """That of the resized image, at the image's size."""
        cut = self.cut(embedding.pixels, _seeds(embedding, prompts))
        mask = F.interpolate(torch.from_numpy(cut)[None, None].float(), embedding.size, mode="nearest-exact")
        return mask[0] > 0.5, torch.full((1,), torch.nan)

    @abstractmethod
    def cut(self, pixels: UInt8[np.ndarray, "h w 3"], seeds: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """The object's pixels, given what is sure and probable of each."""


class GrabCut(Cutting):
    """Mixtures of colours for object and background, and a cut along the edges."""

    name = "GrabCut (classical segmentation, no SAM weights)"
    smallest = 256  # of fewer pixels the mixtures learn little: at 64, from the true point, IoU 0.48 and not 0.84

    def __init__(self) -> None:
        if importlib.util.find_spec("cv2") is None:
            raise UserError("grabcut needs opencv: pip install 'workbench[cv]', or choose random-walker")

    def cut(self, pixels: UInt8[np.ndarray, "h w 3"], seeds: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """Four rounds from the seeds; the mixtures begin alike every time."""
        import cv2

        cv2.setRNGSeed(0)
        labels, whole = seeds.copy(), (0, 0, pixels.shape[1], pixels.shape[0])
        ours, theirs = np.zeros((1, 65)), np.zeros((1, 65))  # the mixtures
        cv2.grabCut(pixels[..., ::-1].copy(), labels, whole, theirs, ours, ITERATIONS, cv2.GC_INIT_WITH_MASK)
        return (labels == OBJECT) | (labels == PROBABLY_OBJECT)


class RandomWalker(Cutting):
    """Which seed a random walk that shuns edges reaches first."""

    name = "random walker (classical segmentation, no SAM weights)"

    def cut(self, pixels: UInt8[np.ndarray, "h w 3"], seeds: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """From the sure seeds alone."""
        from skimage.segmentation import random_walker

        labels = np.select([seeds == OBJECT, seeds == BACKGROUND], [1, 2], 0)
        if not (labels == 0).any():
            return labels == 1
        return random_walker(pixels / 255.0, labels, beta=BETA, mode="bf", channel_axis=-1) == 1


class Threshold(Classical):
    """The evidence itself, without a look at the image: the control that a segmenter has to beat."""

    name = "the evidence above half of its maximum (no segmentation)"

    def masks(self, embedding: SizedImage, prompts: Prompts) -> tuple[Bool[Tensor, "1 h w"], Float[Tensor, " 1"]]:
        """The region that the prompts were made from."""
        return region_of(prompts, embedding.size)[None], torch.full((1,), torch.nan)


def _seeds(embedding: SizedImage, prompts: Prompts) -> UInt8[np.ndarray, "h w"]:
    """The border and negative points are background; discs around positive points are object, and wider ones and the
    box probably so."""
    if 1 not in prompts.signs:
        raise UserError("no point says where the object is; give at least one positive point")
    height, width = embedding.pixels.shape[:2]
    seeds = np.full((height, width), PROBABLY_BACKGROUND, np.uint8)
    discs = {sign: [_distance(embedding, point) for point, own in zip(prompts.points, prompts.signs, strict=True)
                    if own == sign] for sign in (1, -1)}  # fmt: skip
    if prompts.box is not None:
        seeds[_inside(embedding, prompts.box)] = PROBABLY_OBJECT
    side = min(height, width)
    for distance in discs[1]:
        seeds[distance <= PROBABLE * side] = PROBABLY_OBJECT
    seeds[[0, -1]] = seeds[:, [0, -1]] = BACKGROUND
    for label, sign in ((BACKGROUND, -1), (OBJECT, 1)):
        for distance in discs[sign]:
            seeds[distance <= max(0.75, SURE * side)] = label
    return seeds


def _inside(embedding: SizedImage, box: Box) -> Bool[np.ndarray, "h w"]:
    """Which pixels of the resized image lie in a box of the image."""
    rows, columns = (
        (np.arange(have) + 0.5) * side / have - 0.5
        for have, side in zip(embedding.pixels.shape[:2], embedding.size, strict=True)
    )
    x0, y0, x1, y1 = box
    down, across = abs(rows - (y0 + y1) / 2), abs(columns - (x0 + x1) / 2)
    return (down <= (y1 - y0 + 1) / 2)[:, None] & (across <= (x1 - x0 + 1) / 2)


def _distance(embedding: SizedImage, point: tuple[float, float]) -> Float[np.ndarray, "h w"]:
    """Of each pixel of the resized image to a point of the image."""
    shape = embedding.pixels.shape[:2]
    column, row = (
        (place + 0.5) * small / large - 0.5
        for place, small, large in zip(point, shape[::-1], embedding.size[::-1], strict=True)
    )
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - row, columns - column)


SEGMENTERS: dict[str, type[Classical]] = {"grabcut": GrabCut, "random-walker": RandomWalker, "threshold": Threshold}
