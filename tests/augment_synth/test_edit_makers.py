"""Filling holes and swapping backgrounds: known pixels stay, nothing of a donor's objects comes along."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augment_synth.backgrounds import Swaps, TextureSwapper, composed, largest_free, mirrored
from augment_synth.removal import PullPush, grown, shifted_elsewhere, shrunk
from workbench import seeds


def test_pull_push_continues_a_constant_and_keeps_what_is_known() -> None:
    images = torch.randint(0, 255, (3, 3, 20, 13), dtype=torch.uint8, generator=seeds.generator(0))
    images[1] = 77
    holes = torch.zeros(3, 20, 13, dtype=torch.bool)
    holes[:, 4:15, 2:9] = True
    filled = PullPush().remove(images, holes, [0, 1, 2])
    assert torch.equal(filled[~holes[:, None].expand_as(filled)], images[~holes[:, None].expand_as(images)])
    assert (filled[1] == 77).all()
    assert torch.equal(PullPush().remove(images[:1], holes[:1], [5]), filled[:1])  # batches change nothing


def test_pull_push_takes_each_side_from_its_own() -> None:
    image = torch.zeros(1, 3, 16, 24, dtype=torch.uint8)
    image[..., 12:] = 200
    holes = torch.zeros(1, 16, 24, dtype=torch.bool)
    holes[:, 6:10, 2:6] = True
    holes[:, 6:10, 18:22] = True
    filled = PullPush().remove(image, holes, [0])
    assert (filled.int() - image.int()).abs().max() <= 12


def brute_force(occupied: torch.Tensor) -> int:
    height, width = occupied.shape
    sides = itertools.product(itertools.combinations(range(height + 1), 2), itertools.combinations(range(width + 1), 2))
    return max(((b - a) * (d - c) for (a, b), (c, d) in sides if not occupied[a:b, c:d].any()), default=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000))
def test_largest_free_rectangle(height: int, width: int, seed: int) -> None:
    occupied = torch.rand(height, width, generator=seeds.generator(seed)) < 0.3
    found = largest_free(occupied)
    inside = occupied[found.top : found.top + found.height, found.left : found.left + found.width]
    assert not inside.any()
    assert found.height * found.width == brute_force(occupied)


def test_mirroring() -> None:
    texture = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3).expand(3, -1, -1)
    whole = mirrored(texture, (4, 6), (0.0, 0.0))[0]
    assert whole.tolist()[0] == [0, 1, 2, 2, 1, 0]
    assert torch.equal(whole, whole.flip(0))


def coloured(count: int) -> tuple[torch.Tensor, torch.Tensor, list[str | None]]:
    """Images of one colour for each background, with a white object; its mask; the backgrounds."""
    names: list[str | None] = ["grass", "gravel"] * (count // 2)
    images = torch.zeros(count, 3, 18, 14, dtype=torch.uint8)
    for position in range(count):
        images[position, position % 2] = 100 + position
    occupied = torch.zeros(count, 18, 14, dtype=torch.bool)
    occupied[:, 5:12, 4:9] = True
    images[occupied[:, None].expand_as(images)] = 255
    return images, occupied, names


def test_swapping_keeps_the_object_and_takes_no_donors() -> None:
    images, occupied, names = coloured(8)
    swapper = TextureSwapper.of(images, occupied, names, seed=0)
    made = swapper.swap(Swaps(images[:2], occupied[:2], ["grass", "gravel"], ["gravel", "gravel"], [3, 4], [0, 1]))
    assert (made[shrunk(occupied[:2])[:, None].expand_as(made)] == 255).all()
    background = made[:, :, 0, 0]
    assert (made[~occupied[:2, None].expand_as(made)].reshape(2, 3, -1) == background[..., None]).all()
    assert (background[:, 0] == 0).all()  # nothing red: no grass
    assert background[1, 1] != 101  # never its own texture
    again = swapper.swap(Swaps(images[:1], occupied[:1], ["grass"], ["gravel"], [3], [0]))
    assert torch.equal(again, made[:1])


def test_the_edge_of_what_is_kept_takes_on_the_new_background() -> None:
    kept = torch.zeros(1, 9, 12, dtype=torch.bool)
    kept[:, 2:7, 3:12] = True  # up to the right edge of the picture
    black, white = (torch.full((1, 3, 9, 12), value, dtype=torch.uint8) for value in (0, 255))
    made = composed(white, kept, black)[0, 0]
    assert (made[3:6, 4:] == 255).all()  # inside, and at the picture's edge
    assert (made[2, 4:] == 85).all()
    assert made[2, 3] == 0  # a corner
    assert (made[~kept[0]] == 0).all()
    assert torch.equal(shrunk(kept)[0], made == 255)


def test_backgrounds_that_cannot_be_made() -> None:
    images, occupied, names = coloured(4)
    occupied[1] = True
    swapper = TextureSwapper.of(images, occupied, names, seed=0)
    assert swapper.can_make("grass")
    assert not swapper.can_make("gravel")  # one texture is left, and that image could get its own
    assert not swapper.can_make("brick")


def test_the_placebos_hole_lies_elsewhere() -> None:
    hole = torch.zeros(1, 20, 30, dtype=torch.bool)
    hole[:, 2:6, 3:8] = True
    kept = torch.zeros_like(hole)
    kept[:, 8:16, 10:20] = True
    [moved] = shifted_elsewhere(hole, kept, [seeds.generator(1)])
    assert moved.sum() == hole.sum()
    assert not (moved & (hole[0] | kept[0])).any()
    assert grown(hole).sum() == 6 * 7
