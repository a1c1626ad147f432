import errno
import hashlib
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_sets import IDENTITY, NAMES, SHARD, contents, small_images, small_rows, write_small_set

from workbench.errors import UserError
from workbench.records import DatasetWriter, describe_parent, open_image, read_dataset_info, read_rows, verify


def new_writer(output, identity=None, **options):
    return DatasetWriter(output, NAMES, IDENTITY if identity is None else identity, shard_size=SHARD, **options)


# ------------------------------------------------------------------------------------------- what is written


def test_layout_is_the_contract(tmp_path):
    data = write_small_set(tmp_path / "DATA", {"train": 10})
    images = [f"train/{i // 4:04d}/{i:06d}.png" for i in range(10)]
    assert sorted(contents(data)) == sorted(["README.md", "dataset.json", "grid.png", "train/metadata.jsonl", *images])
    assert list(tmp_path.iterdir()) == [data]


def test_pixels_and_facts_come_back(tmp_path):
    images = small_images(10)
    data = write_small_set(tmp_path / "DATA")
    rows = read_rows(data)
    assert len(rows) == 10
    for i, (row, image) in enumerate(zip(rows, images, strict=True)):
        picture = open_image(data, row["file_name"])
        pixels = np.asarray(picture)
        expected = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        np.testing.assert_array_equal(pixels, expected)
        assert picture.mode == ("L" if len(image) == 1 else "RGB")
        assert (row["height"], row["width"]) == image.shape[1:] == (picture.height, picture.width)
        assert (row["label"], row["label_name"]) == (i % 3, NAMES[i % 3])
        assert row["sha256"] == hashlib.sha256((data / "train" / row["file_name"]).read_bytes()).hexdigest()
        assert row["seed"] == 2**40 + i
        assert row["prompt"] == f"número {i}\n\t\u2028"
        assert row["soft_label"] == [float(np.float32(1 / 3))] * 3
        assert type(row["guidance_scale"]) is float  # one column, one kind


