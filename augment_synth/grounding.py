"""Where in an image is what a phrase names: an open-vocabulary detector with SAM, or a small pointer of our own.

A mask of None is a miss: it says that the phrase was not found, never that there is nothing to edit.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from augment_synth.components import Component
from workbench.errors import UserError

Mask = Bool[Tensor, "h w"] | None

LARGEST_AREA = 0.9  # of the image: a box of all of it has found nothing
BOX_THRESHOLD, OWL_THRESHOLD = 0.35, 0.1  # of a box's score; OWL's are lower


@runtime_checkable
class Grounder(Protocol):
    """Masks for phrases, image by image."""

    component: Component

    def ground(self, images: UInt8[Tensor, "n 3 h w"], phrases: Sequence[Sequence[str]]) -> list[list[Mask]]: ...


class NoGrounder:
    """Finds nothing: objects then count as misses, all of them."""

    component = Component("ground", "none", "offline_standin", "nothing to find objects with")

    def ground(self, images: UInt8[Tensor, "n 3 h w"], phrases: Sequence[Sequence[str]]) -> list[list[Mask]]:
        """No mask for any phrase."""
        return [[None] * len(names) for names in phrases]


class GroundedSegmenter:
    """A zero-shot detector of transformers (Grounding DINO, OWL) whose boxes a promptable segmenter cuts out.

    It asks only for phrases that the caption names, all of an image at once, and joins the masks of a phrase's boxes.
    """

    def __init__(self, model: Any, processor: Any, segmenter: Any, name: str) -> None:
        self.model, self.processor, self.segmenter = model.eval(), processor, segmenter
        self.threshold = OWL_THRESHOLD if type(model).__name__.startswith("Owl") else BOX_THRESHOLD
        self.component = Component("ground", name, "real", f"boxes from {name}, masks from {segmenter.name}")

    @classmethod
    def load(cls, name: str, segmenter: str = "auto", device: str = "cpu") -> "GroundedSegmenter":
        """By folder or hub name. Raises `UserError` where it cannot be had."""
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        from explain.segment import open_segmenter

        try:
            processor = AutoProcessor.from_pretrained(name)
            model = AutoModelForZeroShotObjectDetection.from_pretrained(name, use_safetensors=True).to(device)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{name} cannot be opened as a detector ({str(error).splitlines()[0]}); give the folder or hub name of "
                "one, such as IDEA-Research/grounding-dino-tiny, or --grounder pointer"
            ) from error
        return cls(model, processor, open_segmenter(segmenter, device), name)

    def ground(self, images: UInt8[Tensor, "n 3 h w"], phrases: Sequence[Sequence[str]]) -> list[list[Mask]]:
        """One mask for each phrase of each image."""
        return [self._ground(image, names) for image, names in zip(images, phrases, strict=True)]

    @torch.no_grad()
    def _ground(self, image: UInt8[Tensor, "3 h w"], names: Sequence[str]) -> list[Mask]:
        if not names:
            return []
        asked = [[name.lower() for name in names]]
        inputs = self.processor(images=[image.permute(1, 2, 0).numpy()], text=asked, return_tensors="pt")
        outputs = self.model(**inputs.to(self.model.device))
        [found] = self.processor.post_process_grounded_object_detection(
            outputs, threshold=self.threshold, target_sizes=[tuple(image.shape[1:])], text_labels=asked
        )
        if not len(found["boxes"]):
            return [None] * len(names)
        boxes, labels, embedding = found["boxes"], found["text_labels"], self.segmenter.embed(image)
        return [self._mask(embedding, image.shape[1:], boxes, labels, name) for name in names]

    def _mask(self, embedding: Any, size: torch.Size, boxes: Tensor, labels: Sequence[str], name: str) -> Mask:
        own = [box for box, label in zip(boxes.tolist(), labels, strict=True) if label and label in name.lower()]
        small = [box for box in own if (box[2] - box[0]) * (box[3] - box[1]) <= LARGEST_AREA * size.numel()]
        masks = [cut_box(self.segmenter, embedding, (box[0], box[1], box[2], box[3]), tuple(size)) for box in small]
        return torch.stack(masks).any(0) if masks else None


def cut_box(
    segmenter: Any, embedding: Any, box: tuple[float, float, float, float], size: tuple[int, ...]
) -> Bool[Tensor, "h w"]:
    """What a segmenter cuts out of a box (first and last column and row), with a point in its middle."""
    from explain.prompts import Prompts

    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    inside = np.zeros(size, dtype=bool)
    inside[int(box[1]) : int(box[3]) + 1, int(box[0]) : int(box[2]) + 1] = True
    starts = np.flatnonzero(np.diff(inside.ravel(), prepend=False))
    runs = np.diff(np.concatenate([[0], starts, [inside.size]])).tolist()
    masks, _ = segmenter.masks(embedding, Prompts((middle,), (1,), box, (1.0,), tuple(runs)))
    return masks[0].cpu()


class MiddleBox:
    """The label's object without a detector: what a segmenter cuts out of a box in the middle of the image.

    That the object is there is an assumption; the report says so.
    """

    margin = 0.1  # of each side

    def __init__(self, segmenter: Any) -> None:
        self.segmenter = segmenter
        self.component = Component("find the label", "box in the middle", "offline_standin", segmenter.name)

    def ground(self, images: UInt8[Tensor, "n 3 h w"], phrases: Sequence[Sequence[str]]) -> list[list[Mask]]:
        """One mask for each image, whatever the phrase."""
        height, width = images.shape[-2:]
        top, left = self.margin * height, self.margin * width
        box = (left, top, width - 1 - left, height - 1 - top)
        return [[cut_box(self.segmenter, self.segmenter.embed(image), box, (height, width))] for image in images]
