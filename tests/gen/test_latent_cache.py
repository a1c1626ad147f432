"""Cached latents: what they show, stopping and going on, mixing refused, damage named."""

import json
import multiprocessing
import os
import socket
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy import stats
from tiny_vaes import certain_vae, tiny_vae

from gen import latent_encoding
from gen.crops import flip_boxes, resize_and_crop
from gen.latent_cache import CacheSettings, LatentCache
from gen.latent_encoding import build_cache, open_images
from gen.latents import encode
from workbench.datasets import load_images
from workbench.errors import UserError
from workbench.image_stream import ImageStream

SIZE = (8, 12)
COUNT = 11
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])


def write_pictures(root, count=COUNT, size=(20, 26)):
    """Smooth colour pictures in two classes, in alternating sizes."""
    for i in range(count):
        random = np.random.default_rng(i)
        file = root / ("cat", "dog")[i * 2 // count] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        small.resize((size[1] + i % 2, size[0]), Image.Resampling.BICUBIC).save(file)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Not to be changed."""
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


def settings(data, **changes):
    options = {"data": str(data), "size": SIZE, "random_flip": True, "crops_per_image": 3, "shard_size": 4, "seed": 5}
    return CacheSettings(**{**options, **changes})


@pytest.fixture(scope="module")
def vae():
    return certain_vae(scaling_factor=3.0)


@pytest.fixture(scope="module")
def cache(data, vae, tmp_path_factory):
    """11 images in three shards. Not to be changed."""
    return build_cache(tmp_path_factory.mktemp("cache") / "cache", settings(data), vae, batch_size=3)


def copied(cache, tmp_path):
    for path in cache.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tensors_of(cache):
    shards = [load_file(path) for path in sorted(cache.folder.glob("*.safetensors"))]
    return {name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}


# ------------------------------------------------------------------------------------------- what it holds


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_latent_shows_the_crop_that_its_box_names(dtype, data, vae, tmp_path):
    wanted = settings(data, dtype=dtype)
    cache = build_cache(tmp_path / "cache", wanted, vae)
    stored = tensors_of(cache)
    images = load_images(data, "train", (16, 24), upscale=False).images
    assert images.shape[-2:] == (16, 24)
    assert stored["latents"].dtype == getattr(torch, dtype)
    tolerance = {"float16": 1e-3, "bfloat16": 1e-2}[dtype]
    for crop in range(3):
        flips = stored["flips"][:, crop]
        boxes = flip_boxes(stored["boxes"][:, crop], flips)  # in the picture before the flip
        expected = encode(vae, resize_and_crop(images, boxes, flips, SIZE), None)
        torch.testing.assert_close(stored["latents"][:, crop].float(), expected, atol=tolerance, rtol=tolerance)
    assert stored["flips"].any()
    assert not stored["flips"].all()


def test_images_are_read_by_number_in_any_order(cache, data):
    stored, loaded = tensors_of(cache), load_images(data, "train", SIZE)
    indices, crops = torch.tensor([10, 0, 4, 4, 3, 8, 7]), torch.tensor([2, 0, 1, 2, 0, 1, 1])
    latents, boxes, labels = cache.read(indices, crops)
    assert len(cache) == COUNT
    assert latents.dtype == torch.float32
    assert latents.shape == (7, *cache.latent_shape) == (7, 3, 4, 6)
    assert torch.equal(latents, stored["latents"][indices, crops].float())
    assert torch.equal(boxes, stored["boxes"][indices, crops])
    assert torch.equal(labels, loaded.labels[indices])
    assert stored["positions"].tolist() == list(range(COUNT))
    assert cache.label_names == loaded.label_names == ("cat", "dog")
    assert cache.name == str(data)
    assert cache.crops_per_image == 3


def test_the_first_crop_is_the_whole_image_and_the_share_of_crops_is_kept(tmp_path):
    write_pictures(tmp_path / "data", 60)
    vae = certain_vae()
    wanted = settings(tmp_path / "data", crop_probability=0.5, crops_per_image=4, crop_max_scale=3.0)
    boxes = build_cache(tmp_path / "cache", wanted, vae).boxes
    assert torch.equal(boxes[:, 0], WHOLE.expand(60, 4))
    cropped = int((boxes[..., 2] < 1).sum())
    assert stats.binomtest(cropped, 60 * 3, 0.5 * 4 / 3).pvalue > 0.01
    closest = 1.25 * 18 / 8  # of 20 x 27 pixels 18 x 27 show what 8 x 12 do, and 1.25 is the allowed magnification
    assert 1 / closest - 1e-6 <= boxes[..., 2].min() < 1 / 2.5
    assert boxes.flatten(0, 1).unique(dim=0).shape[0] > cropped * 0.9


def test_without_crops_and_flips_every_box_is_the_whole_image(data, vae, tmp_path):
    cache = build_cache(tmp_path / "cache", settings(data, crop_probability=0.0, random_flip=False), vae)
    assert torch.equal(cache.boxes, WHOLE.expand(COUNT, 3, 4))
    assert not tensors_of(cache)["flips"].any()


def test_every_crop_is_its_own_sample(data, tmp_path):
    cache = build_cache(tmp_path / "cache", settings(data, crop_probability=0.0, random_flip=False), tiny_vae())
    latents = torch.stack([cache.read(torch.arange(COUNT), torch.full((COUNT,), crop))[0] for crop in range(3)])
    assert (latents[0] - latents[1]).abs().amax((1, 2, 3)).min() > 0.01
    assert (latents[1] - latents[2]).abs().amax((1, 2, 3)).min() > 0.01


def test_the_batch_size_changes_next_to_nothing(cache, data, vae, tmp_path):
    other = build_cache(tmp_path / "cache", settings(data), vae, batch_size=100)
    torch.testing.assert_close(tensors_of(other), tensors_of(cache), atol=2e-3, rtol=2e-3)


def test_the_seed_decides(cache, data, vae, tmp_path):
    other = build_cache(tmp_path / "cache", settings(data, seed=6), vae, batch_size=3)
    assert not torch.equal(other.boxes, cache.boxes)


def test_small_images_are_not_enlarged_before_they_are_encoded(tmp_path, vae):
    write_pictures(tmp_path / "data", 3, size=(7, 10))
    stream = open_images(settings(tmp_path / "data"))
    assert stream.size == load_images(tmp_path / "data", "train", (16, 24), upscale=False).images.shape[-2:]
    boxes = build_cache(tmp_path / "cache", settings(tmp_path / "data", crop_probability=1.0), vae).boxes
    assert boxes[..., 2].min() > 0.8  # no closer than 1.25 times magnified; whole images of 7 pixels are already 1.14


def test_gray_images_and_classes(data, tmp_path):
    vae = certain_vae(in_channels=1, out_channels=1)
    cache = build_cache(tmp_path / "cache", settings(data, classes=["dog"]), vae)
    assert cache.label_names == ("dog",)
    assert cache.labels.unique().tolist() == [0]
    assert cache.latent_shape == (3, 4, 6)


# ------------------------------------------------------------------------------------------- the index


def test_the_index_says_what_is_in_it(cache, data):
    index, latents = json.loads((cache.folder / "index.json").read_text()), tensors_of(cache)["latents"].double()
    assert index["format_version"] == 1
    assert index["num_images"] == COUNT
    assert index["counts"] == [4, 4, 3]
    assert index["vae"]["scale"] == [3.0]
    assert index["identity"]["dtype"] == "float16"
    assert len(index["identity"]["vae_checksum"]) == 64
    axes = (0, 1, 3, 4)
    np.testing.assert_allclose(index["channel_mean"], latents.mean(axes), rtol=1e-6)
    np.testing.assert_allclose(index["channel_std"], latents.std(axes, correction=0), rtol=1e-6)
    np.testing.assert_allclose(index["std"], latents.std(correction=0), rtol=1e-6)


@pytest.mark.parametrize(("factor", "told"), [(0.01, True), (1.0, False), (100.0, True)])
def test_unusual_scaling_is_told(factor, told, cache, data, tmp_path):
    scale = factor * 3 / cache.index["std"]
    other = build_cache(tmp_path / "cache", settings(data), certain_vae(scaling_factor=scale))
    notes = [note for note in other.notes if "standard deviation" in note]
    assert len(notes) == told
    assert all(f"{factor:.2g}" in note and "scaling_factor" in note for note in notes)


def test_unreadable_images_are_left_out_and_told(tmp_path, vae):
    """One of 100, which is a whole shard here."""
    data = write_pictures(tmp_path / "data", 100)
    (data / "cat" / "7.png").write_bytes(b"")
    cache = build_cache(tmp_path / "cache", settings(data, shard_size=1, crops_per_image=1), vae)
    assert len(cache) == 99
    assert cache.index["counts"][6:9] == [1, 0, 1]
    assert cache.positions.tolist() == [i for i in range(100) if i != 7]
    assert any("1 unreadable images are left out: cat/7.png" in note for note in cache.notes)
    latents, _, labels = cache.read(torch.tensor([6, 7, 98]), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(latents[1], load_file(cache.folder / "shard-00008.safetensors")["latents"][0, 0].float())
    assert labels.tolist() == [0, 0, 1]


def test_latents_stay_on_disk_until_they_are_read(cache, tmp_path):
    folder = copied(cache, tmp_path)
    path = folder / "shard-00001.safetensors"
    tensors = load_file(path)
    repeats = 100_000_000 // tensors["latents"].nbytes
    large = {name: value.repeat(repeats, *[1] * (value.ndim - 1)).clone() for name, value in tensors.items()}
    save_file({**large, "moments": tensors["moments"]}, path, {"about": json.dumps(about(cache, 1))})
    index = json.loads((folder / "index.json").read_text())
    index["counts"][1] *= repeats
    (folder / "index.json").write_text(json.dumps(index))
    del tensors, large
    before = psutil.Process().memory_full_info().uss
    opened = LatentCache.open(folder)
    latents, _, _ = opened.read(torch.tensor([0, 5, len(opened) - 4]), torch.tensor([0, 1, 2]))
    assert psutil.Process().memory_full_info().uss - before < 25_000_000
    assert torch.equal(latents[1], cache.read(torch.tensor([5]), torch.tensor([1]))[0][0])


def about(cache, number):
    with safe_open(cache.folder / f"shard-{number:05d}.safetensors", "pt") as file:
        return json.loads(file.metadata()["about"])


# ------------------------------------------------------------------------------------------- again


def test_what_is_missing_is_made_again_and_nothing_else(cache, data, vae, tmp_path):
    folder = copied(cache, tmp_path)
    for name in ("index.json", "shard-00001.safetensors"):
        (folder / name).unlink()
    kept = (folder / "shard-00002.safetensors").stat().st_mtime_ns
    build_cache(folder, settings(data), vae, batch_size=3)
    assert contents(folder) == contents(cache.folder)
    assert (folder / "shard-00002.safetensors").stat().st_mtime_ns == kept


def test_a_missing_shard_of_a_complete_cache_is_made_again(cache, data, vae, tmp_path):
    folder = copied(cache, tmp_path)
    (folder / "shard-00000.safetensors").unlink()
    build_cache(folder, settings(data), vae, batch_size=3)
    assert contents(folder) == contents(cache.folder)


def test_an_interrupted_pass_goes_on(cache, data, vae, tmp_path, monkeypatch):
    written = []

    def interrupted(path, content):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, content)

    write = latent_encoding.write_atomic
    with monkeypatch.context() as context:
        context.setattr(latent_encoding, "write_atomic", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_cache(tmp_path, settings(data), vae, batch_size=3)
    assert sorted(contents(tmp_path)) == ["shard-00000.safetensors", "shard-00001.safetensors"]
    with pytest.raises(UserError, match="no complete latents"):
        LatentCache.open(tmp_path)
    build_cache(tmp_path, settings(data), vae, batch_size=3)
    assert contents(tmp_path) == contents(cache.folder)


def test_a_complete_cache_is_opened_without_reading_its_images(cache, data, vae, monkeypatch):
    monkeypatch.setattr(ImageStream, "read", lambda *_: pytest.fail("read the images"))
    again = build_cache(cache.folder, settings(data), vae)
    assert len(again) == COUNT


@pytest.mark.parametrize(("rank", "made"), [(0, 0), (1, 2)])
def test_processes_share_what_is_missing(rank, made, cache, data, vae, tmp_path, monkeypatch):
    """Not what is there: else one of two would encode shards 0 and 2, and the other wait."""
    folder = copied(cache, tmp_path)
    for name in ("index.json", "shard-00000.safetensors", "shard-00002.safetensors"):
        (folder / name).unlink()
    state = SimpleNamespace(process_index=rank, num_processes=2, is_main_process=False, wait_for_everyone=lambda: None)
    monkeypatch.setattr(latent_encoding, "PartialState", lambda **_: state)
    with pytest.raises(UserError, match="no complete latents"):
        build_cache(folder, settings(data), vae)
    assert sorted(contents(folder)) == sorted([f"shard-0000{made}.safetensors", "shard-00001.safetensors"])


def build_as(rank, port, folder, wanted):
    """One of two processes."""
    torch.set_num_threads(1)  # the parent's pool is not ours
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world |= {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": "lo"}
    os.environ.update({name: str(value) for name, value in world.items()})
    AcceleratorState._reset_state(reset_partial_state=True)
    build_cache(folder, wanted, certain_vae(scaling_factor=3.0), batch_size=3)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert Accelerator(cpu=True).num_processes == 2  # training can start afterwards
    torch.distributed.destroy_process_group()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_processes_make_the_same_cache(cache, data, tmp_path):
    context, port = multiprocessing.get_context("fork"), free_port()
    both = [context.Process(target=build_as, args=(rank, port, tmp_path, settings(data))) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in both] == [0, 0]
    made = LatentCache.open(tmp_path)
    torch.testing.assert_close(tensors_of(made), tensors_of(cache), atol=2e-3, rtol=2e-3)
    assert torch.equal(made.boxes, cache.boxes)
    assert made.index["counts"] == cache.index["counts"]


# ------------------------------------------------------------------------------------------- mixing


CHANGES = [
    {"size": (12, 8)}, {"crops_per_image": 4}, {"crop_probability": 0.25}, {"crop_max_scale": 1.5}, {"seed": 6},
    {"random_flip": False}, {"dtype": "bfloat16"}, {"shard_size": 5}, {"classes": ["dog", "cat"]},
    {"crop_max_upsampling": 2.0},
]  # fmt: skip


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_other_settings_are_refused_by_name(change, complete, cache, data, vae, tmp_path):
    folder = copied(cache, tmp_path)
    if not complete:
        (folder / "index.json").unlink()
        (folder / "shard-00001.safetensors").unlink()
    before = contents(folder)
    with pytest.raises(UserError, match=f"holds other latents: {next(iter(change))} was .*, now "):
        build_cache(folder, replace(settings(data), **change), vae)
    assert contents(folder) == before


def test_another_vae_is_refused(cache, data, vae, tmp_path):
    for other in (certain_vae(seed=1, scaling_factor=3.0), certain_vae(scaling_factor=2.0)):
        with pytest.raises(UserError, match="vae_checksum was"):
            build_cache(cache.folder, settings(data), other)
        with pytest.raises(UserError, match="vae_checksum was"):
            LatentCache.open(cache.folder, vae=other)
    assert len(LatentCache.open(cache.folder, settings(data), vae)) == COUNT
    assert len(LatentCache.open(cache.folder)) == COUNT


@pytest.mark.parametrize("complete", [True, False])
def test_data_that_has_grown_is_not_mixed_in(complete, tmp_path, vae):
    data = write_pictures(tmp_path / "data")
    cache = build_cache(tmp_path / "cache", settings(data), vae)
    if not complete:
        (cache.folder / "index.json").unlink()
    (data / "cat" / "new.png").write_bytes((data / "dog" / "10.png").read_bytes())
    with pytest.raises(UserError, match=r"images was 11, now 12.*; give the same data, .* or another --latent-cache"):
        build_cache(cache.folder, settings(data), vae)


@pytest.mark.parametrize("target", ["cat/zero.png", "dog/0.png"])
def test_images_renamed_or_moved_to_another_class_are_told_apart(target, tmp_path, vae):
    """As many as before, of the same classes."""
    data = write_pictures(tmp_path / "data")
    build_cache(tmp_path / "cache", settings(data), vae)
    (data / "cat" / "0.png").rename(data / target)
    with pytest.raises(UserError, match="holds other latents: listing was"):
        build_cache(tmp_path / "cache", settings(data), vae)


def test_a_shard_of_another_cache_is_refused(cache, data, vae, tmp_path):
    other = build_cache(tmp_path / "other", settings(data, seed=6), vae)
    folder = tmp_path / "mixed"
    folder.mkdir()
    copied(cache, folder)
    (folder / "shard-00001.safetensors").write_bytes((other.folder / "shard-00001.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"shard-00001.* belongs to another cache; delete it"):
        LatentCache.open(folder)


def test_a_folder_with_other_files_is_refused(data, vae, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes.txt, which is no latents; choose"):
        build_cache(tmp_path, settings(data), vae)
    with pytest.raises(UserError, match="part of that path is a file"):
        build_cache(tmp_path / "notes.txt", settings(data), vae)
    assert sorted(contents(tmp_path)) == ["notes.txt"]


# ------------------------------------------------------------------------------------------- damage and mistakes


def test_damage_is_named(cache, data, vae, tmp_path):
    folder = copied(cache, tmp_path)
    path = folder / "shard-00001.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(UserError, match=r"shard-00001.safetensors is damaged; delete it and encode the data again"):
        LatentCache.open(folder)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        build_cache(folder, settings(data), vae)
    path.unlink()
    with pytest.raises(UserError, match=r"shard-00001.safetensors is missing; encode the data again"):
        LatentCache.open(folder)
    path.write_bytes(content)
    assert len(LatentCache.open(folder)) == COUNT
    for text, told in (("{", "index.json is damaged"), ('{"format_version": 2}', "has format 2, not 1")):
        (folder / "index.json").write_text(text)
        with pytest.raises(UserError, match=told):
            LatentCache.open(folder)


def test_a_folder_without_a_cache_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(UserError, match="holds no complete latents"):
            LatentCache.open(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": (9, 12)}, "9x12 pixels do not fit the VAE; give multiples of 2"),
        ({"crops_per_image": 0}, "--crops-per-image is 0; give 1 or more"),
        ({"crop_probability": 1.5}, "--crop-probability is 1.5"),
        ({"crop_max_scale": 0.5}, "--crop-max-scale is 0.5"),
        ({"data": "/nowhere/at/all"}, "no file or folder /nowhere"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_written(change, told, data, vae, tmp_path):
    with pytest.raises(UserError, match=told):
        build_cache(tmp_path / "cache", replace(settings(data), **change), vae)
    assert not (tmp_path / "cache").exists()


def test_latents_too_large_for_the_format_are_refused(data, tmp_path):
    vae = certain_vae(scaling_factor=1e7)
    with pytest.raises(UserError, match="float16 cannot hold; choose bfloat16"):
        build_cache(tmp_path / "half", settings(data), vae)
    assert len(build_cache(tmp_path / "wide", settings(data, dtype="bfloat16"), vae)) == COUNT
