"""The toy's law, and its reader on pictures whose truth is known."""

import pytest
import torch
from inpaint_toy import FIRST, LAST, LAW, SHAPES, hole_mask, make_scenes, read, template, write_scenes
from scipy import stats

from workbench.datasets import load_images


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(1200, seed=3)


def test_objects_follow_their_law(scenes):
    for cue in range(3):
        shapes = torch.bincount(scenes.shapes[scenes.cues == cue], minlength=4)
        possible = LAW[cue] > 0
        assert shapes[~possible].sum() == 0
        assert stats.chisquare(shapes[possible]).pvalue > 0.001
    assert stats.chisquare(torch.bincount(scenes.colours)).pvalue > 0.001


def test_the_reader_knows_the_truth(scenes):
    reading = read(scenes.images)
    assert (reading.shapes == scenes.shapes).float().mean() > 0.995
    assert (reading.colours == scenes.colours).all()
    assert reading.valid.float().mean() > 0.995


def test_the_reader_sees_nothing_where_there_is_nothing(scenes):
    without = make_scenes(300, 0).images.float()
    without[..., FIRST:LAST, FIRST:LAST] = without[..., :16, 16:]  # the ground of a corner
    assert read(without.byte()).valid.float().mean() < 0.02
    noise = torch.randint(256, (300, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert not read(noise).valid.any()


def test_a_blob_is_no_shape():
    """A blurred object is what a network paints that cannot decide."""
    blurred = torch.nn.functional.avg_pool2d(make_scenes(400, 1).images.float(), 9, 1, 4, count_include_pad=False)
    assert read(blurred.byte()).valid.float().mean() < 0.6


def test_the_object_is_wholly_hidden(scenes):
    masks = hole_mask(len(scenes.images))
    for shape in range(len(SHAPES)):
        for shift in (-1, 1):
            cover = torch.from_numpy(template(shape, shift, -shift))
            assert cover[masks[0, 0] == 0].sum() == 0
            assert 25 < cover.sum() < 90


def test_shapes_differ_enough_to_be_told_apart():
    covers = [torch.from_numpy(template(shape, 0, 0)) > 0.5 for shape in range(4)]
    for first in range(4):
        for second in range(first):
            common = (covers[first] & covers[second]).sum() / (covers[first] | covers[second]).sum()
            assert common < 0.85


def test_scenes_depend_on_their_seed_alone():
    first, again, other = make_scenes(9, 1), make_scenes(9, 1), make_scenes(9, 2)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_scenes_can_be_learned_from(tmp_path):
    folder = write_scenes(tmp_path / "toy", 30, seed=1, shard=20)
    data = load_images(folder)
    assert torch.equal(data.images, make_scenes(30, 1).images)
    assert data.labels.tolist() == [k % 3 for k in range(30)]
    assert write_scenes(folder, 30, seed=1, shard=20) == folder
