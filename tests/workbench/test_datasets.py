"""Loading labelled images: where they are found, how they are numbered, what bad input does."""

import csv
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from workbench import fashion_mnist
from workbench.datasets import LabelledImages, available_splits, load_images, require_classes
from workbench.errors import UserError


def picture(seed: int, height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, seed: int = 0, **shape: int) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture(seed, **shape)
    Image.fromarray(pixels).save(path)
    return pixels


def stacked(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def pixels_of(images: LabelledImages) -> torch.Tensor:
    assert isinstance(images.images, torch.Tensor)
    return images.images


def class_folder(root: Path, **counts: int) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            write(root / name / f"{i}.png", seed=100 * number + i)
    return root


# ------------------------------------------------------------------------------------------------ folders


def test_class_folders_are_read_in_natural_order(tmp_path: Path) -> None:
    pictures = [
        write(tmp_path / name, seed)
        for seed, name in enumerate(["class2/a2.png", "class2/a10.PNG", "class2/deep/b.png", "class10/a1.png"])
    ]
    for hidden in (".hidden/x.png", "__MACOSX/class2/a2.png", "class2/._a2.png"):
        write(tmp_path / hidden)
    (tmp_path / "class2" / "notes.txt").write_text("not an image")
    images = load_images(tmp_path)
    assert images.label_names == ("class2", "class10")
    assert images.file_names == ("class2/a2.png", "class2/a10.PNG", "class2/deep/b.png", "class10/a1.png")
    assert images.labels.tolist() == [0, 0, 0, 1]
    assert images.labels.dtype == torch.int64
    assert torch.equal(pixels_of(images), stacked(pictures))
    assert images.name == str(tmp_path)


def test_linked_class_folder_is_followed_and_a_loop_is_not(tmp_path: Path) -> None:
    elsewhere = class_folder(tmp_path / "elsewhere", cat=2)
    root = class_folder(tmp_path / "set", dog=1)
    (root / "cat").symlink_to(elsewhere / "cat")
    (root / "dog" / "loop").symlink_to(root)
    assert load_images(root).label_names == ("cat", "dog")
    assert len(load_images(root)) == 3


def test_a_class_has_the_same_number_in_every_split(tmp_path: Path) -> None:
    class_folder(tmp_path / "train", ape=1, bee=2, cat=1)
    class_folder(tmp_path / "Test", bee=1, dog=1)
    assert available_splits(tmp_path) == ["train", "test"]
    train, test = load_images(tmp_path), load_images(tmp_path, "test")
    assert train.label_names == test.label_names == ("ape", "bee", "cat", "dog")
    assert train.labels.tolist() == [0, 1, 1, 2]
    assert test.labels.tolist() == [1, 3]


def test_val_and_validation_are_one_split(tmp_path: Path) -> None:
    class_folder(tmp_path / "train", ape=1, bee=1)
    class_folder(tmp_path / "val", ape=2, bee=1)
    assert len(load_images(tmp_path, "validation")) == len(load_images(tmp_path, "val")) == 3
    class_folder(tmp_path / "validation", ape=2)
    with pytest.raises(UserError, match="same split"):
        load_images(tmp_path, "val")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    class_folder(tmp_path, bus=1, train=2)
    assert load_images(tmp_path).label_names == ("bus", "train")


def test_missing_split_says_which_there_are(tmp_path: Path) -> None:
    class_folder(tmp_path, ape=1, bee=1)
    with pytest.raises(UserError, match=r"no split 'test', only train: .*add a folder"):
        load_images(tmp_path, "test")


def test_flat_folder_is_unlabelled_and_strays_are_mentioned(tmp_path: Path) -> None:
    write(tmp_path / "b.png", 1)
    write(tmp_path / "a.png", 0)
    images = load_images(tmp_path)
    assert (images.labels.tolist(), images.label_names, images.notes) == ([-1, -1], (), ())
    with pytest.raises(UserError, match="no label"):
        require_classes(images)
    write(tmp_path / "cat" / "c.png", 2)
    images = load_images(tmp_path)
    assert (images.file_names, images.label_names) == (("cat/c.png",), ("cat",))
    assert "2 images outside the class folders" in images.notes[0]


# ------------------------------------------------------------------------------------------------ metadata files


def metadata(folder: Path, rows: Sequence[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def test_metadata_orders_classes_by_their_number(tmp_path: Path) -> None:
    pictures = [write(tmp_path / "train" / f"0000/{i}.png", i) for i in range(3)]
    rows = [(0, 5, "ape"), (2, 3, "zebra"), (1, 5, "ape")]
    metadata(
        tmp_path / "train",
        [{"file_name": f"0000/{i}.png", "label": n, "label_name": name, "caption": "a\u2028b"} for i, n, name in rows],
    )
    write(tmp_path / "test" / "0000/0.png", 9)
    metadata(tmp_path / "test", [{"image_file_name": "0000/0.png", "label": 4, "label_name": "bee"}])
    write(tmp_path / "grid.png")
    images = load_images(tmp_path)
    assert images.label_names == ("zebra", "bee", "ape")
    assert images.labels.tolist() == [2, 0, 2]
    assert images.file_names == ("train/0000/0.png", "train/0000/2.png", "train/0000/1.png")
    assert torch.equal(pixels_of(images), stacked([pictures[0], pictures[2], pictures[1]]))
    assert load_images(tmp_path, "test").labels.tolist() == [1]


def test_classes_of_dataset_json_hold(tmp_path: Path) -> None:
    write(tmp_path / "train" / "0.png")
    write(tmp_path / "train" / "1.png")
    metadata(tmp_path / "train", [{"file_name": "0.png", "label": 2}, {"file_name": "1.png", "label": -1}])
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": ["zebra", "ape", "bee"]}))
    images = load_images(tmp_path)
    assert (images.label_names, images.labels.tolist()) == (("zebra", "ape", "bee"), [2, -1])
    metadata(tmp_path / "train", [{"file_name": "0.png", "label_name": "cow"}])
    with pytest.raises(UserError, match="'cow' is not among the declared"):
        load_images(tmp_path)
    metadata(tmp_path / "train", [{"file_name": "0.png", "label": 3}])
    with pytest.raises(UserError, match="outside the 3 classes"):
        load_images(tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_root_metadata_of_any_kind_serves_the_splits(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"file_name": "train/a.png", "label": 10},
        {"file_name": "train/b.png", "label": 2},
        {"file_name": "test/c.png", "label": 10},
    ]
    for row in rows:
        write(tmp_path / row["file_name"])
    if kind == "jsonl":
        metadata(tmp_path, rows)
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "metadata.parquet")
    else:
        with (tmp_path / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["file_name", "label"])
            writer.writeheader()
            writer.writerows(rows)
    images = load_images(tmp_path)
    assert (images.label_names, images.labels.tolist()) == (("2", "10"), [1, 0])
    assert load_images(tmp_path, "test").labels.tolist() == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Line 1 .* is not JSON"),
        ("[]", "not a JSON object"),
        ('{"label": 1}', "Row 1 .* no file_name"),
        ('{"file_name": "../secret.png"}', "inside the data set only"),
        ('{"file_name": "a.png", "label": [1, 2]}', "one class per image"),
        ('{"file_name": "missing.png", "label": 1}', r"missing.png \(No such file"),
    ],
)
def test_damaged_metadata_is_named(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        load_images(tmp_path)


# ------------------------------------------------------------------------------------------------ parquet


def image_table(labels: Sequence[object], names: list[str] | None = None, raw: bool = False) -> pa.Table:
    cells = [png(picture(i)) for i in range(len(labels))]
    image = cells if raw else [{"bytes": cell, "path": f"{i}.png"} for i, cell in enumerate(cells)]
    table = pa.table({"other": list(range(len(labels))), "image": image, "label": labels})
    if names is None:
        return table
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("labels", "names", "expected", "label_names"),
    [
        ([2, 0, -1, 2], ["a", "b", "c"], [2, 0, -1, 2], ("a", "b", "c")),
        ([10, 2, None, 10], None, [1, 0, -1, 1], ("2", "10")),
        (["dog", "cat", None, "dog"], None, [1, 0, -1, 1], ("cat", "dog")),
    ],
)
def test_parquet_labels(
    tmp_path: Path,
    raw: bool,
    labels: list,
    names: list[str] | None,
    expected: list[int],
    label_names: tuple[str, ...],
) -> None:
    file = tmp_path / "images.parquet"
    parquet.write_table(image_table(labels, names, raw), file, row_group_size=3)
    images = load_images(file)
    assert (images.labels.tolist(), images.label_names) == (expected, label_names)
    assert torch.equal(pixels_of(images), stacked([picture(i) for i in range(4)]))
    assert images.file_names is not None
    assert images.file_names[1] == ("images.parquet[1]" if raw else "1.png")