def test_dataset_json_states_what_is_there(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    info = read_dataset_info(data)
    assert info["classes"] == list(NAMES)
    assert info["counts"]["train"] == {
        "total": 10,
        "unlabelled": 0,
        "per_class": dict(zip(NAMES, (4, 3, 3), strict=True)),
    }
    assert info["counts"]["test"]["total"] == 3
    assert info["sizes"] == [{"height": 6, "width": 9, "count": 6}, {"height": 10, "width": 7, "count": 7}]
    assert info["sources"] == {"generated": 13}
    assert info["generators"] == [{"name": "zoo:small", "checksum": "f00d"}]
    assert (info["command"], info["seed"]) == ("workbench sample", 3)
    assert info["config"]["pipeline"] == "abc"
    for split in ("train", "test"):
        metadata = (data / split / "metadata.jsonl").read_bytes()
        assert info["checksums"][split] == hashlib.sha256(metadata).hexdigest()


def test_images_may_be_tensors_gray_planes_and_batches(tmp_path):
    writer = DatasetWriter(tmp_path / "DATA", ["a"], {})
    batch = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    plane = np.arange(6, dtype=np.uint8).reshape(2, 3)
    writer.write_shard(0, batch, [{"label": torch.tensor(0)}, {"label": np.int64(-1)}], "train")
    writer.write_shard(0, [plane], [{"label": 0}], "test")
    data = writer.finish()
    rows = read_rows(data)
    assert np.asarray(open_image(data, rows[1]["file_name"])).tolist() == batch[1].permute(1, 2, 0).tolist()
    assert rows[1]["label"] == -1
    assert rows[1]["label_name"] is None
    assert np.asarray(open_image(data, "0000/000000.png", "test")).tolist() == plane.tolist()
    assert verify(data).ok


def test_masks_are_saved_beside_their_image(tmp_path):
    images = small_images(3)
    masks = [image[0] > 100 for image in images]
    rows = [{"label": 0, "mask": masks[0]}, {"label": 1}, {"label": 2, "mask": torch.from_numpy(masks[2])}]
    writer = new_writer(tmp_path / "DATA")
    writer.write_shard(0, images, rows)
    data = writer.finish()
    written = read_rows(data)
    assert [row["mask_file_name"] for row in written] == ["0000/000000.mask.png", None, "0000/000002.mask.png"]
    for i in (0, 2):
        np.testing.assert_array_equal(
            np.asarray(open_image(data, written[i]["mask_file_name"])), masks[i] * np.uint8(255)
        )
    assert verify(data).ok


def test_parents_are_named_with_their_checksum(tmp_path):
    parent = write_small_set(tmp_path / "PARENT")
    writer = new_writer(tmp_path / "CHILD")
    writer.write_shard(0, small_images(1), small_rows(1))
    child = writer.finish(parents=[parent, {"name": "fashion-mnist", "checksum": "12"}])
    first, second = read_dataset_info(child)["parents"]
    assert first == {"name": "PARENT", "checksum": read_dataset_info(parent)["checksum"]} == describe_parent(parent)
    assert second == {"name": "fashion-mnist", "checksum": "12"}


def test_number_of_threads_changes_nothing(tmp_path):
    images, rows = small_images(4), small_rows(4)
    trees = []
    for threads in (1, 3):
        writer = new_writer(tmp_path / f"{threads}", num_threads=threads)
        writer.write_shard(0, images, rows)
        tree = contents(writer.finish())
        trees.append({name: tree[name] for name in tree if name.startswith("train/")})
    assert trees[0] == trees[1]


# ------------------------------------------------------------------------------------------- columns


def test_missing_values_are_null_and_missing_texts_of_a_whole_split_are_empty(tmp_path):
    writer = new_writer(tmp_path / "DATA")
    writer.write_shard(0, small_images(2), [{"label": 0, "prompt": "boot", "seed": 1}, {"label": 1}])
    writer.write_shard(0, small_images(1), [{"label": 0, "seed": 2}], "test")
    data = writer.finish()
    assert [row["prompt"] for row in read_rows(data)] == ["boot", None]
    assert [row["prompt"] for row in read_rows(data, "test")] == [""]
    assert [row["seed"] for row in read_rows(data)] == [1, None]


def test_a_column_that_starts_late_has_a_value_among_the_first_rows(tmp_path):
    count = 205
    writer = DatasetWriter(tmp_path / "DATA", ["a"], {}, shard_size=50)
    rows = [{"label": 0} | ({"seed": 7, "prompt": "p"} if i >= 180 else {}) for i in range(count)]
    images = np.zeros((count, 2, 3), np.uint8)
    for shard in writer.missing_shards(count):
        part = slice(shard * 50, shard * 50 + 50)
        writer.write_shard(shard, list(images[part]), rows[part])
    data = writer.finish()
    written = read_rows(data)
    assert written[0]["seed"] == 7
    assert sorted(row["file_name"] for row in written) == [f"{i // 50:04d}/{i:06d}.png" for i in range(count)]
    assert sum(row["seed"] == 7 for row in written) == 25
    assert verify(data).ok


@pytest.mark.parametrize(
    ("first", "second"),
    [({"seed": 1}, {"seed": "one"}), ({"flag": True}, {"flag": 1}), ({"tags": [1]}, {"tags": ["a"]})],
)
def test_a_column_of_two_kinds_is_refused(tmp_path, first, second):
    writer = new_writer(tmp_path / "DATA")
    writer.write_shard(0, small_images(2), [{"label": 0} | first, {"label": 0} | second])
    with pytest.raises(UserError, match="one kind"):
        writer.finish()


def test_a_number_without_value_in_one_split_is_refused(tmp_path):
    writer = new_writer(tmp_path / "DATA")
    writer.write_shard(0, small_images(1), [{"label": 0, "seed": 1}])
    writer.write_shard(0, small_images(1), [{"label": 0}], "test")
    with pytest.raises(UserError, match="'seed' has no value in test"):
        writer.finish()


@pytest.mark.parametrize(
    "row",
    [
        {"label": 3},
        {"label": -2},
        {"label": None},
        {"label": True},
        {"label": 1.0},
        {},
        {"label": 0, "score": float("nan")},
        {"label": 0, "seed": 2**63},
        {"label": 0, "settings": {"a": 1}},
        {"label": 0, "nested": [[1]]},
        {"label": 0, "image": "x"},
        {"label": 0, "mask_file_name": "x"},
        {"label": 0, "two words": 1},
    ],
)
def test_rows_that_cannot_come_back_are_refused_before_anything_is_written(tmp_path, row):
    writer = new_writer(tmp_path / "DATA")
    with pytest.raises(UserError):
        writer.write_shard(0, small_images(1), [row])
    assert writer.missing_shards(1) == [0]


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 5), np.float32), np.zeros((2, 4, 5), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 5), np.uint8)],
)
def test_images_that_are_no_pixels_are_refused(tmp_path, image):
    writer = new_writer(tmp_path / "DATA")
    with pytest.raises(UserError, match="give uint8 pixels"):
        writer.write_shard(0, [image], [{"label": 0}])
    assert writer.missing_shards(1) == [0]


