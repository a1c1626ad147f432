"""Scenes with a planted spurious feature: real items on real texture photographs, small objects beside them.

One picture is painted in layers: background photograph, item, then ball, kite and cup where present.
Everything that a robust classifier should ignore is known for every scene, and so is everything it should
look at. Letters: n scenes, h rows, w columns, d kinds of distractor object.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from workbench import canvas as cv
from workbench.datasets import LabelledImages, load_images
from workbench.errors import UserError
from workbench.scenes import (
    SPLITS,
    Draws,
    Indices,
    Scenes,
    Size,
    in_parts,
    scene_indices,
    to_uint8,
    with_article,
)

PLANTS = ("background", "object", "both", "none")

# Photographs inside the scikit-image wheel, each with its usual colour; the last is never seen in training.
BACKGROUNDS = {"grass": (0.36, 0.50, 0.22), "gravel": (0.52, 0.50, 0.47), "brick": (0.60, 0.34, 0.27)}
SEEN_BACKGROUNDS = 2

DISTRACTORS = {
    "ball": (cv.disc_distance, (0.85, 0.18, 0.18)),
    "kite": (cv.kite_distance, (0.95, 0.82, 0.15)),
    "cup": (cv.cup_distance, (0.20, 0.42, 0.90)),
}
DISTRACTOR_PROBABILITY = 0.3
PLANTED_OBJECT, PLANTED_OBJECT_CLASS = 0, 1  # the ball belongs to the second class
CANDIDATE_PLACES = 16

ITEM_FLOOR = 12  # of 255: Fashion-MNIST items have a halo of values just above 0 that is not part of them
ITEM_FINENESS = 4


def planted(
    indices: Indices,
    size: Size,
    *,
    seed: int = 0,
    split: str = "train",
    plant: str = "background",
    correlation: float | None = None,
    background: str | None = None,
    classes: Sequence[str] | Mapping[str, Sequence[str]] = ("Bag", "Ankle boot"),
    items: LabelledImages | None = None,
) -> Scenes:
    """A real item in a random tint on a texture photograph, with small objects: Waterbirds in the small.

    `plant` says which feature follows the class: "background" (class k has the background k modulo 2: grass,
    gravel), "object" (the second class has a ball, the others have none), "both", or "none". It does so with
    probability `correlation`, by default 0.95 in the training split and 0.5 in the others. All else is
    independent of the class: tint, place, scale, and each object with probability 0.3. Brick occurs nowhere
    unless `background` puts all scenes on it; the rest of each scene then stays as it is, which makes the
    true counterfactual.

    `classes` are class names of `items`, or named groups of them. `items` are square images on black, by
    default the Fashion-MNIST extract; of each class the last seventh is the test split and the seventh before
    it the validation split, which keeps the extract's own test images in the test split.

    After Sagawa et al. (2020), "Distributionally robust neural networks", whose Waterbirds are composed in
    the same way. Raises `UserError` for an impossible option, size, index or seed.
    """
    picture_size = cv.picture_size(size)
    numbers = scene_indices(indices, seed)
    _check_choice("split", split, SPLITS)
    _check_choice("plant", plant, PLANTS)
    if background is not None:
        _check_choice("background", background, tuple(BACKGROUNDS))
    if correlation is None:
        correlation = 0.95 if split == "train" else 0.5
    if not 0 <= correlation <= 1:
        raise UserError(f"The correlation {correlation} was asked for; give a probability within [0, 1].")
    pool = _Pool.of(items if items is not None else _fashion_items(), classes, split)

    def render(part: np.ndarray) -> Scenes:
        draw = Draws(numbers[part], seed, split)
        truth = _Truth.draw(draw, numbers[part], pool, plant, correlation)
        if background is not None:
            everywhere = np.full_like(truth.backgrounds, list(BACKGROUNDS).index(background))
            truth = replace(truth, backgrounds=everywhere)
        return _planted(draw, truth, pool, picture_size)

    return in_parts(render, len(numbers))


def _check_choice(what: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        raise UserError(f"The {what} {given!r} is not known; choose one of {', '.join(allowed)}.")


@cache
def _fashion_items() -> LabelledImages:
    train, test = (load_images("fashion-mnist:extract", split) for split in ("train", "test"))
    images = torch.cat([torch.as_tensor(part.images) for part in (train, test)])
    return LabelledImages(images, torch.cat([train.labels, test.labels]), train.label_names, train.name)


@dataclass(frozen=True)
class _Pool:
    """The items that scenes of one split may show, in gray, and for each class the positions of its items."""

    images: UInt8[np.ndarray, "items side side"]
    item_names: tuple[str, ...]  # of every item, for captions
    label_names: tuple[str, ...]
    members: tuple[Int[np.ndarray, " _"], ...]

    @classmethod
    def of(cls, items: LabelledImages, classes: Sequence[str] | Mapping[str, Sequence[str]], split: str) -> "_Pool":
        groups = classes if isinstance(classes, Mapping) else {name: (name,) for name in classes}
        if len(groups) < 2:
            raise UserError(f"The classes {list(groups)} were asked for; give at least two.")
        if not isinstance(items.images, Tensor) or items.images.shape[-1] != items.images.shape[-2]:
            raise UserError("The items differ in size or are not square; load them with a resolution of one number.")
        gray = items.images.float().mean(1).round().byte().numpy()
        labels = items.labels.numpy()
        members = [
            np.concatenate([_split_positions(labels, items.label_names, name, split) for name in names])
            for names in groups.values()
        ]
        return cls(gray, tuple(items.label_names[label] for label in labels), tuple(groups), tuple(members))


def _split_positions(labels: np.ndarray, names: Sequence[str], name: str, split: str) -> np.ndarray:
    """Positions of the items of one class that belong to a split: the first 5/7, then 1/7, then 1/7."""
    _check_choice("class", name, names)
    positions = np.flatnonzero(labels == names.index(name))
    held_out = len(positions) // 7
    if held_out == 0:
        raise UserError(f"The class {name!r} has {len(positions)} items; three splits need at least 7.")
    train, validation, test = np.split(positions, [len(positions) - 2 * held_out, len(positions) - held_out])
    return {"train": train, "validation": validation, "test": test}[split]


@dataclass(frozen=True)
class _Truth:
    """What a scene shows, before it is known where."""

    labels: Int[np.ndarray, " n"]
    source_items: Int[np.ndarray, " n"]
    backgrounds: Int[np.ndarray, " n"]
    present: Bool[np.ndarray, "n d"]  # distractors

    @classmethod
    def draw(cls, draw: Draws, indices: np.ndarray, pool: _Pool, plant: str, correlation: float) -> "_Truth":
        labels = indices % len(pool.members)
        sizes = np.array([len(positions) for positions in pool.members])[labels]
        chosen = (draw(0, 1) * sizes).astype(np.int64)
        source_items = np.array([pool.members[label][item] for label, item in zip(labels, chosen, strict=True)])

        own = correlation if plant in ("background", "both") else 1 / SEEN_BACKGROUNDS
        other = 1 + draw(0, SEEN_BACKGROUNDS - 1).astype(np.int64)
        backgrounds = (labels + np.where(draw(0, 1) < own, 0, other)) % SEEN_BACKGROUNDS

        probability = np.full((len(labels), len(DISTRACTORS)), DISTRACTOR_PROBABILITY)
        if plant in ("object", "both"):
            probability[:, PLANTED_OBJECT] = np.where(labels == PLANTED_OBJECT_CLASS, correlation, 1 - correlation)
        return cls(labels, source_items, backgrounds, draw(0, 1, len(DISTRACTORS)) < probability)


def _planted(draw: Draws, truth: _Truth, pool: _Pool, size: tuple[int, int]) -> Scenes:
    count = len(truth.labels)
    canvas = cv.canvas(size, np.tile([0.0, 0.0, 1.0, 1.0], (count, 1)))
    image = _background(draw, truth.backgrounds, canvas)
    side, place, flip = draw(0.5, 0.8), draw(0, 1, 2), draw(0, 1) < 0.5
    top, left = place[:, 0] * (canvas.height - side), place[:, 1] * (canvas.width - side)
    gray = pool.images[truth.source_items]
    gray = np.where(flip[:, None, None], gray[:, :, ::-1], gray)
    colour, item_alpha = _item(gray, canvas, (top, left), side, draw(0.35, 1, 3))
    cv.paint(image, colour, item_alpha)
    alphas = [item_alpha]
    for colour, alpha in _distractors(draw, truth.present, canvas, (top + side / 2, left + side / 2, side / 2)):
        cv.paint(image, colour, alpha)
        alphas.append(alpha)
    visible = _visible(alphas)

    names = tuple(BACKGROUNDS)
    objects = tuple(tuple(np.array(list(DISTRACTORS))[present].tolist()) for present in truth.present)
    return Scenes(
        name="planted",
        images=to_uint8(image),
        labels=torch.from_numpy(truth.labels.astype(np.int64)),
        label_names=pool.label_names,
        masks=torch.from_numpy(visible[:, 0]),
        backgrounds=torch.from_numpy(truth.backgrounds),
        background_names=names,
        captions=tuple(
            _caption(pool.item_names[item], names[background], with_objects)
            for item, background, with_objects in zip(truth.source_items, truth.backgrounds, objects, strict=True)
        ),
        distractors=objects,
        distractor_masks=torch.from_numpy(visible[:, 1:]),
        distractor_names=tuple(DISTRACTORS),
        source_items=torch.from_numpy(truth.source_items),
    )


@cache
def _photographs() -> tuple[Float[np.ndarray, "k _ _"], int]:
    """Sum tables of the texture photographs, each scaled to a mean of 1, and their common side in pixels."""
    import skimage.data

    photos = np.stack([getattr(skimage.data, name)() for name in BACKGROUNDS]).astype(np.float64)
    return cv.sum_table(photos / photos.mean((1, 2), keepdims=True)), photos.shape[1]


def _background(draw: Draws, backgrounds: np.ndarray, canvas: cv.Canvas) -> np.ndarray:
    """A random crop of each photograph, 64 to 128 of its pixels per unit, tinted around its usual colour."""
    tables, side = _photographs()
    per_unit, place = draw(64, side / cv.LARGEST_ASPECT), draw(0, 1, 2)
    corner = place[:, 0] * (canvas.height - side / per_unit), place[:, 1] * (canvas.width - side / per_unit)
    texture = canvas.photograph(tables, backgrounds, corner, per_unit)
    colour = np.array(list(BACKGROUNDS.values()))[backgrounds] + draw(-0.08, 0.08, 3)
    tint = (colour * draw(0.75, 1.3, 1)).astype(np.float32)
    return np.minimum(texture[:, None] * tint[:, :, None, None], 1)


def _item(
    gray: UInt8[np.ndarray, "n side side"],
    canvas: cv.Canvas,
    corner: tuple[np.ndarray, np.ndarray],
    side: np.ndarray,
    tint: Float[np.ndarray, "n 3"],
) -> tuple[Float[np.ndarray, "n 3 h w"], Float[np.ndarray, "n h w"]]:
    """Colour and coverage of an item: tinted, its black lifted to a quarter, cut out along its silhouette."""
    fine_gray, fine_alpha = _refine(gray)
    which, per_unit = np.arange(len(gray)), fine_gray.shape[1] / side
    alpha = canvas.photograph(cv.sum_table(fine_alpha), which, corner, per_unit)
    light = canvas.photograph(cv.sum_table(fine_alpha * fine_gray), which, corner, per_unit)
    alpha = np.where(alpha < 1 / 255, 0, np.minimum(alpha, 1))  # less than one gray level is no coverage
    light = 0.25 + 0.75 * light / np.maximum(alpha, 1 / 255)
    return np.minimum(light, 1)[:, None] * tint.astype(np.float32)[:, :, None, None], alpha


def _refine(gray: UInt8[np.ndarray, "n side side"]) -> tuple[np.ndarray, np.ndarray]:
    """Gray values and sharpened silhouettes in [0, 1], interpolated linearly to a grid 4 times finer."""
    side = gray.shape[1]
    centres = (np.arange(side * ITEM_FINENESS) + 0.5) / ITEM_FINENESS - 0.5
    apart = np.abs(np.clip(centres, 0, side - 1)[:, None] - np.arange(side))
    weights = np.maximum(1 - apart, 0).astype(np.float32)
    silhouette = (gray > ITEM_FLOOR).astype(np.float32)
    smooth = weights @ silhouette @ weights.T
    fine_gray = weights @ (silhouette * gray / 255) @ weights.T / np.maximum(smooth, 1e-3)
    return fine_gray, np.clip(2 * smooth - 0.5, 0, 1)


def _distractors(
    draw: Draws,
    present: Bool[np.ndarray, "n d"],
    canvas: cv.Canvas,
    item: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Colour and coverage of each small object, at the one of 16 random places farthest from all else.

    `item` is the row and column of its centre and its reach around it, in units.
    """
    taken = [item]
    layers = []
    for kind, (distance, usual_colour) in enumerate(DISTRACTORS.values()):
        radius, places = draw(0.09, 0.13), draw(0, 1, CANDIDATE_PLACES, 2)
        colour = np.clip(usual_colour + draw(-0.1, 0.1, 3), 0, 1)
        rows = radius[:, None] + places[..., 0] * (canvas.height - 2 * radius)[:, None]
        columns = radius[:, None] + places[..., 1] * (canvas.width - 2 * radius)[:, None]
        gaps = [
            np.hypot(rows - row[:, None], columns - column[:, None]) - reach[:, None] for row, column, reach in taken
        ]
        widest = np.minimum.reduce(gaps).argmax(1)[:, None]
        row, column = (np.take_along_axis(values, widest, axis=1)[:, 0] for values in (rows, columns))
        taken.append((row, column, radius))
        coverage = canvas.coverage(distance(*canvas.offsets(row, column), radius.astype(np.float32)[:, None, None]))
        layers.append((colour.astype(np.float32)[:, :, None, None], coverage * present[:, kind, None, None]))
    return layers


def _visible(alphas: Sequence[Float[np.ndarray, "n h w"]]) -> Bool[np.ndarray, "n layers h w"]:
    """Where each layer shows through those painted after it."""
    masks, uncovered = [], np.ones_like(alphas[0], dtype=bool)
    for alpha in reversed(alphas):
        masks.append((alpha > 0) & uncovered)
        uncovered = uncovered & (alpha < 1)
    return np.stack(masks[::-1], axis=1)


def _caption(item: str, background: str, objects: Sequence[str]) -> str:
    """For example "a bag on grass with a ball and a cup"."""
    things = [with_article(name) for name in objects]
    listed = " and ".join([", ".join(things[:-1]), things[-1]] if len(things) > 1 else things)
    scene = f"{with_article(item.split('/')[0].lower())} on {background}"
    return f"{scene} with {listed}" if listed else scene