def test_parquet_sibling_serves_the_other_split(tmp_path: Path) -> None:
    train, test = tmp_path / "set-train.parquet", tmp_path / "set-test.parquet"
    parquet.write_table(image_table(["cat", "dog", "eel"]), train)
    parquet.write_table(image_table(["eel", "dog"]), test)
    parquet.write_table(image_table(["x"]), tmp_path / "another-test.parquet")
    assert available_splits(train) == available_splits(test) == ["train", "test"]
    assert load_images(train).notes == load_images(test, "test").notes == ()
    images = load_images(train, "test")
    assert (images.labels.tolist(), images.label_names) == ([2, 1], ("cat", "dog", "eel"))
    assert "set-train.parquet is the train split" in images.notes[0]
    test.unlink()
    with pytest.raises(UserError, match="only train"):
        load_images(train, "test")


def test_parquet_shards_of_a_folder_are_read_in_order_and_in_part(tmp_path: Path) -> None:
    table = image_table(["a", "b", "a", "b", "c"])
    (tmp_path / "data").mkdir()
    parquet.write_table(table.slice(0, 2), tmp_path / "data" / "train-00000-of-00002.parquet")
    parquet.write_table(table.slice(2), tmp_path / "data" / "train-00001-of-00002.parquet")
    parquet.write_table(table.slice(4), tmp_path / "data" / "validation-00000.parquet")
    write(tmp_path / "preview" / "grid.png")
    assert available_splits(tmp_path) == ["train", "validation"]
    images = load_images(tmp_path, classes=["c", "a"])
    assert torch.equal(pixels_of(images), stacked([picture(0), picture(2), picture(4)]))
    assert images.labels.tolist() == [1, 1, 0]


