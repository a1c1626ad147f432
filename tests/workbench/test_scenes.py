"""Scenes: areas against formulae, crops against renderings, planted truth against what the pixels show."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import canvas as cv
from workbench.datasets import LabelledImages, load_images
from workbench.errors import UserError
from workbench.planted import BACKGROUNDS, DISTRACTORS, planted
from workbench.records import DatasetWriter, open_image, read_rows
from workbench.scenes import SCENES_AT_ONCE, Scenes, shapes
from workbench.tokens import tokenize

SIZES = [24, 32, 48, 64, (32, 64), (60, 40)]
ITEMS_PER_CLASS = 21
ITEM_NAMES = ("Bag", "Ankle boot", "T-shirt/top")


def make_items(value: int = 200) -> LabelledImages:
    """Upright bars, lying bars and squares of several sizes, on black, in three interleaved classes."""
    images = torch.zeros(3 * ITEMS_PER_CLASS, 1, 28, 28, dtype=torch.uint8)
    for position in range(len(images)):
        half = 6 + position % 5
        height, width = [(half, 4), (4, half), (half, half)][position % 3]
        images[position, 0, 14 - height : 14 + height, 14 - width : 14 + width] = value
    return LabelledImages(images, torch.arange(len(images)) % 3, ITEM_NAMES, "bars")


ITEMS, NOTHING = make_items(), make_items(value=0)


def assert_equal(first: Scenes, second: Scenes) -> None:
    for name in ("images", "labels", "masks", "backgrounds", "distractor_masks", "source_items"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert (first.captions, first.distractors) == (second.captions, second.distractors)


def halve(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(images.float(), 2)


def object_masks(scenes: Scenes) -> torch.Tensor:
    return scenes.masks | scenes.distractor_masks.any(1)


def inner(masks: torch.Tensor) -> torch.Tensor:
    """Pixels of a mask that are more than two pixels inside it."""
    return torch.nn.functional.max_pool2d(1 - masks.float(), 5, stride=1, padding=2) == 0


# Canvas


def circle_share(hole: float) -> float:
    return np.pi * (1 - hole**2)


def cross_share() -> float:
    length = 1 / np.sqrt(1 + 0.36**2)
    width = 0.36 * length
    return 8 * length * width - 4 * width**2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("distance", "share"),
    [
        (cv.disc_distance, circle_share(0)),
        (cv.ring_distance, circle_share(0.55)),
        (cv.square_distance, 2.0),
        (cv.cross_distance, cross_share()),
        (cv.kite_distance, 1.4),
    ],
)
def test_coverage_adds_up_to_the_area(distance, share, size):
    radius = np.array([0.2, 0.27, 0.34])
    canvas = cv.canvas(cv.picture_size(size), np.tile([0.0, 0.0, 1.0, 1.0], (3, 1)))
    down, right = canvas.offsets(canvas.height * 0.49, canvas.width * 0.52)
    turned = cv.turn(down, right, np.array([0.0, 0.2, -0.2]))
    coverage = canvas.coverage(distance(*turned, radius.astype(np.float32)[:, None, None]))
    areas = coverage.sum((1, 2)) / canvas.pixels_per_unit**2
    np.testing.assert_allclose(areas, share * radius**2, rtol=0.03)


@pytest.mark.parametrize("distance", [distance for distance, _ in DISTRACTORS.values()] + [cv.cross_distance])
def test_shapes_fit_into_their_circle(distance):
    radius = np.array([0.3])
    canvas = cv.canvas((96, 128), np.array([[0.0, 0.0, 1.0, 1.0]]))
    down, right = canvas.offsets(np.array([0.5]), np.array([0.7]))
    beyond = np.hypot(down, right) > 0.301
    assert (distance(down, right, radius.astype(np.float32)[:, None, None])[beyond] > 0).all()


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.floats(-3, 12, width=16), min_size=3, max_size=5, unique=True),
    columns=st.lists(st.floats(-3, 9, width=16), min_size=2, max_size=6, unique=True),
    seed=st.integers(0, 9),
)
def test_area_average_is_the_overlap_weighted_mean(rows, columns, seed):
    photos = np.random.default_rng(seed).random((2, 9, 6))
    edges = [np.sort(np.array(values)) for values in (rows, columns)]
    overlaps = [
        np.clip(np.minimum(edge[1:, None], cell + 1) - np.maximum(edge[:-1, None], cell), 0, None)
        for edge, cell in zip(edges, (np.arange(9), np.arange(6)), strict=True)
    ]
    expected = overlaps[0] @ photos[1] @ overlaps[1].T / np.outer(np.diff(edges[0]), np.diff(edges[1]))
    actual = cv.area_average(cv.sum_table(photos), np.array([1]), edges[0][None], edges[1][None])
    np.testing.assert_allclose(actual[0], expected, atol=1e-5)


# Shapes


@pytest.mark.parametrize("size", [24, 64, (32, 64)])
def test_outside_the_mask_is_a_plane_and_inside_stands_out(size):
    scenes = shapes(range(24), size)
    height, width = scenes.masks.shape[1:]
    rows, columns = np.mgrid[:height, :width]
    plane = np.stack([rows, columns, np.ones_like(rows)], axis=-1).reshape(-1, 3)
    for image, mask in zip(scenes.images.numpy(), scenes.masks.numpy(), strict=True):
        outside, pixels = ~mask.ravel(), image.reshape(3, -1).T.astype(float)
        fitted = plane @ np.linalg.lstsq(plane[outside], pixels[outside], rcond=None)[0]
        difference = np.abs(pixels - fitted)
        assert difference[outside].max() <= 1
        assert 0.05 < mask.mean() * height * width / min(height, width) ** 2 < 0.5
        full = difference.min(axis=1) > 0.2 * 255 - 2  # the edge pixels are mixed with the background
        assert full[~outside].mean() > 0.5


@pytest.mark.parametrize("size", SIZES)
def test_discs_and_rings_are_fully_inside(size):
    scenes = shapes(range(120), size)
    for mask in scenes.masks[scenes.labels % 2 == 0]:
        height, width = mask.any(1).sum(), mask.any(0).sum()
        assert abs(height - width) <= 1


def test_a_crop_is_exactly_a_part_of_the_larger_rendering():
    whole = shapes(range(8), (64, 96), seed=3)
    boxes = np.array([[0.25, 0.25, 0.5, 0.5], [0.125, 0.5, 0.5, 0.5]] * 4)
    crops = shapes(range(8), (32, 48), seed=3, boxes=boxes)
    for scene, (top, left, height, width) in enumerate(boxes * [64, 96, 64, 96]):
        window = (slice(int(top), int(top + height)), slice(int(left), int(left + width)))
        assert torch.equal(crops.images[scene], whole.images[scene][:, *window])
        assert torch.equal(crops.masks[scene], whole.masks[scene][window])


@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_shapes_look_alike_at_every_resolution(size):
    coarse, fine = shapes(range(40), size), shapes(range(40), (2 * size[0], 2 * size[1]))
    assert torch.equal(coarse.labels, fine.labels)
    difference = (halve(fine.images) - coarse.images).abs()
    assert difference.mean() < 1
    background = ~coarse.masks & (halve(fine.masks) == 0)
    assert (difference.amax(1)[background] <= 1).all()


def test_labels_are_balanced_and_captions_name_them():
    scenes = shapes(range(5, 45), 16)
    assert scenes.labels.bincount().tolist() == [10] * 4
    expected = [f"a {scenes.label_names[label]} on a gradient" for label in scenes.labels]
    assert list(scenes.captions) == expected


# Both kinds


@pytest.mark.parametrize(
    "render",
    [
        lambda indices, seed: shapes(indices, (16, 24), seed),
        lambda indices, seed: planted(indices, (16, 24), seed=seed, items=ITEMS),
    ],
)
def test_a_scene_depends_on_seed_and_index_alone(render):
    count = SCENES_AT_ONCE + 5
    everything = render(range(count), 7)
    for chosen in ([0], [count - 1, 3, SCENES_AT_ONCE], torch.tensor([5, 4])):
        few = render(chosen, 7)
        positions = [int(index) for index in chosen]
        assert torch.equal(few.images, everything.images[positions])
        assert few.captions == tuple(everything.captions[position] for position in positions)
    assert_equal(render([9, 9], 7), render([9, 9], 7))
    assert not torch.equal(render([0], 7).images, render([0], 8).images)
    assert len({image.numpy().tobytes() for image in everything.images}) == count


def test_scenes_are_labelled_images():
    scenes = planted(range(6), (16, 24), items=ITEMS)
    labelled = scenes.as_labelled_images()
    assert len(labelled) == len(scenes) == 6
    assert labelled.images.shape == (6, 3, 16, 24)
    assert labelled.label_names == ("Bag", "Ankle boot")


@pytest.mark.parametrize("render", [shapes, partial(planted, items=ITEMS)])
def test_scenes_become_a_data_set_with_captions(tmp_path, render):
    scenes = render(range(40), (16, 24))
    writer = DatasetWriter(tmp_path / "scenes", scenes.label_names, {"seed": 0})
    writer.write_shard(0, scenes.images, scenes.rows())
    folder = writer.finish()
    captioned = load_images(folder, caption_column="caption")
    assert torch.equal(captioned.images, scenes.images)
    assert torch.equal(captioned.labels, scenes.labels)
    assert captioned.tokens == tuple(map(tokenize, scenes.captions))
    attributes = load_images(folder, caption_column="attributes").tokens
    for scene, row in enumerate(read_rows(folder)):
        background = scenes.background_names[scenes.backgrounds[scene]]
        assert attributes[scene] == (background, *scenes.distractors[scene])
        assert row["background"] == background
        mask = np.asarray(open_image(folder, row["mask_file_name"])) > 0
        assert np.array_equal(mask, scenes.masks[scene].numpy())


# Planted


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_outside_the_object_mask_nothing_of_the_item_is_left(size):
    with_item = planted(range(40), size, items=ITEMS)
    without = planted(range(40), size, items=NOTHING)
    assert not without.masks.any()
    changed = (with_item.images != without.images).any(1)
    assert not changed[~with_item.masks].any()
    assert changed[with_item.masks].float().mean() > 0.95
    assert (with_item.masks.flatten(1).sum(1) > 0.02 * size[0] * size[1]).all()


def test_another_background_is_the_true_counterfactual():
    here = planted(range(40), (40, 32), background="grass", items=ITEMS)
    there = planted(range(40), (40, 32), background="brick", items=ITEMS)
    assert {there.background_names[number] for number in there.backgrounds} == {"brick"}
    for name in ("labels", "masks", "distractor_masks", "source_items"):
        assert torch.equal(getattr(here, name), getattr(there, name))
    same = (here.images == there.images).all(1)
    assert same[~object_masks(here)].float().mean() < 0.02
    assert same[inner(object_masks(here))].float().mean() > 0.98


def test_distractors_are_seen_where_and_only_where_they_are_named():
    scenes = planted(range(200), (32, 40), items=ITEMS)
    for kind, name in enumerate(scenes.distractor_names):
        named = torch.tensor([name in objects for objects in scenes.distractors])
        assert torch.equal(scenes.distractor_masks[:, kind].flatten(1).any(1), named)
        assert named.float().mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 200))
    red, green, blue = scenes.images.permute(1, 0, 2, 3)[:, scenes.distractor_masks[:, 0]].float().mean(1)
    assert red > 2 * green
    assert red > 2 * blue


def test_distractors_keep_away_from_the_item_where_there_is_room():
    scenes = planted(range(200), (40, 48), items=ITEMS)
    beside = torch.nn.functional.max_pool2d(scenes.masks.float(), 5, stride=1, padding=2) > 0
    assert (beside[:, None] & scenes.distractor_masks).sum() < 0.02 * scenes.distractor_masks.sum()


def test_what_a_distractor_hides_is_not_in_the_mask_of_the_item():
    squares = LabelledImages(torch.full_like(ITEMS.images, 200), ITEMS.labels, ITEM_NAMES, "squares")
    scenes = planted(range(200), (48, 40), items=squares)
    squares_as_wide = scenes.masks.any(2, keepdim=True) & scenes.masks.any(1, keepdim=True)
    hidden = torch.stack([inner(scenes.distractor_masks[:, kind]) for kind in range(3)]).any(0)
    assert (squares_as_wide & hidden).any()  # else nothing is tested
    assert not (scenes.masks & hidden).any()


@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_planted_scenes_look_alike_at_every_resolution(size):
    coarse = planted(range(30), size, items=ITEMS)
    fine = planted(range(30), (2 * size[0], 2 * size[1]), items=ITEMS)
    assert coarse.captions == fine.captions
    difference = (halve(fine.images) - coarse.images).abs().amax(1)
    assert difference.mean() < 1
    clipped = (fine.images == 255).any(1)
    background = ~object_masks(coarse) & (halve(object_masks(fine) | clipped) == 0)
    assert (difference[background] <= 1).all()


def own_background(scenes: Scenes) -> np.ndarray:
    return (scenes.backgrounds == scenes.labels).numpy()


def has(scenes: Scenes, name: str) -> np.ndarray:
    return np.array([name in objects for objects in scenes.distractors])


def assert_share(observed: np.ndarray, probability: float) -> None:
    """Within five standard deviations of a binomial share; exact at 0 and 1."""
    bound = 5 * np.sqrt(probability * (1 - probability) / len(observed))
    assert abs(observed.mean() - probability) <= bound


@pytest.mark.parametrize(
    ("split", "correlation", "expected"),
    [("train", None, 0.95), ("validation", None, 0.5), ("test", None, 0.5), ("train", 1.0, 1.0), ("test", 0.0, 0.0)],
)
def test_the_background_follows_the_class_as_often_as_asked(split, correlation, expected):
    scenes = planted(range(800), 8, split=split, correlation=correlation, items=ITEMS)
    for label in (0, 1):
        chosen = (scenes.labels == label).numpy()
        assert chosen.sum() == 400
        assert_share(own_background(scenes)[chosen], expected)
        assert_share(has(scenes, "ball")[chosen], 0.3)


@pytest.mark.parametrize(
    ("plant", "background", "ball"),
    [("object", 0.5, (0.1, 0.9)), ("both", 0.9, (0.1, 0.9)), ("none", 0.5, (0.3, 0.3))],
)
def test_variants_plant_what_they_say(plant, background, ball):
    scenes = planted(range(800), 8, plant=plant, correlation=0.9, items=ITEMS)
    for label in (0, 1):
        chosen = (scenes.labels == label).numpy()
        assert_share(own_background(scenes)[chosen], background)
        assert_share(has(scenes, "ball")[chosen], ball[label])
        assert_share(has(scenes, "kite")[chosen], 0.3)


@pytest.mark.parametrize("plant", ["background", "none"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_brick_is_never_drawn(split, plant):
    scenes = planted(range(300), 8, split=split, plant=plant, items=ITEMS)
    assert {scenes.background_names[number] for number in scenes.backgrounds.unique()} == {"grass", "gravel"}


def test_photographs_are_inside_the_scikit_image_wheel():
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    assert all((folder / f"{name}.png").is_file() for name in BACKGROUNDS)


def test_source_items_belong_to_one_split_and_to_their_class():
    drawn = {split: planted(range(400), 8, split=split, items=ITEMS) for split in ("train", "validation", "test")}
    sources = {split: set(scenes.source_items.tolist()) for split, scenes in drawn.items()}
    assert [len(sources[split]) for split in drawn] == [2 * 15, 2 * 3, 2 * 3]  # two classes of 21 items, 5:1:1
    assert len(set.union(*sources.values())) == 2 * ITEMS_PER_CLASS
    assert max(sources["train"]) < min(sources["validation"]) <= max(sources["validation"]) < min(sources["test"])
    for scenes in drawn.values():
        assert torch.equal(ITEMS.labels[scenes.source_items], scenes.labels)
    assert not torch.equal(drawn["train"].images, drawn["test"].images)


def test_captions_mention_item_background_and_exactly_the_objects():
    scenes = planted(range(200), 8, classes=ITEM_NAMES, items=ITEMS)
    nouns = {"Bag": "a bag", "Ankle boot": "an ankle boot", "T-shirt/top": "a t-shirt"}
    for scene, caption in enumerate(scenes.captions):
        item, background, objects = re.fullmatch(r"(.+) on (\w+)(?: with (.+))?", caption).groups()
        assert item == nouns[scenes.label_names[scenes.labels[scene]]]
        assert background == scenes.background_names[scenes.backgrounds[scene]]
        assert tuple(re.findall(r"a (\w+)", objects or "")) == scenes.distractors[scene]
    assert any(caption.endswith(" with a ball, a kite and a cup") for caption in scenes.captions)


def test_classes_may_be_groups_of_items():
    scenes = planted(range(60), 16, classes={"upright": ("Bag", "T-shirt/top"), "flat": ["Ankle boot"]}, items=ITEMS)
    assert scenes.label_names == ("upright", "flat")
    assert set(ITEMS.labels[scenes.source_items[scenes.labels == 0]].tolist()) == {0, 2}
    assert set(ITEMS.labels[scenes.source_items[scenes.labels == 1]].tolist()) == {1}


def test_colour_items_become_gray_before_the_tint():
    colour = LabelledImages(ITEMS.images.expand(-1, 3, -1, -1), ITEMS.labels, ITEM_NAMES, "colour")
    assert torch.equal(planted(range(4), 16, items=colour).images, planted(range(4), 16, items=ITEMS).images)


def test_items_come_from_the_packaged_extract_by_default():
    scenes = planted(range(40), (16, 24), split="test")
    assert scenes.label_names == ("Bag", "Ankle boot")
    assert scenes.source_items.min() >= 6000  # the extract's 6,000 training items come first
    assert planted(range(40), 16, split="train").source_items.max() < 6000


# Bad input


@pytest.mark.parametrize("size", [7, (7, 32), (8, 33), (0, 0)])
def test_impossible_sizes(size):
    with pytest.raises(UserError, match="at least 8 pixels"):
        shapes([0], size)


@pytest.mark.parametrize("box", [[0.6, 0, 0.5, 0.5], [-0.1, 0, 0.5, 0.5], [0, 0, 0.5, 0.0]])
def test_boxes_must_lie_inside(box):
    with pytest.raises(UserError, match="reaches outside"):
        shapes([0], 16, boxes=np.array([box]))


def test_one_box_for_each_scene():
    with pytest.raises(UserError, match="1 boxes were given for 2 scenes"):
        shapes([0, 1], 16, boxes=np.array([[0.0, 0.0, 1.0, 1.0]]))


@pytest.mark.parametrize(("indices", "seed"), [([], 0), ([-1], 0), ([0], -1)])
def test_indices_and_seed_must_not_be_negative(indices, seed):
    with pytest.raises(UserError, match="at least one index"):
        shapes(indices, 16, seed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correlation": 1.1}, "within"),
        ({"correlation": -0.1}, "within"),
        ({"correlation": float("nan")}, "within"),
        ({"plant": "texture"}, "background, object, both, none"),
        ({"split": "dev"}, "train, validation, test"),
        ({"background": "sand"}, "grass, gravel, brick"),
        ({"classes": ("Bag", "Hat")}, "'Hat' is not known; choose one of Bag, Ankle boot"),
        ({"classes": ("Bag",)}, "at least two"),
        ({"items": LabelledImages(ITEMS.images[:12], ITEMS.labels[:12], ITEM_NAMES, "few")}, "at least 7"),
        ({"items": LabelledImages(ITEMS.images[..., :20], ITEMS.labels, ITEM_NAMES, "oblong")}, "not square"),
        ({"items": LabelledImages(list(ITEMS.images), ITEMS.labels, ITEM_NAMES, "sizes")}, "not square"),
    ],
)
def test_impossible_planted_scenes(options, message):
    with pytest.raises(UserError, match=message):
        planted([0], 16, **{"items": ITEMS, **options})
