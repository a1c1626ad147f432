"""The table of the group-robustness loaders: round trip, columns, bad input."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augment_synth.group_csv import COLUMNS, GroupFiles, read_group_csv, write_group_csv
from workbench.errors import UserError

ROWS = st.tuples(
    st.text("ab,\" '/ü", min_size=1), st.integers(0, 9), st.integers(0, 9), st.integers(0, 2), st.booleans()
)


def files_of(rows: list[tuple[str, int, int, int, bool]]) -> GroupFiles:
    names, labels, attributes, splits, made = zip(*rows, strict=True)
    synthetic = torch.tensor([one and split == 0 for one, split in zip(made, splits, strict=True)])
    return GroupFiles(names, torch.tensor(labels), torch.tensor(attributes), torch.tensor(splits), synthetic)


@settings(deadline=None, max_examples=20)
@given(st.lists(ROWS, min_size=1, max_size=8))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int, int, bool]]) -> None:
    folder, files = tmp_path_factory.mktemp("table"), files_of(rows)
    write_group_csv(folder / "metadata.csv", files)
    read = read_group_csv(folder / "metadata.csv")
    assert read.file_names == files.file_names
    for name in ("labels", "attributes", "splits", "synthetic"):
        assert torch.equal(getattr(read, name), getattr(files, name))
    shutil.rmtree(folder)


def test_both_families_find_their_columns(tmp_path: Path) -> None:
    write_group_csv(tmp_path / "metadata.csv", files_of([("a.png", 1, 0, 0, True), ("b.png", 0, 3, 2, False)]))
    with (tmp_path / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [rows[1][name] for name in ("img_id", "img_filename", "y", "split", "place")] == [
        "1",
        "b.png",
        "0",
        "2",
        "3",
    ]
    assert [rows[1][name] for name in ("id", "filename", "split", "y", "a")] == ["1", "b.png", "2", "0", "3"]
    assert rows[0]["synthetic"] == "1"


@pytest.mark.parametrize("head", ["img_id,img_filename,y,split,place", "id,filename,y,split,a"])
def test_tables_of_others_are_read(head: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(f"{head}\n7,x/1.jpg,1,2,0\n")
    read = read_group_csv(tmp_path / "metadata.csv")
    assert (read.file_names, read.labels.tolist(), read.splits.tolist()) == (("x/1.jpg",), [1], [2])
    assert not read.synthetic.any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,y,split\na,0,0\n", "no column place or a"),
        ("filename,y,split,a\na,cat,0,0\n", "line 2: y is 'cat'"),
        ("filename,y,split,a\na,-1,0,0\n", "y is '-1'"),
        ("filename,y,split,a\na,0,3,0\n", "split 3"),
        ("filename,y,split,a\n", "no rows"),
        ("filename,y,split,a,synthetic\na,0,2,0,1\n", "synthetic but not in the training split"),
    ],
)
def test_bad_tables(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_group_csv(tmp_path / "metadata.csv")


def test_nothing_is_overwritten_and_nothing_missing_is_read(tmp_path: Path) -> None:
    files = files_of([("a.png", 1, 0, 0, False)])
    write_group_csv(tmp_path / "metadata.csv", files)
    with pytest.raises(UserError, match="there already"):
        write_group_csv(tmp_path / "metadata.csv", files)
    with pytest.raises(UserError, match="there is no table"):
        read_group_csv(tmp_path / "other.csv")