def test_parquet_cells_may_refer_to_files(tmp_path: Path) -> None:
    pixels = write(tmp_path / "pictures" / "a.png", 3)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": None, "path": "pictures/a.png"}], kind)})
    parquet.write_table(table, tmp_path / "x.parquet")
    images = load_images(tmp_path / "x.parquet")
    assert torch.equal(pixels_of(images), stacked([pixels]))
    assert images.labels.tolist() == [-1]


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        load_images(tmp_path / "x.parquet")
    parquet.write_table(pa.table({"label": [1]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="no image column: its columns are label"):
        load_images(tmp_path / "x.parquet")
    parquet.write_table(image_table(list(range(50))), tmp_path / "x.parquet", compression="none")
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.parquet"):
        load_images(tmp_path / "x.parquet")


# ------------------------------------------------------------------------------------------------ tar shards


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_webdataset_shards(tmp_path: Path) -> None:
    row = {"label": 1, "label_name": "dog"}
    write_tar(
        tmp_path / "train" / "00000.tar",
        {
            "0000/000000.png": png(picture(0)),
            "0000/000000.mask.png": png(picture(50)),
            "0000/000000.json": json.dumps(row).encode(),
            "0000/000001.PNG": png(picture(1)),
            "0000/000001.cls": b"7\n",
        },
    )
    write_tar(tmp_path / "train" / "00001.tar", {"x.png": png(picture(2)), "x.cls": b"eel", "y.txt": b"no image"})
    write_tar(tmp_path / "test" / "00000.tar", {"t.png": png(picture(3)), "t.cls": b"7"})
    write(tmp_path / "grid.png")
    images = load_images(tmp_path)
    assert (images.label_names, images.labels.tolist()) == (("eel", "dog", "7"), [1, 2, 0])
    assert images.file_names == ("0000/000000.png", "0000/000001.PNG", "x.png")
    assert torch.equal(pixels_of(images), stacked([picture(i) for i in range(3)]))
    assert load_images(tmp_path, "test").labels.tolist() == [2]
    assert torch.equal(pixels_of(load_images(tmp_path, classes=["7"])), stacked([picture(1)]))


def test_damaged_tar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(UserError, match="uncompressed tar"):
        load_images(tmp_path / "x.tar")
    write_tar(tmp_path / "x.tar", {"a.png": png(picture(0)), "a.json": b"{"})
    with pytest.raises(UserError, match=r"a.json in .*x.tar is not JSON"):
        load_images(tmp_path / "x.tar")


# ------------------------------------------------------------------------------------------------ names


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"img": [{"bytes": png(picture(i)), "path": None} for i in range(3)], "label": [1, -1, 0]}
    split = datasets.Dataset.from_dict(rows, features=features)
    asked = []

    def load_dataset(*arguments: str | None) -> datasets.DatasetDict:
        asked.append(arguments)
        return datasets.DatasetDict({"train": split, "valid": split.select([2])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    images = load_images("someone/pets:small")
    assert asked == [("someone/pets", "small")]
    assert (images.labels.tolist(), images.label_names) == ([1, -1, 0], ("cat", "dog"))
    assert torch.equal(pixels_of(images), stacked([picture(i) for i in range(3)]))
    assert load_images("someone/pets:small", "validation", classes=["cat"]).labels.tolist() == [0]


def test_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*_: object) -> None:
        raise ConnectionError("Couldn't reach the hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=r"someone/pets is neither .* gives \(Couldn't reach the hub\): correct"):
        load_images("someone/pets")


@pytest.mark.parametrize("name", ["cifar10", "./nowhere/at-all", "{tmp}/missing", "~/no such folder"])
def test_missing_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="There is no file or folder"):
        load_images(name.replace("{tmp}", str(tmp_path)))


def test_empty_folder_and_foreign_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no images: put them in one folder per class"):
        load_images(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(UserError, match="not a data set"):
        load_images(tmp_path / "x.zip")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "set", ape=1)
    (root / "ape").chmod(0)
    try:
        with pytest.raises(UserError, match="cannot be read: Permission denied"):
            load_images(root)
    finally:
        (root / "ape").chmod(0o700)


# ------------------------------------------------------------------------------------------------ Fashion-MNIST


@pytest.mark.parametrize(("split", "per_class"), [("train", 600), ("test", 100)])
def test_extract_is_balanced(split: str, per_class: int) -> None:
    images = load_images("fashion-mnist:extract", split)
    assert pixels_of(images).shape == (10 * per_class, 1, 28, 28)
    assert torch.bincount(images.labels).tolist() == [per_class] * 10
    assert images.label_names == fashion_mnist.LABEL_NAMES
    assert images.notes == ()
    assert len(set(images.file_names or ())) == len(images)
    require_classes(images, minimum=10, per_class=per_class)


def test_extract_loads_with_the_datasets_library(tmp_path: Path) -> None:
    import datasets

    file = Path(fashion_mnist.__file__).parent / "data" / "fashion-mnist-extract-test.parquet"
    loaded = datasets.load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path))["train"]
    assert loaded.features["label"].names == list(fashion_mnist.LABEL_NAMES)
    ours = load_images("fashion-mnist:extract", "test")
    assert loaded["label"][:50] == ours.labels[:50].tolist()
    assert np.array_equal(np.asarray(loaded[7]["image"]), pixels_of(ours)[7, 0].numpy())


def write_idx(file: Path, array: np.ndarray) -> None:
    import gzip

    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    file.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def full_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    pixels = np.stack([picture(i, 28, 28, 1) for i in range(20)])
    for stem in ("train", "t10k"):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", pixels)
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", np.arange(20, dtype=np.uint8) % 10)
    monkeypatch.setenv(fashion_mnist.FOLDER_VARIABLE, str(tmp_path))
    return pixels


def test_full_set_of_a_folder(full_set: np.ndarray) -> None:
    images = load_images("fashion-mnist")
    assert np.array_equal(pixels_of(images)[:, 0].numpy(), full_set)
    assert images.labels.tolist() == [i % 10 for i in range(20)]
    assert available_splits("fashion-mnist") == ["train", "test"]
    chosen = load_images("fashion-mnist:full", "test", classes=["Bag", "Trouser"], channels=3)
    assert chosen.labels.tolist() == [1, 0, 1, 0]
    assert np.array_equal(pixels_of(chosen)[1, 2].numpy(), full_set[8])
    assert len(load_images("fashion-mnist:extract", "test")) == 1000


def test_arrays_resize_as_files_do(full_set: np.ndarray, tmp_path: Path) -> None:
    for i, pixels in enumerate(full_set):
        (tmp_path / "files" / "x").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "files" / "x" / f"{i}.png")
    for resolution in (40, 14, (12, 20), (30, 7)):
        array = pixels_of(load_images("fashion-mnist", resolution=resolution)).int()
        files = pixels_of(load_images(tmp_path / "files", resolution=resolution)).int()
        assert array.shape == files.shape
        assert (array - files).abs().max() <= 2
    assert pixels_of(load_images("fashion-mnist", resolution=(40, 20), upscale=False)).shape[2:] == (28, 14)


