"""Where the label's object and the captions' objects are, found once and kept by the hash of what it depends on."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from augment_synth.components import Component
from augment_synth.debias_config import DebiasConfig
from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import StepCache, batches
from augment_synth.grounding import GroundedSegmenter, Grounder, Mask, MiddleBox, NoGrounder
from augment_synth.pointer import train_pointer
from augment_synth.removal import PullPush, grown


def find_labels(
    config: DebiasConfig, data: DebiasData, steps: StepCache, device: str
) -> tuple[Bool[Tensor, "n h w"], Component]:
    """The label's object: the data set's own masks, else a segmenter's cut from the middle."""
    if data.masks is not None:
        return data.masks, Component("find the label", "column mask", "data", "the data set's own masks")

    def opened() -> Grounder:
        from explain.segment import open_segmenter

        return MiddleBox(open_segmenter(config.segmenter, device))

    every = [("the label",)] * len(data)
    masks, component = _found(data.images, every, opened, {"segmenter": config.segmenter}, steps, config.batch_size)
    nothing = torch.zeros(data.images.shape[-2:], dtype=torch.bool)
    return torch.stack([nothing if mask is None else mask for [mask] in masks]), component


def find_objects(
    config: DebiasConfig,
    data: DebiasData,
    label_masks: Bool[Tensor, "n h w"],
    phrases: Sequence[Sequence[str]],
    steps: StepCache,
    device: str,
) -> tuple[list[dict[str, Mask]], Component]:
    """The objects of each image's caption, by phrase; what is not found is a miss.

    The pointer never sees the label's object: where an object goes with a class, it would point at that instead.
    """
    images = data.images
    if config.grounder == "pointer":
        images = PullPush().remove(images, grown(label_masks), range(len(data)))

    def opened() -> Grounder:
        if config.grounder == "none" or not any(phrases):
            return NoGrounder()
        if config.grounder == "pointer":
            return train_pointer(images, phrases, config.pointer_steps, config.seed)
        return GroundedSegmenter.load(config.grounder, config.segmenter, device)

    settings: dict[str, Any] = {"grounder": config.grounder, "segmenter": config.segmenter}
    if config.grounder == "pointer":  # which learns from all of it
        settings |= {"steps": config.pointer_steps, "seed": config.seed}
        settings |= {"phrases": phrases, "all": images.numpy().tobytes()}
    masks, component = _found(images, phrases, opened, settings, steps, config.batch_size)
    return [dict(zip(names, own, strict=True)) for names, own in zip(phrases, masks, strict=True)], component


def _found(
    images: UInt8[Tensor, "n 3 h w"],
    phrases: Sequence[Sequence[str]],
    opened: Callable[[], Grounder],
    settings: dict[str, Any],
    steps: StepCache,
    at_once: int,
) -> tuple[list[list[Mask]], Component]:
    """Masks in parts; the grounder is opened (or trained) only where one is not known yet."""
    grounder = cache(opened)
    height, width = images.shape[-2:]
    masks: list[list[Mask]] = []
    for part, names in batches(images, phrases, at_once):
        key = {**settings, "images": part.numpy().tobytes(), "names": names}
        known = steps.json("masks", key, partial(_ground, grounder, part, names))
        masks += [[_unpacked(mask, (height, width)) for mask in own] for own in known["masks"]]
    return masks, Component(**known["component"])


def _ground(
    grounder: Callable[[], Grounder], images: UInt8[Tensor, "n 3 h w"], phrases: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """As it is kept."""
    masks = [[_packed(mask) for mask in own] for own in grounder().ground(images, phrases)]
    return {"component": asdict(grounder().component), "masks": masks}


def _packed(mask: Mask) -> str | None:
    return None if mask is None else base64.b64encode(np.packbits(mask.numpy()).tobytes()).decode()


def _unpacked(text: str | None, size: tuple[int, int]) -> Mask:
    if text is None:
        return None
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=size[0] * size[1])
    return torch.from_numpy(bits.reshape(size).astype(bool))
