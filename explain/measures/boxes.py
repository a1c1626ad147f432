"""MaxBoxAcc and MaxBoxAccV2: does a box around a part of the map that is above a threshold fit the object's box?

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", 2020, arXiv 2001.07437 and 2007.04178,
with the conventions of their code (values in 256 levels, a strict threshold, inclusive pixels). The best threshold is
taken over all images: an oracle. A part is what touches at a side or a corner; holes have no boxes of their own, which
theirs have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor

from workbench.progress import progress

Boxes = Int[np.ndarray, "_ 4"]  # left, top, right, bottom, inclusive

TOUCHING = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class BoxAccuracy:
    """IoU of the best box with the object's, per image and threshold; `largest` of the largest part alone."""

    best: Float[np.ndarray, "n thresholds"]
    largest: Float[np.ndarray, "n thresholds"]

    def v1(self, overlap: float = 0.5) -> float:
        """MaxBoxAcc: share of images whose largest part fits, at the best threshold."""
        return float((self.largest >= overlap).mean(0).max())

    def v2(self, overlaps: Sequence[float] = (0.3, 0.5, 0.7)) -> float:
        """MaxBoxAccV2: share of images of which some part fits, at the best threshold for each overlap, averaged."""
        return float(np.mean([(self.best >= overlap).mean(0).max() for overlap in overlaps]))


def box_accuracy(values: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"], thresholds: int = 1000) -> BoxAccuracy:
    """IoUs for maps in [0, 1], at `thresholds` equal steps from 0 to below 1 of each map's greatest value."""
    levels = (values * 255).to(torch.uint8).cpu().numpy()
    best, largest = np.zeros((2, len(levels), thresholds))
    with progress(len(levels), "boxes", unit="image") as bar:
        for number, (image, mask) in enumerate(zip(levels, masks.cpu().numpy(), strict=True)):
            truth = _box_of(mask)
            cuts = (np.arange(thresholds) / thresholds * image.max()).astype(int)
            for cut in np.unique(cuts):  # at most 256
                overlaps = _overlaps(_part_boxes(image > cut), truth)
                best[number, cuts == cut], largest[number, cuts == cut] = overlaps.max(), overlaps[0]
            bar.update()
    return BoxAccuracy(best, largest)


def _box_of(mask: Bool[np.ndarray, "h w"]) -> Boxes:
    rows, columns = np.nonzero(mask)
    return np.array([[columns.min(), rows.min(), columns.max(), rows.max()]])


def _part_boxes(above: Bool[np.ndarray, "h w"]) -> Boxes:
    """Of each part, that with most pixels first; one at the corner where there is none.

    The right and the bottom are one pixel beyond the part, within the image, as in the authors' code.
    """
    parts, count = ndimage.label(above, TOUCHING)
    if count == 0:
        return np.zeros((1, 4), dtype=int)
    height, width = above.shape
    boxes = [
        (columns.start, rows.start, min(columns.stop, width - 1), min(rows.stop, height - 1))
        for rows, columns in ndimage.find_objects(parts)
    ]
    order = np.argsort(-np.bincount(parts.ravel())[1:], kind="stable")
    return np.array(boxes)[order]


def _overlaps(boxes: Boxes, truth: Boxes) -> Float[np.ndarray, " _"]:
    """IoU with one box, all pixels inclusive."""
    shared = np.clip(np.minimum(boxes[:, 2:], truth[:, 2:]) - np.maximum(boxes[:, :2], truth[:, :2]) + 1, 0, None)
    intersection = shared.prod(1)
    areas, area = (np.prod(box[:, 2:] - box[:, :2] + 1, axis=1) for box in (boxes, truth))
    return intersection / (areas + area - intersection)