@pytest.mark.parametrize("names", [("a", "a"), ("a", "")])
def test_class_names_must_tell_classes_apart(tmp_path, names):
    with pytest.raises(UserError, match="class names"):
        DatasetWriter(tmp_path / "DATA", names, {})
    assert not list(tmp_path.iterdir())


def test_shards_and_splits_out_of_bounds_are_refused(tmp_path):
    writer = new_writer(tmp_path / "DATA")
    for index, images, rows in ((0, 5, 5), (0, 2, 1), (0, 0, 0), (-1, 1, 1)):
        with pytest.raises(UserError, match="Shard"):
            writer.write_shard(index, small_images(images), small_rows(rows))
    with pytest.raises(UserError, match="choose one of train, validation, test"):
        writer.write_shard(0, small_images(1), small_rows(1), "distilled")


# ------------------------------------------------------------------------------------------- resuming


def test_a_killed_writer_goes_on_where_it_stopped(tmp_path):
    images, rows = small_images(10), small_rows(10)
    first = new_writer(tmp_path / "DATA")
    for shard in (0, 2):
        first.write_shard(shard, images[shard * 4 : shard * 4 + 4], rows[shard * 4 : shard * 4 + 4])
    half = tmp_path / "DATA.partial/train/0001"
    half.mkdir()
    (half / "000004.png").write_bytes(b"half")
    again = new_writer(tmp_path / "DATA")
    assert not again.is_complete()
    assert again.missing_shards(10) == [1]
    with pytest.raises(UserError, match="Shard 1 of train is half-written"):
        again.finish()
    again.write_shard(1, images[4:8], rows[4:8])
    data = again.finish()
    assert verify(data).ok
    whole = write_small_set(tmp_path / "WHOLE", {"train": 10})
    assert (data / "train/metadata.jsonl").read_bytes() == (whole / "train/metadata.jsonl").read_bytes()


class Killed(BaseException):
    """What kill -9 does: from then on nothing more reaches the disk."""


def kill_after(monkeypatch, operations):
    """Let only the first `operations` changes of the disk happen."""
    left = operations

    def guarded(operation):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return operation(*args, **kwargs)

        return call

    for name in ("rename", "replace", "write_bytes", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_at_any_moment_nothing_is_lost_and_the_same_call_completes_the_set(tmp_path, monkeypatch, overwrite):
    whole = contents(write_small_set(tmp_path / "WHOLE", {"train": 5}))
    rows = whole["train/metadata.jsonl"]
    operations, killed = 0, True
    while killed:
        parent = tmp_path / f"{operations}"
        parent.mkdir()
        if overwrite:
            old = contents(write_small_set(parent / "DATA", {"train": 1}))
        with monkeypatch.context() as patch:
            kill_after(patch, operations)
            try:
                write_small_set(parent / "DATA", {"train": 5}, overwrite=overwrite)
                killed = False
            except Killed:
                operations += 1
        complete = [contents(folder) for folder in parent.iterdir() if (folder / "dataset.json").exists()]
        if overwrite:
            assert any(tree == old or tree["train/metadata.jsonl"] == rows for tree in complete)
        data = write_small_set(parent / "DATA", {"train": 5}, overwrite=overwrite and killed)
        assert (data / "train/metadata.jsonl").read_bytes() == rows
        assert verify(data).ok, verify(data).summary()
        assert not (parent / "DATA.partial").exists()
    assert operations > 20


def test_two_writers_share_the_shards(tmp_path):
    images, rows = small_images(16), small_rows(16)
    writers = [new_writer(tmp_path / "DATA") for _ in range(2)]

    def write(shard):
        part = slice(shard * 4, shard * 4 + 4)
        writers[shard % 2].write_shard(shard, images[part], rows[part])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(4)))
    assert writers[0].missing_shards(16) == []
    data = writers[0].finish()
    assert writers[1].finish() == data
    assert verify(data).num_images == 16
    assert verify(data).ok


