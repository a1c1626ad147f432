import io
import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import IDENTITY, NAMES, contents, small_images, small_rows, write_small_set

from workbench import convert as convert_module
from workbench.convert import convert, detect_form, read_records
from workbench.errors import UserError
from workbench.records import DatasetWriter, open_image, read_dataset_info, read_rows, verify

OTHERS = ["parquet", "webdataset"]


def set_with_masks(output):
    images = small_images(7)
    rows = [
        {**row, "mask": image[0] > 99} if i % 3 else row
        for i, (row, image) in enumerate(zip(small_rows(7), images, strict=True))
    ]
    writer = DatasetWriter(output, NAMES, IDENTITY)
    writer.write_shard(0, images, rows)
    writer.write_shard(0, images[1:3], rows[1:3], "test")
    return writer.finish()


@pytest.mark.parametrize("form", OTHERS)
def test_there_and_back_is_equal_to_the_byte(tmp_path, form):
    data = set_with_masks(tmp_path / "DATA")
    other = convert(data, tmp_path / "OTHER", form)
    back = convert(other, tmp_path / "BACK", "folder")
    assert contents(back) == contents(data)
    assert [detect_form(folder) for folder in (data, other, back)] == ["folder", form, "folder"]
    assert read_dataset_info(other) == read_dataset_info(data)
    assert verify(other).problems == ()
    assert verify(other).num_images == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["BACK", "DATA", "OTHER"]


def test_from_parquet_to_webdataset_without_a_folder(tmp_path):
    data = set_with_masks(tmp_path / "DATA")
    one = convert(convert(data, tmp_path / "P", "parquet"), tmp_path / "PW", "webdataset")
    two = convert(data, tmp_path / "W", "webdataset")
    assert contents(one) == contents(two)


@pytest.mark.parametrize("form", ["folder", *OTHERS])
def test_records_are_the_rows_and_the_bytes(tmp_path, form):
    data = set_with_masks(tmp_path / "DATA")
    records = list(read_records(convert(data, tmp_path / "OTHER", form), "train"))
    assert [record.row for record in records] == read_rows(data)
    for record in records:
        names = [record.row["file_name"], record.row["mask_file_name"]]
        assert list(record.files) == [name for name in names if name]
        assert all(content == (data / "train" / name).read_bytes() for name, content in record.files.items())


def test_parquet_is_what_datasets_expects(tmp_path, monkeypatch):
    import datasets
    import pyarrow.parquet as pq

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    data = set_with_masks(tmp_path / "DATA")
    other = convert(data, tmp_path / "P", "parquet")
    loaded = datasets.load_dataset(str(other), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["label"].names == list(NAMES)
    for row, ours in zip(loaded, read_rows(data), strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(open_image(data, ours["file_name"])))
        assert (row["mask"] is None) == (ours["mask_file_name"] is None)
        assert (row["label"], row["seed"], row["prompt"]) == (ours["label"], ours["seed"], ours["prompt"])
    kept = pq.read_schema(other / "train.parquet").metadata[b"workbench.dataset"]
    assert json.loads(kept) == read_dataset_info(data)


def test_webdataset_is_what_datasets_expects(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    data = write_small_set(tmp_path / "DATA")
    other = convert(data, tmp_path / "W", "webdataset")
    loaded = datasets.load_dataset(str(other), split="train", cache_dir=str(tmp_path / "cache"))
    for row, ours in zip(loaded, read_rows(data), strict=True):
        np.testing.assert_array_equal(np.asarray(row["png"]), np.asarray(open_image(data, ours["file_name"])))
        assert row["json"] == ours
        assert row["__key__"] == ours["file_name"].removesuffix(".png")


def test_large_sets_are_cut_into_groups_and_shards(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    data = write_small_set(tmp_path / "DATA", {"train": 10})
    monkeypatch.setattr(convert_module, "ROW_GROUP_IMAGES", 4)
    monkeypatch.setattr(convert_module, "TAR_IMAGES", 3)
    parquet = convert(data, tmp_path / "P", "parquet")
    shards = convert(data, tmp_path / "W", "webdataset")
    groups = pq.ParquetFile(parquet / "train.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [4, 4, 2]
    assert sorted(path.name for path in shards.rglob("*.tar")) == [f"{i:05d}.tar" for i in range(4)]
    for folder in (parquet, shards):
        assert [record.row for record in read_records(folder)] == read_rows(data)
    monkeypatch.setattr(convert_module, "TAR_IMAGES", 100)
    monkeypatch.setattr(convert_module, "TAR_BYTES", 1)
    assert len(list(convert(data, tmp_path / "ONE", "webdataset").rglob("*.tar"))) == 10


def test_tar_headers_hold_no_times_or_owners(tmp_path):
    other = convert(write_small_set(tmp_path / "DATA"), tmp_path / "W", "webdataset")
    with tarfile.open(other / "train/00000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:2]] == ["0000/000000.png", "0000/000000.json"]
    assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in members} == {
        (0, 0, 0, "", "")
    }


# ------------------------------------------------------------------------------------------- damage and places


def flip(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 12] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-700])


def replace_member(path, name, content):
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, old in members:
            info = tarfile.TarInfo(member)
            data = content if member == name else old
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def add_member(path, name):
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))