def test_damaged_or_misplaced_full_set(full_set: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    write_idx(labels, np.zeros((2, 2), np.uint8))
    labels.write_bytes(labels.read_bytes()[:-12])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz"):
        load_images("fashion-mnist")
    monkeypatch.setenv(fashion_mnist.FOLDER_VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="WORKBENCH_FASHION_MNIST"):
        load_images("fashion-mnist")


def test_the_extract_stands_in_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fashion_mnist.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path)
    images = load_images("fashion-mnist", "test")
    assert len(images) == 1000
    assert "extract of 6,000 train and 1,000 test images is used" in images.notes[0]


# ------------------------------------------------------------------------------------------------ choosing


def test_classes_select_and_renumber(tmp_path: Path) -> None:
    class_folder(tmp_path, ape=2, bee=1, cat=2)
    images = load_images(tmp_path, classes=["cat", "ape"])
    assert images.label_names == ("cat", "ape")
    assert images.file_names == ("ape/0.png", "ape/1.png", "cat/0.png", "cat/1.png")
    assert images.labels.tolist() == [1, 1, 0, 0]
    assert torch.equal(pixels_of(images), pixels_of(load_images(tmp_path))[[0, 1, 3, 4]])
    with pytest.raises(UserError, match=r"no class 'cats' among the 3 .* nearest are cat"):
        load_images(tmp_path, classes=["cats"])
    with pytest.raises(UserError, match="named twice"):
        load_images(tmp_path, classes=["cat", "cat"])