def test_finishing_too_early_is_refused(tmp_path):
    images, rows = small_images(8), small_rows(8)
    with pytest.raises(UserError, match="No image was written"):
        new_writer(tmp_path / "NONE").finish()
    gap = new_writer(tmp_path / "GAP")
    gap.write_shard(1, images[4:], rows[4:])
    with pytest.raises(UserError, match="Shard 0 of train is not written yet"):
        gap.finish()
    short = new_writer(tmp_path / "SHORT")
    short.write_shard(0, images[:3], rows[:3])
    short.write_shard(1, images[4:], rows[4:])
    with pytest.raises(UserError, match="not full"):
        short.finish()
    tail = new_writer(tmp_path / "TAIL")
    assert tail.missing_shards(8) == [0, 1]
    tail.write_shard(0, images[:4], rows[:4])
    with pytest.raises(UserError, match="4 of 8 images"):
        tail.finish()
    assert not (tmp_path / "TAIL").exists()


def test_another_identity_is_refused_and_named(tmp_path):
    new_writer(tmp_path / "DATA").write_shard(0, small_images(1), small_rows(1))
    with pytest.raises(UserError, match="seed was 3, now 4"):
        new_writer(tmp_path / "DATA", {**IDENTITY, "seed": 4})
    with pytest.raises(UserError, match="shard_size"):
        DatasetWriter(tmp_path / "DATA", NAMES, IDENTITY, shard_size=5)
    with pytest.raises(UserError, match="label_names"):
        DatasetWriter(tmp_path / "DATA", NAMES[:2], IDENTITY, shard_size=SHARD)
    assert new_writer(tmp_path / "DATA").missing_shards(1) == []
    anew = new_writer(tmp_path / "DATA", {**IDENTITY, "seed": 4}, overwrite=True)
    assert anew.missing_shards(1) == [0]


# ------------------------------------------------------------------------------------------- what was there before


def test_a_complete_set_is_recognised_and_never_changed(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    before = contents(data)
    again = new_writer(data)
    assert again.is_complete()
    assert again.missing_shards(10) == []
    with pytest.raises(UserError, match="is complete"):
        again.write_shard(0, small_images(1), small_rows(1))
    assert again.finish() == data
    with pytest.raises(UserError, match="already holds a data set made with other settings"):
        new_writer(data, {"seed": 9})
    assert contents(data) == before
    assert list(tmp_path.iterdir()) == [data]


def test_overwrite_replaces_only_once_the_new_set_is_complete(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    before = contents(data)
    writer = new_writer(data, {"seed": 9}, overwrite=True)
    assert not writer.is_complete()
    writer.write_shard(0, small_images(2, seed=5), small_rows(2))
    assert contents(data) == before
    writer.finish()
    assert len(read_rows(data)) == 2
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_we_did_not_make_is_left_alone(tmp_path, overwrite):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_bytes(b"cat")
    with pytest.raises(UserError, match="not a data set of the workbench"):
        new_writer(photos, overwrite=overwrite)
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="not a data set of the workbench"):
        new_writer(tmp_path / "file", overwrite=overwrite)
    (tmp_path / "DATA.partial").mkdir()
    (tmp_path / "DATA.partial/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt was not made by the workbench"):
        new_writer(tmp_path / "DATA", overwrite=overwrite)
    assert (photos / "cat.png").read_bytes() == b"cat"
    assert (tmp_path / "DATA.partial/notes.txt").read_text() == "mine"


def test_a_users_file_inside_our_folder_stops_overwriting(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    (data / "train/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt was not made by the workbench"):
        new_writer(data, overwrite=True)
    assert (data / "train/notes.txt").exists()


def test_an_empty_folder_is_free(tmp_path):
    (tmp_path / "DATA").mkdir()
    assert verify(write_small_set(tmp_path / "DATA")).ok


# ------------------------------------------------------------------------------------------- disks


def test_a_path_below_a_file_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="part of that path is a file"):
        new_writer(tmp_path / "file/DATA")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(errno.EROFS, "read-only"), (errno.EACCES, "no permission"), (errno.ENOSPC, "is full")],
)
def test_a_disk_that_takes_nothing_is_a_sentence(tmp_path, monkeypatch, code, sentence):
    def refuse(self, *args, **kwargs):
        raise OSError(code, "refused")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(UserError, match=sentence):
            new_writer(tmp_path / "DATA")
    writer = new_writer(tmp_path / "DATA")
    writer.write_shard(0, small_images(4), small_rows(4))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(UserError, match=sentence):
            writer.finish()
    assert new_writer(tmp_path / "DATA").missing_shards(4) == []
    assert verify(writer.finish()).ok


