"""Composed scenes with known truth: label, object mask, background, distractor objects, caption.

`shapes` draws analytic shapes on gradients; `planted.planted` puts real items on real texture photographs.
Both render natively at any height and width (see `canvas`), and scene i depends on (seed, split, i) and the
named options alone: not on the size, nor on the scenes it is rendered together with.

Scene i has label i modulo the number of classes, so that any run of indices is balanced and a class can be
asked for. Letters: n scenes, h rows, w columns, d kinds of distractor object.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from workbench import canvas as cv
from workbench.datasets import LabelledImages
from workbench.errors import UserError

Indices = Sequence[int] | Int[np.ndarray, " n"] | Int[Tensor, " n"]
Size = int | tuple[int, int]

SPLITS = ("train", "validation", "test")
STREAMS = {name: number for number, name in enumerate(("shapes", *SPLITS))}
DRAWS_PER_SCENE = 160
SCENES_AT_ONCE = 128


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes and everything that is true of them.

    A mask holds every pixel to which its object contributes, the softened edge included, and none that
    another object hides: outside all masks the image is the background alone. `source_items` says which item
    of the pool a scene shows; -1 where there is none.
    """

    name: str
    images: UInt8[Tensor, "n 3 h w"]
    labels: Int64[Tensor, " n"]
    label_names: tuple[str, ...]
    masks: Bool[Tensor, "n h w"]
    backgrounds: Int64[Tensor, " n"]
    background_names: tuple[str, ...]
    captions: tuple[str, ...]
    distractors: tuple[tuple[str, ...], ...]
    distractor_masks: Bool[Tensor, "n d h w"]
    distractor_names: tuple[str, ...]
    source_items: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def as_labelled_images(self) -> LabelledImages:
        """The images and labels alone, as any stage takes them."""
        return LabelledImages(self.images, self.labels, self.label_names, self.name)

    def rows(self) -> list[dict[str, Any]]:
        """What `records.DatasetWriter` writes beside each image: label, caption, background, attributes and mask.

        `attributes` names what else than the object is seen: the background and the distractors.
        """
        backgrounds = [self.background_names[number] for number in self.backgrounds]
        return [
            {
                "label": self.labels[scene],
                "caption": self.captions[scene],
                "background": background,
                "attributes": [background, *self.distractors[scene]],
                "mask": self.masks[scene],
            }
            for scene, background in enumerate(backgrounds)
        ]


def _join(parts: Sequence[Scenes]) -> Scenes:
    joined: dict[str, object] = {}
    for name in (field.name for field in fields(Scenes)):
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], Tensor):
            joined[name] = torch.cat(values)
        elif name in ("captions", "distractors"):
            joined[name] = sum(values, start=())
        else:
            joined[name] = values[0]
    return Scenes(**joined)  # type: ignore[arg-type]


def in_parts(render: Callable[[np.ndarray], Scenes], count: int) -> Scenes:
    """Renders a few scenes at a time, so that memory beyond the result stays small."""
    parts = np.split(np.arange(count), range(SCENES_AT_ONCE, count, SCENES_AT_ONCE))
    return _join([render(part) for part in tqdm(parts, "scenes", delay=2.0, mininterval=1.0)])


class Draws:
    """Uniform random numbers that belong to one scene each: a call hands out the next columns of every scene.

    Each scene has its own generator, seeded by (seed, stream, index).
    """

    def __init__(self, indices: np.ndarray, seed: int, stream: str) -> None:
        keys = [(seed, STREAMS[stream], int(index)) for index in indices]
        self.numbers = np.stack([np.random.default_rng(key).random(DRAWS_PER_SCENE) for key in keys])
        self.used = 0

    def __call__(self, low: float | int, high: float | int, *shape: int) -> Float[np.ndarray, "n ..."]:
        count = int(np.prod(shape))
        columns = self.numbers[:, self.used : self.used + count]
        self.used += count
        return low + (high - low) * columns.reshape(len(columns), *shape)


def scene_indices(indices: Indices, seed: int) -> np.ndarray:
    """The indices as an array; none at all, or a negative index or seed, is a `UserError`."""
    numbers = np.asarray(indices)
    if numbers.size == 0 or numbers.min() < 0 or seed < 0:
        raise UserError("Scenes need at least one index, and indices and the seed must not be negative.")
    return numbers