def test_classes_of_unlabelled_images(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(UserError, match="unlabelled"):
        load_images(tmp_path, classes=["cat"])


@pytest.mark.parametrize("resolution", [0, -3, (4, -1), (0, 4)])
def test_impossible_resolution(tmp_path: Path, resolution: int | tuple[int, int]) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(UserError, match="not a size"):
        load_images(tmp_path, resolution=resolution)


def test_impossible_channels(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(UserError, match="1 channel"):
        load_images(tmp_path, channels=4)


def test_select() -> None:
    images = LabelledImages(
        torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2), torch.tensor([0, 1, 1]), ("a", "b"), "x"
    )
    named = LabelledImages(list(images.images), images.labels, ("a", "b"), "x", file_names=("p", "q", "r"))
    chosen = images.select([2, 0])
    assert (pixels_of(chosen)[:, 0, 0, 0].tolist(), chosen.labels.tolist(), len(chosen)) == ([8, 0], [1, 0], 2)
    chosen = named.select(torch.tensor([False, True, True]))
    assert (chosen.file_names, [int(image[0, 0, 0]) for image in chosen.images]) == (("q", "r"), [4, 8])
    assert (named.channels, len(named.select([])), len(images.select(np.array([1])))) == (1, 0, 1)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 0, 0], ("ape",), r"has 1 class \(ape\), at least 2"),
        ([0, 0, 1], ("ape", "bee"), r"too few images of bee \(1\)"),
        ([0, 0, 1, 1], ("ape", "bee", "cat"), r"too few images of cat \(0\)"),
        ([0, 0, -1], ("ape", "bee"), "1 of 3 images in set have no label"),
        ([], (), r"has 0 class \(none\)"),
    ],
)
def test_require_classes(labels: list[int], names: tuple[str, ...], message: str) -> None:
    pixels = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(UserError, match=message):
        require_classes(LabelledImages(pixels, torch.tensor(labels, dtype=torch.int64), names, "set"))


def test_loading_twice_gives_the_same(tmp_path: Path) -> None:
    class_folder(tmp_path, **{f"class{i}": 40 for i in range(4)})
    first, second = load_images(tmp_path, resolution=(5, 3)), load_images(tmp_path, resolution=(5, 3))
    assert torch.equal(pixels_of(first), pixels_of(second))
    assert torch.equal(first.labels, second.labels)
    assert first.file_names == second.file_names