@pytest.mark.parametrize("operation", ["write_bytes", "replace"])
def test_a_disk_that_fills_up_in_a_shard_costs_only_that_shard(tmp_path, monkeypatch, operation):
    def refuse(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "refused")

    writer = new_writer(tmp_path / "DATA")
    writer.write_shard(0, small_images(4), small_rows(4))
    with monkeypatch.context() as patch:
        patch.setattr(Path, operation, refuse)
        with pytest.raises(UserError, match="is full"):
            writer.write_shard(1, small_images(1), small_rows(1))
    assert new_writer(tmp_path / "DATA").missing_shards(5) == [1]


# ------------------------------------------------------------------------------------------- verify


DAMAGES = {
    "flipped byte": (lambda data: flip(data / "train/0001/000005.png"), "000005.png was changed"),
    "deleted file": (lambda data: (data / "train/0001/000005.png").unlink(), "000005.png is missing"),
    "extra file": (lambda data: (data / "train/0001/more.png").write_bytes(b"x"), "more.png does not belong"),
    "no rows": (lambda data: (data / "test/metadata.jsonl").unlink(), "metadata.jsonl is missing"),
    "no card": (lambda data: (data / "README.md").unlink(), "README.md, the card, is missing"),
    "no dataset.json": (lambda data: (data / "dataset.json").unlink(), "has no dataset.json"),
    "broken dataset.json": (lambda data: cut(data / "dataset.json"), "not JSON"),
    "cut rows": (lambda data: cut(data / "train/metadata.jsonl"), "damaged at line"),
    "lost last row": (lambda data: edit_rows(data, lambda rows: rows[:-1]), "states 10 images"),
    "label out of range": (lambda data: edit_row(data, label=7), "has the label 7, outside of -1 to 2"),
    "label and name apart": (lambda data: edit_row(data, label_name="Hémd"), "label name 'Hémd'"),
    "label no number": (lambda data: edit_row(data, label="0"), "has no proper 'label'"),
    "wrong size": (lambda data: edit_row(data, height=7, width=10), "is 10x7, its row says 7x10"),
    "edited provenance": (lambda data: edit_row(data, prompt="other"), "their checksum differs"),
    "path outside": (lambda data: edit_row(data, file_name="../../secret.png"), "names the file"),
    "other metadata": (lambda data: (data / "train/metadata.csv").write_text("file_name"), "one metadata file"),
    "metadata too deep": (lambda data: (data / "train/0000/metadata.jsonl").touch(), "once for each split"),
    "metadata misnamed": (
        lambda data: (data / "train/metadata.jsonl").rename(data / "train/Metadata.JSONL"),
        "must be called exactly metadata.jsonl",
    ),
    "counts": (lambda data: edit_info(data, lambda info: info["counts"]["test"].update(total=4)), "states 4 images"),
    "sizes": (lambda data: edit_info(data, lambda info: info["sizes"].pop()), "image sizes"),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def edit_rows(data, change):
    rows = change(read_rows(data))
    (data / "train/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_row(data, **changes):
    edit_rows(data, lambda rows: [rows[0] | changes, *rows[1:]])


def edit_info(data, change):
    info = read_dataset_info(data)
    change(info)
    (data / "dataset.json").write_text(json.dumps(info))


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds(tmp_path, damage):
    data = write_small_set(tmp_path / "DATA")
    assert verify(data).problems == ()
    harm, sentence = DAMAGES[damage]
    harm(data)
    report = verify(data)
    assert not report.ok
    assert any(sentence in problem for problem in report.problems), report.summary()


def test_verify_says_what_is_good_and_shows_the_first_problems_only(tmp_path):
    data = write_small_set(tmp_path / "DATA", {"train": 30})
    assert verify(data).summary() == f"{data} (folder): 30 images, all good."
    for image in data.rglob("0*/0*.png"):
        image.unlink()
    lines = verify(data).summary().splitlines()
    assert len(lines) == 22
    assert lines[0].endswith("30 images, 30 problems.")
    assert lines[-1] == "... and 10 more"


def test_verify_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        verify(tmp_path / "nothing")


def test_reading_what_is_no_set_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"has no dataset\.json"):
        read_dataset_info(tmp_path)
    with pytest.raises(UserError, match=r"metadata\.jsonl is missing"):
        read_rows(tmp_path)
    (tmp_path / "dataset.json").write_text('{"images": 3}')
    with pytest.raises(UserError, match="not written by the workbench"):
        read_dataset_info(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": "workbench-dataset", "format_version": 99}')
    with pytest.raises(UserError, match="format version 99"):
        read_dataset_info(tmp_path)


# ------------------------------------------------------------------------------------------- other readers


def test_load_dataset_reads_the_folder(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    rows = [{**row, "mask": image[0] > 99} for row, image in zip(small_rows(4), small_images(4), strict=True)]
    rows[2] = {"label": -1}
    writer = new_writer(tmp_path / "DATA")
    writer.write_shard(0, small_images(4), rows)
    writer.write_shard(0, small_images(1), rows[:1], "test")
    data = writer.finish()
    options = {"data_dir": str(data), "cache_dir": str(tmp_path / "cache")}
    loaded = datasets.load_dataset("imagefolder", split="train", **options)
    assert len(loaded) == 4
    assert loaded["label"][:] == [0, 1, -1, 0]
    assert loaded["label_name"][:] == [NAMES[0], NAMES[1], None, NAMES[0]]
    assert loaded["prompt"][:] == ["número 0\n\t\u2028", "número 1\n\t\u2028", None, "número 3\n\t\u2028"]
    for image, row, ours in zip(loaded["image"], loaded, read_rows(data), strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(open_image(data, ours["file_name"])))
        assert row["seed"] == ours["seed"]
        assert row["soft_label"] == ours["soft_label"]
        if ours["mask_file_name"]:
            np.testing.assert_array_equal(np.asarray(row["mask"]), np.asarray(open_image(data, ours["mask_file_name"])))
        else:
            assert row["mask"] is None
    raw = loaded.cast_column("image", datasets.Image(decode=False))[1]["image"]
    assert Path(raw["path"]).read_bytes() == (data / "train/0000/000001.png").read_bytes()
    named = loaded.cast_column("label", datasets.ClassLabel(names=list(NAMES)))
    assert named.features["label"].int2str(1) == NAMES[1]
    assert len(datasets.load_dataset("imagefolder", split="test", **options)) == 1


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"label": st.integers(-1, 2)},
            optional={
                "seed": st.integers(-(2**63), 2**63 - 1),
                "score": st.floats(allow_nan=False, allow_infinity=False),
                "prompt": st.text(max_size=8),
                "edited": st.booleans(),
                "soft_label": st.lists(st.floats(0, 1), max_size=3),
            },
        ),
        min_size=1,
        max_size=9,
    ),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_rows_come_back_as_they_were(rows, size):
    with tempfile.TemporaryDirectory() as folder:
        writer = new_writer(Path(folder) / "DATA")
        for shard in writer.missing_shards(len(rows)):
            part = rows[shard * SHARD : (shard + 1) * SHARD]
            writer.write_shard(shard, [np.full(size, 9, np.uint8)] * len(part), part)
        data = writer.finish()
        written = read_rows(data)
        for row, ours in zip(rows, written, strict=True):
            assert {name: ours[name] for name in row} == row
            assert all(ours[name] in (None, "") for name in ours.keys() - row.keys() - FACTS)
        assert verify(data).ok


FACTS = {"file_name", "label_name", "height", "width", "sha256"}


def test_grid_is_a_picture_of_each_class(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    with Image.open(data / "grid.png") as grid:
        assert grid.format == "PNG"
        assert grid.width > grid.height > 3 * 50


def test_a_place_that_holds_no_folders_is_a_sentence():
    with pytest.raises(UserError, match="cannot be made there: choose another folder"):
        DatasetWriter("/proc/nothing", ("a", "b"), {})
