"""Promptable segmentation behind one interface: SAM, SAM 2, our own small SAM, or a method without weights.

segmenter = open_segmenter("auto")
embedding = segmenter.embed(image)                  # once for an image
masks, quality = segmenter.masks(embedding, prompts)
"""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from explain.classical_segmenters import SEGMENTERS
from explain.prompts import Prompts
from explain.small_sam import ZOO, find_small_sam, open_small_sam
from workbench.errors import UserError

SPECS = (
    "auto, the path of a segment-anything checkpoint, the folder or hub name of a SAM or SAM 2 in transformers, "
    f"zoo:small-sam, the folder of workbench segment train, {', '.join(SEGMENTERS)}"
)
SMALL_SAM = "zoo:small-sam"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@runtime_checkable
class Segmenter(Protocol):
    """Masks for prompts. `name` says who speaks, `classical` that it is a method without weights. What is not `trained`
    has weights that nobody trained, and what it gives is no result."""

    @property
    def name(self) -> str: ...

    @property
    def trained(self) -> bool: ...

    @property
    def classical(self) -> bool: ...

    def embed(self, image: UInt8[Tensor, "3 h w"]) -> Any:
        """What is computed once for an image."""

    def masks(self, embedding: Any, prompts: Prompts) -> tuple[Bool[Tensor, "n h w"], Float[Tensor, " n"]]:
        """Masks at the image's size, and what IoU is expected of each: NaN where nobody predicts it."""


def open_segmenter(spec: str = "auto", device: str | torch.device = "cpu") -> Segmenter:
    """The segmenter that `spec` names; auto: the best that is on this machine, whose `name` says which.

    auto looks for the released SAMs in the hub's cache, then for zoo:small-sam, then for opencv's GrabCut, and last
    takes the random walker; it downloads nothing. Raises `UserError` for a spec that names nothing, for weights that
    are neither here nor to be had, and for a network that is another's or untrained.
    """
    path = Path(spec).expanduser()
    if spec == "auto":
        return open_segmenter(_best(), device)
    if spec in SEGMENTERS:
        return SEGMENTERS[spec]()
    if spec.startswith("zoo:"):
        return _of_zoo(spec.removeprefix("zoo:"), device)
    if path.is_file():
        from explain.sam_checkpoint import open_checkpoint

        return open_checkpoint(path, device)
    if path.is_dir():
        return _of_folder(path, device)
    if HUB_NAME.fullmatch(spec) and not path.parent.exists():
        return _of_transformers(spec, device)
    raise UserError(f"there is no segmenter {spec!r}: give {SPECS}")


def open_segmenters(spec: str = "auto", device: str | torch.device = "cpu") -> tuple[Segmenter, ...]:
    """As `open_segmenter`; where auto takes the small SAM, which knows few kinds of pictures, a classical one comes
    with it: whoever chooses among masks sees those of both."""
    if spec == "auto" and _best() == SMALL_SAM:
        return open_segmenter(SMALL_SAM, device), open_segmenter(_classical(), device)
    return (open_segmenter(spec, device),)


def masks_of(
    segmenters: Sequence[Segmenter], embeddings: Sequence[Any], prompts: Prompts
) -> tuple[Bool[Tensor, "n h w"], Float[Tensor, " n"], list[str]]:
    """The masks of all of them, with the expected IoU and the segmenter's name of each."""
    cuts = [one.masks(embedding, prompts) for one, embedding in zip(segmenters, embeddings, strict=True)]
    masks, qualities = (torch.cat([part.cpu() for part in parts]) for parts in zip(*cuts, strict=True))
    return masks, qualities, [one.name for one, (own, _) in zip(segmenters, cuts, strict=True) for _ in own]


def _best() -> str:
    from explain.sam_transformers import on_disk

    if name := on_disk():
        return name
    return SMALL_SAM if (ZOO / SMALL_SAM.removeprefix("zoo:")).is_dir() else _classical()


def _classical() -> str:
    return "grabcut" if importlib.util.find_spec("cv2") else "random-walker"


def _of_zoo(name: str, device: str | torch.device) -> Segmenter:
    folder = find_small_sam(f"zoo:{name}")
    if folder is None:
        raise UserError(
            f"the zoo has no segmenter {name}: give another one, or train one with workbench segment train "
            "--data scenes --output-dir RUN"
        )
    return open_small_sam(folder, device)


def _of_folder(path: Path, device: str | torch.device) -> Segmenter:
    if folder := find_small_sam(path):
        return open_small_sam(folder, device)
    if (path / "config.yaml").exists():
        raise UserError(f"{path} is a training run that is not finished; run its training command again to go on")
    return _of_transformers(str(path), device)


def _of_transformers(name: str, device: str | torch.device) -> Segmenter:
    from explain.sam_transformers import open_transformers

    return open_transformers(name, device)