# ------------------------------------------------------------------------------------------------ data sets of ours


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_a_written_data_set_loads_in_every_form(tmp_path: Path, form: str) -> None:
    from workbench.convert import convert
    from workbench.records import DatasetWriter

    pictures = [picture(i) for i in range(5)]
    labels = [2, 0, -1, 2, 0]
    writer = DatasetWriter(tmp_path / "set", ("zebra", "bee", "ape"), {"made": "for a test"}, shard_size=2)
    for split, rows in (("train", [0, 1, 2, 3]), ("test", [4])):
        for shard in range(0, len(rows), 2):
            chosen = rows[shard : shard + 2]
            images = np.stack([pictures[i] for i in chosen]).transpose(0, 3, 1, 2)
            masks = [np.eye(6, 8, dtype=bool) for _ in chosen]
            facts = [{"label": labels[i], "mask": mask} for i, mask in zip(chosen, masks, strict=True)]
            writer.write_shard(shard // 2, torch.from_numpy(images.copy()), facts, split)
    root = writer.finish()
    if form != "folder":
        root = convert(root, tmp_path / form, form)
    assert available_splits(root) == ["train", "test"]
    train, test = load_images(root), load_images(root, "test")
    assert train.label_names == test.label_names == ("zebra", "bee", "ape")
    assert (train.labels.tolist(), test.labels.tolist()) == (labels[:4], labels[4:])
    assert torch.equal(pixels_of(train), stacked(pictures[:4]))
    assert torch.equal(pixels_of(test), stacked(pictures[4:]))


def test_without_crop_the_whole_image_is_squeezed(tmp_path: Path) -> None:
    pixels = np.zeros((40, 20, 3), np.uint8)
    pixels[:10] = 255  # the top quarter, which a centre crop to a square would lose
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    squeezed = load_images(tmp_path, resolution=(16, 16), crop=False).images
    cropped = load_images(tmp_path, resolution=(16, 16)).images
    assert squeezed[0, :, :3].float().mean() > 250
    assert squeezed[0, :, 6:].float().mean() < 5
    assert cropped.float().mean() < 5


# ------------------------------------------------------------------------------------------------ captions

CAPTIONS: list[Any] = ["A red bag, on grass!", None, "a boot", ["Grass ", "big  bag"]]
TOKENS = (("a", "red", "bag", "on", "grass"), (), ("a", "boot"), ("grass", "big  bag"))


def captioned_folder(root: Path) -> Path:
    """Rows against the order of names, the second without a caption; the third image is damaged."""
    rows = [{"file_name": f"train/{i}.png", "label": 0, "caption": text} for i, text in enumerate(CAPTIONS)][::-1]
    del rows[2]["caption"]
    for row in rows:
        write(root / row["file_name"], int(row["file_name"][6]))
    metadata(root, [*rows, {"file_name": "test/0.png", "label": 1, "caption": "other"}])
    write(root / "test/0.png")
    return root


def test_captions_of_a_metadata_file(tmp_path: Path) -> None:
    root = captioned_folder(tmp_path)
    images = load_images(root, caption_column="caption")
    assert images.file_names == tuple(f"train/{i}.png" for i in (3, 2, 1, 0))
    assert images.tokens == TOKENS[::-1]
    assert load_images(root, "test", caption_column="caption").tokens == (("other",),)
    assert load_images(root).tokens is None
    with pytest.raises(UserError, match=r"metadata.jsonl has no column 'text': its columns are .*label, caption\.$"):
        load_images(root, caption_column="text")
    with pytest.raises(UserError, match="A caption is 0, neither a text nor a list"):
        load_images(root, caption_column="label")


def test_captions_follow_their_images(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "label": i % 2, "caption": f"number {i}"} for i in range(200)]
    for i in range(200):
        write(tmp_path / f"{i}.png", i)
    metadata(tmp_path, rows)
    (tmp_path / "4.png").write_bytes(b"damaged")
    images = load_images(tmp_path, classes=["0"], caption_column="caption")
    assert images.skipped == ("4.png",)
    assert images.tokens == tuple(("number", str(i)) for i in range(0, 200, 2) if i != 4)
    chosen = images.select([5, 0])
    assert (chosen.file_names, chosen.tokens) == (("12.png", "0.png"), (("number", "12"), ("number", "0")))
    assert images.select(images.labels > 0).tokens == ()
    assert load_images(tmp_path).select([0]).tokens is None