def to_uint8(image: Float[np.ndarray, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
    """Images in [0, 1] rounded to 256 levels; values beyond are clipped."""
    return torch.from_numpy(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def with_article(noun: str) -> str:
    """For example "a bag", "an ankle boot"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# Shapes on gradients

SHAPES = {
    "disc": cv.disc_distance,
    "square": cv.square_distance,
    "ring": cv.ring_distance,
    "cross": cv.cross_distance,
}


def shapes(indices: Indices, size: Size, seed: int = 0, boxes: Float[np.ndarray, "n 4"] | None = None) -> Scenes:
    """One coloured disc, square, ring or cross on a linear gradient, from its signed distance.

    The shape's circumscribed circle has a radius of 0.2 to 0.34 of the shorter side and lies fully inside;
    the shape is turned by at most 15 degrees. In every channel its colour differs from the gradient by at
    least 0.2 of the range. At another aspect, the position and the gradient keep their place relative to
    height and width.

    `boxes` (top, left, height, width, as fractions of the whole picture) renders crops: exactly the pixels
    that a larger rendering has there. Raises `UserError` for an impossible size, index, seed or box.
    """
    height, width = cv.picture_size(size)
    numbers = scene_indices(indices, seed)
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (len(numbers), 1)) if boxes is None else boxes
    if len(boxes) != len(numbers):
        raise UserError(f"{len(boxes)} boxes were given for {len(numbers)} scenes; give one for each.")
    return in_parts(lambda part: _shapes(numbers[part], cv.canvas((height, width), boxes[part]), seed), len(numbers))


def _shapes(indices: np.ndarray, canvas: cv.Canvas, seed: int) -> Scenes:
    draw = Draws(indices, seed, "shapes")
    labels = indices % len(SHAPES)
    radius, place, angle = draw(0.2, 0.34), draw(0, 1, 2), np.deg2rad(draw(-15, 15))
    middle, slope, direction = draw(0.15, 0.85, 3), draw(-0.15, 0.15, 3), draw(0, 2 * np.pi)
    colour = (middle + draw(0.35, 0.65, 3)) % 1  # never close to the middle, hence never within the slope

    image = _gradient(canvas, middle, slope, direction)
    down, right = canvas.offsets(
        radius + place[:, 0] * (canvas.height - 2 * radius),
        radius + place[:, 1] * (canvas.width - 2 * radius),
    )
    distance = _shape_distance(labels, *cv.turn(down, right, angle), radius.astype(np.float32)[:, None, None])
    coverage = canvas.coverage(distance)
    cv.paint(image, colour.astype(np.float32)[:, :, None, None], coverage)

    names = tuple(SHAPES)
    count, height, width = coverage.shape
    return Scenes(
        name="shapes",
        images=to_uint8(image),
        labels=torch.from_numpy(labels.astype(np.int64)),
        label_names=names,
        masks=torch.from_numpy(coverage > 0),
        backgrounds=torch.zeros(count, dtype=torch.int64),
        background_names=("gradient",),
        captions=tuple(f"{with_article(names[label])} on a gradient" for label in labels),
        distractors=((),) * count,
        distractor_masks=torch.zeros(count, 0, height, width, dtype=torch.bool),
        distractor_names=(),
        source_items=torch.full((count,), -1),
    )


def _gradient(canvas: cv.Canvas, middle: np.ndarray, slope: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """From middle - slope to middle + slope across the whole picture, whatever its aspect."""
    down, right = np.sin(direction), np.cos(direction)
    reach = np.abs(down) + np.abs(right)
    along_rows = (2 * canvas.rows / canvas.height[:, None] - 1) * (down / reach)[:, None]
    along_columns = (2 * canvas.columns / canvas.width[:, None] - 1) * (right / reach)[:, None]
    position = (along_rows[:, :, None] + along_columns[:, None, :]).astype(np.float32)  # in [-1, 1]
    middle, slope = (part.astype(np.float32)[:, :, None, None] for part in (middle, slope))
    return middle + slope * position[:, None]


def _shape_distance(labels: np.ndarray, down: np.ndarray, right: np.ndarray, radius: np.ndarray) -> np.ndarray:
    distance = np.empty(down.shape, np.float32)
    for label, shape_distance in enumerate(SHAPES.values()):
        chosen = labels == label
        distance[chosen] = shape_distance(down[chosen], right[chosen], radius[chosen])
    return distance