DAMAGES = {
    "parquet cut": ("parquet", lambda path: cut(path / "train.parquet"), "train.parquet is damaged"),
    "parquet missing": (
        "parquet",
        lambda path: (path / "test.parquet").unlink(),
        "damaged or missing",
    ),
    "parquet extra": ("parquet", lambda path: (path / "more.txt").touch(), "more.txt does not belong"),
    "tar flipped": ("webdataset", lambda path: flip(path / "train/00000.tar"), "was changed"),
    "tar cut": ("webdataset", lambda path: (path / "train/00000.tar").write_bytes(b"x" * 700), "00000.tar is damaged"),
    "tar missing": ("webdataset", lambda path: (path / "train/00000.tar").unlink(), "there are 0 images"),
    "tar ends early": ("webdataset", lambda path: add_member(path / "train/00000.tar", "a.png"), "belongs to no row"),
    "tar row": (
        "webdataset",
        lambda path: replace_member(path / "train/00000.tar", "0000/000000.json", b"[1]"),
        "00000.tar is damaged",
    ),
    "tar image": (
        "webdataset",
        lambda path: replace_member(path / "train/00000.tar", "0000/000001.png", b"no image"),
        "000001.png is not a readable image",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_never_converted(tmp_path, damage):
    form, harm, sentence = DAMAGES[damage]
    other = convert(write_small_set(tmp_path / "DATA"), tmp_path / "OTHER", form)
    harm(other)
    report = verify(other)
    assert any(sentence in problem for problem in report.problems), report.summary()
    if damage != "parquet extra":
        with pytest.raises(UserError):
            convert(other, tmp_path / "BACK", "folder")
    assert not (tmp_path / "BACK").exists()


def test_a_missing_image_stops_the_conversion(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    (data / "train/0001/000006.png").unlink()
    with pytest.raises(UserError, match=r"train/0001/000006\.png is missing or damaged"):
        convert(data, tmp_path / "OTHER", "parquet")
    assert not (tmp_path / "OTHER").exists()


def test_lost_rows_stop_the_conversion(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    lines = (data / "train/metadata.jsonl").read_bytes().splitlines(keepends=True)
    (data / "train/metadata.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UserError, match="rows of train are not those"):
        convert(data, tmp_path / "OTHER", "webdataset")


def test_an_interrupted_conversion_is_done_again(tmp_path, monkeypatch):
    data = write_small_set(tmp_path / "DATA")
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "publish_folder", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(data, tmp_path / "OTHER", "webdataset")
    assert not (tmp_path / "OTHER").exists()
    assert verify(convert(data, tmp_path / "OTHER", "webdataset")).ok
    assert not (tmp_path / "OTHER.partial").exists()


def test_places_that_are_taken(tmp_path):
    data = write_small_set(tmp_path / "DATA")
    other = convert(data, tmp_path / "OTHER", "parquet")
    before = contents(other)
    with pytest.raises(UserError, match="already holds a data set"):
        convert(data, other, "webdataset")
    assert contents(other) == before
    assert detect_form(convert(data, other, "webdataset", overwrite=True)) == "webdataset"
    for inside in (data, data / "export"):
        with pytest.raises(UserError, match="source itself or lies inside"):
            convert(data, inside, "parquet", overwrite=True)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").touch()
    with pytest.raises(UserError, match="not a data set of the workbench"):
        convert(data, photos, "parquet", overwrite=True)
    with pytest.raises(UserError, match="not a data set of the workbench"):
        convert(data, tmp_path, "parquet", overwrite=True)
    with pytest.raises(UserError, match="choose one of folder, parquet, webdataset"):
        convert(data, tmp_path / "CSV", "csv")
    with pytest.raises(UserError, match=r"has no dataset\.json"):
        convert(photos, tmp_path / "P", "parquet")
    assert verify(data).ok


def test_a_tar_cannot_write_outside(tmp_path):
    other = convert(write_small_set(tmp_path / "DATA"), tmp_path / "OTHER", "webdataset")
    row = {**read_rows(tmp_path / "DATA")[0], "file_name": "../../../evil.png"}
    replace_member(other / "train/00000.tar", "0000/000000.json", json.dumps(row).encode())
    with pytest.raises(UserError, match="names the file"):
        convert(other, tmp_path / "BACK", "folder")
    assert not list(tmp_path.rglob("evil.png"))


# ------------------------------------------------------------------------------------------- any set


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"label": st.integers(-1, 2), "size": st.tuples(st.integers(1, 4), st.integers(1, 4))},
            optional={
                "seed": st.integers(-(2**63), 2**63 - 1),
                "score": st.floats(allow_nan=False, allow_infinity=False),
                "prompt": st.text(max_size=5),
                "tags": st.lists(st.text(max_size=3), max_size=2),
                "edited": st.none() | st.booleans(),
            },
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(OTHERS),
)
def test_any_set_comes_back_equal(rows, form):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = DatasetWriter(folder / "DATA", NAMES, IDENTITY)
        images = [np.full(row.pop("size"), 7, np.uint8) for row in rows]
        writer.write_shard(0, images, rows)
        data = writer.finish()
        back = convert(convert(data, folder / "OTHER", form), folder / "BACK", "folder")
        assert contents(back) == contents(data)
