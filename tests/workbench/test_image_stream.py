"""Images batch by batch: the same as all at once, in one pass, and never many of them in memory."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workbench import fashion_mnist, image_stream
from workbench.datasets import OpenSplit, load_images
from workbench.errors import UserError
from workbench.image_files import Encoded, PixelForm
from workbench.image_sources import EncodedImages, Positions
from workbench.image_stream import ImageBatch, ImageStream, open_stream

COUNT = 11
SIZE = (6, 4)


def png(seed: int, height: int = 9, width: int = 14) -> bytes:
    shape = (height, width) if seed % 3 == 0 else (height, width, 3)  # gray and colour
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, count: int = COUNT, first: int = 0) -> Path:
    for i in range(first, count):
        file = root / ("cat", "dog")[i * 2 // count] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    return root


def write_parquet(root: Path) -> Path:
    root.mkdir()
    for number, part in enumerate(np.array_split(np.arange(COUNT), 2)):
        rows = [{"image": {"bytes": png(i), "path": None}, "label": f"c{i % 2}"} for i in part]
        parquet.write_table(pa.Table.from_pylist(rows), root / f"train-{number}.parquet", row_group_size=2)
    return root


def write_tars(root: Path) -> Path:
    root.mkdir()
    for number, part in enumerate(np.array_split(np.arange(COUNT), 2)):
        with tarfile.open(root / f"train-{number}.tar", "w") as archive:
            for i in part:
                for ending, content in (("png", png(i)), ("cls", str(i % 2).encode())):
                    member = tarfile.TarInfo(f"{i:03d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return root


WRITERS = {"folder": write_folder, "parquet": write_parquet, "tar": write_tars}


@pytest.fixture(scope="module", params=WRITERS)
def collection(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp("collection") / "set")


def thirds(stream: ImageStream) -> list[Positions]:
    return list(np.array_split(np.arange(len(stream)), 3))


def joined(batches: list[ImageBatch]) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    positions = [int(position) for batch in batches for position in batch.positions]
    return positions, torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


def assert_as_loaded(stream: ImageStream, batches: list[Positions], split: str = "train", upscale: bool = True) -> None:
    """The same pixels and labels as `load_images` gives for these positions."""
    asked = np.concatenate(batches)
    loaded = load_images(stream.name, split, SIZE, channels=stream.form.channels, upscale=upscale).select(asked)
    positions, images, labels = joined(list(stream.read(batches)))
    assert positions == asked.tolist()
    assert torch.equal(images, loaded.images)
    assert torch.equal(labels, loaded.labels)
    assert stream.split.label_names == loaded.label_names


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_collection_is_read_as_at_once(collection: Path, channels: int) -> None:
    stream = open_stream(collection, "train", SIZE, channels=channels)
    assert len(stream) == COUNT
    assert_as_loaded(stream, thirds(stream))


def test_chosen_positions_are_read_alone(collection: Path) -> None:
    stream = open_stream(collection, "train", SIZE)
    assert_as_loaded(stream, [np.array([1, 2]), np.array([], np.int64), np.array([5]), np.array([6, 8, 10])])
    assert list(stream.read([])) == []


def test_only_the_row_groups_of_the_positions_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, asked = open_stream(write_parquet(tmp_path / "set"), "train", SIZE), []
    whole = parquet.ParquetFile.iter_batches

    def noting(self: parquet.ParquetFile, batch_size: int, row_groups: list[int], *rest: object, **options: object):
        asked.extend(row_groups)
        return whole(self, batch_size, row_groups, *rest, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", noting)
    found = [int(p) for batch in stream.read([np.array([2]), np.array([COUNT - 1])]) for p in batch.positions]
    assert found == [2, COUNT - 1]
    assert len(asked) == 2


def test_an_array_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
    arrays = {"t10k-images-idx3-ubyte.gz": images, "t10k-labels-idx1-ubyte.gz": np.arange(COUNT, dtype=np.uint8) % 10}
    monkeypatch.setattr(fashion_mnist, "_folder", lambda: tmp_path)
    monkeypatch.setattr(fashion_mnist, "read_idx", lambda file: arrays[file.name])
    stream = open_stream("fashion-mnist", "test", SIZE, channels=3)
    assert_as_loaded(stream, thirds(stream), "test")
    assert open_stream("fashion-mnist", "test", (84, 42), upscale=False).size == (28, 14)


def test_the_extract_is_streamed_with_its_note() -> None:
    stream = open_stream("fashion-mnist:extract", "test", (28, 20), channels=1)
    assert len(stream) == 1000
    (batch,) = stream.read([np.array([0, 999])])
    assert batch.images.shape == (2, 1, 28, 20)
    assert stream.split.label_names == fashion_mnist.LABEL_NAMES


def test_classes_are_chosen_and_numbered_in_the_order_asked_for(tmp_path: Path) -> None:
    stream = open_stream(write_folder(tmp_path), "train", SIZE, ["dog"])
    loaded = load_images(tmp_path, "train", SIZE, ["dog"])
    positions, images, labels = joined(list(stream.read(thirds(stream))))
    assert positions == list(range(len(loaded)))
    assert stream.split.label_names == ("dog",)
    assert torch.equal(images, loaded.images)
    assert labels.unique().tolist() == [0]


# ------------------------------------------------------------------------------------------------ size


@pytest.mark.parametrize("wanted", [(6, 4), (30, 20), (20, 30)])
def test_nothing_is_enlarged_unless_asked(collection: Path, wanted: tuple[int, int]) -> None:
    stream = open_stream(collection, "train", wanted, upscale=False)
    loaded = load_images(collection, "train", wanted, upscale=False, channels=3)
    _, images, _ = joined(list(stream.read(thirds(stream))))
    assert stream.size == tuple(images.shape[-2:])
    assert torch.equal(images, loaded.images)
    assert open_stream(collection, "train", wanted).size == wanted


def test_one_large_image_settles_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    (tmp_path / "cat" / "2.png").write_bytes(png(2, 40, 40))
    measured = []
    measure = image_stream.upright_size

    def watched(encoded: Encoded, name: str, max_pixels: int) -> tuple[int, int]:
        measured.append(name)
        return measure(encoded, name, max_pixels)

    monkeypatch.setattr(image_stream, "upright_size", watched)
    assert open_stream(tmp_path, "train", (30, 20), upscale=False).size == (30, 20)
    assert measured == ["cat/0.png", "cat/1.png", "cat/2.png"]


# ------------------------------------------------------------------------------------------------ memory and order


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_no_more_than_a_batch_is_read_ahead(sizes: list[int]) -> None:
    asked: list[int] = []
    content = png(1)

    def read(positions: Positions) -> Iterator[Encoded]:
        for position in positions:
            asked.append(int(position))
            yield content

    labels = np.zeros(50, np.int64)
    source = EncodedImages([f"{i}.png" for i in range(50)], labels, ("only",), read)
    split = OpenSplit(source, np.arange(50), labels, ("only",), ())
    stream = ImageStream(split, SIZE, PixelForm(SIZE, 3), "test")
    batches = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    done = 0
    for batch in stream.read(batches):
        done += len(batch.images)
        assert len(asked) <= done + max(sizes)
    assert asked == list(range(sum(sizes)))


def test_positions_must_rise(tmp_path: Path) -> None:
    stream = open_stream(write_folder(tmp_path), "train", SIZE)
    for batches in ([np.array([2, 1])], [np.array([2]), np.array([2])]):
        with pytest.raises(AssertionError, match="rise"):
            next(stream.read(batches))


# ------------------------------------------------------------------------------------------------ bad input


def test_an_unreadable_image_is_left_out_and_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 100)
    (tmp_path / "cat" / "7.png").write_bytes(b"no picture")
    stream = open_stream(tmp_path, "train", SIZE, upscale=False)
    batches = list(stream.read([np.arange(5), np.arange(5, 10), np.arange(10, 100)]))
    assert [batch.positions.tolist() for batch in batches[:2]] == [[0, 1, 2, 3, 4], [5, 6, 8, 9]]
    assert [batch.failures for batch in batches] == [[], [("cat/7.png", "not an image")], []]
    assert torch.equal(joined(batches)[1], load_images(tmp_path, "train", SIZE, channels=3).images)


def test_a_batch_of_unreadable_images_is_empty(tmp_path: Path) -> None:
    write_folder(tmp_path, 100)
    (tmp_path / "cat" / "7.png").write_bytes(b"")
    (batch,) = open_stream(tmp_path, "train", SIZE).read([np.array([7])])
    assert batch.images.shape == (0, 3, *SIZE)
    assert len(batch.positions) == len(batch.labels) == 0


def test_too_many_unreadable_images_are_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path, 100)
    for i in (7, 60):
        (tmp_path / ("cat", "dog")[i // 50] / f"{i}.png").write_bytes(b"")
    stream = open_stream(tmp_path, "train", SIZE)
    with pytest.raises(UserError, match=r"2 of 100 images cannot be read.*cat/7.png"):
        list(stream.read(thirds(stream)))


def test_large_images_are_refused_or_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    with pytest.raises(UserError, match="more than the 100 allowed"):
        list(open_stream(tmp_path, "train", SIZE, max_pixels=100).read([np.arange(2)]))
    with pytest.raises(UserError, match="more than the 100 allowed"):
        open_stream(tmp_path, "train", SIZE, upscale=False, max_pixels=100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # of 126 pixels Pillow alone would raise
    for upscale in (True, False):
        stream = open_stream(tmp_path, "train", SIZE, upscale=upscale, max_pixels=200)
        assert len(joined(list(stream.read(thirds(stream))))[0]) == COUNT
        assert Image.MAX_IMAGE_PIXELS == 50


def test_unknown_names_are_a_sentence(tmp_path: Path) -> None:
    write_folder(tmp_path)
    with pytest.raises(UserError, match="no file or folder"):
        open_stream(tmp_path / "none", "train", SIZE)
    with pytest.raises(UserError, match="no split 'test'"):
        open_stream(tmp_path, "test", SIZE)
    with pytest.raises(UserError, match="no class 'cow'"):
        open_stream(tmp_path, "train", SIZE, ["cow"])