def test_captions_of_csv(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text('file_name,caption\na.png,"red, on grass"\nb.png,\n')
    assert load_images(tmp_path, caption_column="caption").tokens == (("red", "on", "grass"), ())
    with pytest.raises(UserError, match="its columns are file_name, caption"):
        load_images(tmp_path, caption_column="label")
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.png,red\nb.png,red, on grass\n")
    assert len(load_images(tmp_path)) == 2
    with pytest.raises(UserError, match=r"Row 2 of .*csv has too many values: put texts that hold commas in quotes"):
        load_images(tmp_path, caption_column="caption")


@pytest.mark.parametrize("lists", [False, True])
@pytest.mark.parametrize("kind", ["metadata", "parquet", "hub"])
def test_captions_of_tables(tmp_path: Path, kind: str, lists: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    cells = [["Grass", None], None, [], ["big  bag"]] if lists else [*CAPTIONS[:3], ""]
    tokens = (("grass",), (), (), ("big  bag",)) if lists else (*TOKENS[:3], ())
    table = image_table([1, 0, 1, 0]).append_column("text", pa.array(cells))
    name = str(tmp_path)
    if kind == "metadata":
        for i in range(4):
            write(tmp_path / f"{i}.png", i)
        table = table.drop_columns(["image"]).append_column("file_name", pa.array([f"{i}.png" for i in range(4)]))
        parquet.write_table(table, tmp_path / "metadata.parquet")
    elif kind == "parquet":
        parquet.write_table(table.slice(0, 1), tmp_path / "train-0.parquet")
        parquet.write_table(table.slice(1), tmp_path / "train-1.parquet", row_group_size=2)
    else:
        name = "someone/pets"
        split = datasets.Dataset(table).cast_column("image", datasets.Image())
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict({"train": split}))
    assert load_images(name, caption_column="text").tokens == tokens
    assert load_images(name, classes=["0"], caption_column="text").tokens == tokens[1::2]
    with pytest.raises(UserError, match="has no column 'image': its columns are other, label, text"):
        load_images(name, caption_column="image")


def test_captions_of_webdataset(tmp_path: Path) -> None:
    members = {"0.png": png(picture(0)), "0.json": json.dumps({"label": 0, "text": CAPTIONS[0]}).encode()}
    write_tar(tmp_path / "0.tar", members | {"1.png": png(picture(1)), "1.cls": b"0"})
    members = {"2.json": b"[]", "2.png": png(picture(2)), "3.json": json.dumps({"text": CAPTIONS[3]}).encode()}
    write_tar(tmp_path / "1.tar", members | {"3.png": png(picture(3))})
    images = load_images(tmp_path, caption_column="text")
    assert images.tokens == (TOKENS[0], (), (), TOKENS[3])
    assert torch.equal(pixels_of(images), stacked([picture(i) for i in range(4)]))
    with pytest.raises(UserError, match="has no column 'caption': its columns are label, text"):
        load_images(tmp_path, caption_column="caption")


@pytest.mark.parametrize("name", ["{tmp}", "fashion-mnist"])
def test_images_without_a_table_have_no_captions(tmp_path: Path, full_set: np.ndarray, name: str) -> None:
    class_folder(tmp_path, ape=1)
    with pytest.raises(UserError, match="no columns, so none is called 'caption': list file_name, label and caption"):
        load_images(name.replace("{tmp}", str(tmp_path)), caption_column="caption")


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_written_captions_come_back_in_every_form(tmp_path: Path, form: str) -> None:
    from workbench.convert import convert
    from workbench.records import DatasetWriter, verify

    rows: list[dict[str, Any]] = [
        {"label": 0, "caption": "Número «1»\u2028on grass", "attributes": ["Grass", "big  bag"]},
        {"label": 1, "caption": None, "attributes": []},
        {"label": 0, "attributes": ("grass",)},
        {"label": 1, "caption": ""},
    ]
    writer = DatasetWriter(tmp_path / "set", ("bag", "boot"), {"made": "for a test"}, shard_size=3)
    images = torch.zeros(4, 3, 6, 8, dtype=torch.uint8)
    writer.write_shard(0, images[:3], rows[:3])
    writer.write_shard(1, images[3:], rows[3:])
    writer.write_shard(0, images[:1], [{"label": 0, "attributes": []}], "test")
    root = writer.finish()
    if form != "folder":
        root = convert(root, tmp_path / form, form)
    assert verify(root).problems == ()
    assert load_images(root, caption_column="caption").tokens == (("número", "1", "on", "grass"), (), (), ())
    assert load_images(root, caption_column="attributes").tokens == (("grass", "big  bag"), (), ("grass",), ())
    assert load_images(root, "test", caption_column="caption").tokens == ((),)
    assert load_images(root, "test", caption_column="attributes").tokens == ((),)
