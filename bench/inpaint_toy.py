"""Scenes whose hidden object follows a known law, and a reader that says what was painted in its place.

A striped ground of muted colours, whose stripes run on through the hole; in the middle, wholly hidden by a hole of half
of each side, one object; in a corner, in sight, a cue that fixes the law of the object's shape: A circle or square, B
triangle or cross, C any of the four, all equally likely; the colour is any of three. So of every completion it is known
whether it is possible, and of many how far their law is from the true one.

Letters: n scenes, 32 pixels a side.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from workbench.records import DatasetWriter

SIDE, FIRST, LAST = 32, 8, 24  # of the hole: from the first to before the last row and column
SHAPES, CUES = ("circle", "square", "triangle", "cross"), ("A", "B", "C")
LAW = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.25, 0.25]])  # of each shape, by cue
COLOURS = np.array([[215, 50, 45], [40, 165, 70], [45, 80, 215]]) / 255  # far from the ground's
RADIUS, JITTER, SUPERSAMPLING = 5.5, 1, 8
CUE_SIDE = 6
VALID = 0.75  # intersection over union with a shape, from which on a reading counts
READ_SHIFTS = range(-3, 4)


@dataclass(frozen=True)
class Scenes:
    """Pictures and the truth about them."""

    images: UInt8[Tensor, "n 3 32 32"]
    cues: Int64[Tensor, " n"]
    shapes: Int64[Tensor, " n"]
    colours: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Reading:
    """What is seen in the middle of pictures, and how well it fits the shape it is taken for."""

    shapes: Int64[Tensor, " n"]
    colours: Int64[Tensor, " n"]
    overlap: Float[Tensor, " n"]

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """Whether there is a shape at all."""
        return self.overlap > VALID


def make_scenes(count: int, seed: int) -> Scenes:
    """Scenes whose cues take turns."""
    random = np.random.default_rng([seed, 7])
    cues = np.arange(count) % len(CUES)
    shapes = np.array([random.choice(len(SHAPES), p=LAW[cue].double().numpy()) for cue in cues])
    colours = random.integers(len(COLOURS), size=count)
    shifts = random.integers(-JITTER, JITTER + 1, (count, 2))
    coverage = np.stack([template(*place) for place in np.column_stack([shapes, shifts]).tolist()])[:, None]
    pixels = striped(count, random)
    pixels = pixels + coverage * (COLOURS[colours][:, :, None, None] - pixels)
    pixels[:, :, :CUE_SIDE, :CUE_SIDE] = cue_marks()[cues][:, None]
    images = torch.from_numpy((pixels * 255).round().astype(np.uint8))
    return Scenes(images, *map(torch.from_numpy, (cues, shapes, colours)))


def striped(count: int, random: np.random.Generator) -> Float[np.ndarray, "n 3 32 32"]:
    """Stripes of two muted colours, at any angle."""
    angle, phase = random.uniform(0, np.pi, count), random.uniform(0, 2 * np.pi, count)
    period = random.uniform(5, 9, count)
    light = random.uniform(0.65, 0.85, count), random.uniform(0.4, 0.55, count)
    tints = random.uniform(-0.05, 0.05, (2, count, 3))
    first, second = ((level[:, None] + tint)[:, :, None, None] for level, tint in zip(light, tints, strict=True))
    down, right = np.mgrid[:SIDE, :SIDE]
    along = np.cos(angle)[:, None, None] * down + np.sin(angle)[:, None, None] * right
    wave = np.sin(2 * np.pi * along / period[:, None, None] + phase[:, None, None])[:, None]
    share = 0.5 + 0.5 * np.tanh(3 * wave)
    return share * first + (1 - share) * second


def cue_marks() -> Float[np.ndarray, "3 6 6"]:
    """A black square, a white one, and a chequered one."""
    chequered = np.indices((CUE_SIDE, CUE_SIDE)).sum(0) // 2 % 2
    return np.stack([np.zeros((CUE_SIDE, CUE_SIDE)), np.ones((CUE_SIDE, CUE_SIDE)), chequered])


@cache
def template(shape: int, down: int, right: int) -> Float[np.ndarray, "32 32"]:
    """How much of each pixel a shape covers, its centre moved from the middle by whole pixels."""
    fine = (np.arange(SIDE * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - SIDE / 2
    y, x = np.meshgrid(fine - down, fine - right, indexing="ij")
    inside = {
        "circle": y**2 + x**2 <= (0.9 * RADIUS) ** 2,
        "square": np.maximum(abs(y), abs(x)) <= 0.8 * RADIUS,
        "triangle": (y <= 0.8 * RADIUS) & (y >= 1.8 * abs(x) - RADIUS),
        "cross": np.minimum(abs(y), abs(x)) <= 0.3 * RADIUS,
    }[SHAPES[shape]]
    inside &= np.maximum(abs(y), abs(x)) <= RADIUS
    return inside.reshape(SIDE, SUPERSAMPLING, SIDE, SUPERSAMPLING).mean((1, 3))


def hole_mask(count: int) -> Float[Tensor, "n 1 32 32"]:
    """1 in the hole."""
    mask = torch.zeros(count, 1, SIDE, SIDE)
    mask[..., FIRST:LAST, FIRST:LAST] = 1
    return mask


# ---- reading ---------------------------------------------------------------------------------------------------------


def read(images: UInt8[Tensor, "n 3 32 32"]) -> Reading:
    """Which colour covers most of the hole, and which shape, wherever it lies, it fits best.

    Pixels are told from the ground by their colour alone (what is left without their mean): the ground has hardly any.
    """
    share = _colour_shares(images[..., FIRST:LAST, FIRST:LAST])
    colours = share.clamp(0, 1).sum((2, 3)).argmax(1)
    found = (share[torch.arange(len(share)), colours] > 0.5).flatten(1).float()
    shapes, masks = _templates()
    common = found @ masks.T
    overlap = common / (found.sum(1, keepdim=True) + masks.sum(1) - common)
    best = overlap.max(1)
    return Reading(shapes[best.indices], colours, best.values)


def _colour_shares(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """How much of each object colour a pixel has, 1 where it is just that."""
    pixels = images.double() / 255
    chroma = pixels - pixels.mean(1, keepdim=True)
    references = torch.from_numpy(COLOURS - COLOURS.mean(1, keepdims=True))
    return torch.einsum("kc,nchw->nkhw", references / references.square().sum(1, keepdim=True), chroma).float()


@cache
def _templates() -> tuple[Int64[Tensor, " t"], Float[Tensor, "t pixels"]]:
    """All shapes at all places, in the hole."""
    places = [(shape, y, x) for shape in range(len(SHAPES)) for y in READ_SHIFTS for x in READ_SHIFTS]
    covered = np.stack([template(*place)[FIRST:LAST, FIRST:LAST] > 0.5 for place in places])
    return torch.tensor([shape for shape, _, _ in places]), torch.from_numpy(covered).flatten(1).float()


# ---- data ------------------------------------------------------------------------------------------------------------


def write_scenes(folder: Path, count: int, seed: int, shard: int = 2000) -> Path:
    """A data set of scenes for training, each labelled by its cue."""
    writer = DatasetWriter(folder, CUES, {"scenes": "inpaint_toy", "count": count, "seed": seed}, shard_size=shard)
    if missing := writer.missing_shards(count):
        scenes = make_scenes(count, seed)
        for index in missing:
            part = slice(index * shard, (index + 1) * shard)
            rows = [{"label": int(cue), "source": "generated"} for cue in scenes.cues[part]]
            writer.write_shard(index, list(scenes.images[part]), rows)
    if not writer.is_complete():
        writer.finish(seed=seed)
    return folder
