"""The one table that group-robustness code reads: `metadata.csv` with class, split and attribute of each image file.

It has the columns of group_DRO and DFR (img_id, img_filename, y, split, place), those of BalancingGroups and
SubpopBench (id, filename, split, y, a), and `synthetic`, which they pass over. Splits: 0 train, 1 validation, 2 test.
"""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from workbench.errors import UserError
from workbench.files import user_errors_for_disk, write_atomic

TRAIN, VALIDATION, TEST = range(3)
COLUMNS = ("id", "img_id", "img_filename", "filename", "y", "split", "place", "a", "synthetic")


@dataclass(frozen=True)
class GroupFiles:
    """Image files, by names relative to the table, with class, attribute, split and origin.

    Raises UserError for a synthetic image outside the training split: what is measured must be real.
    """

    file_names: tuple[str, ...]
    labels: Int64[Tensor, " n"]
    attributes: Int64[Tensor, " n"]
    splits: Int64[Tensor, " n"]
    synthetic: Bool[Tensor, " n"]

    def __post_init__(self) -> None:
        if misplaced := (self.synthetic & (self.splits != TRAIN)).nonzero().flatten().tolist():
            raise UserError(
                f"{self.file_names[misplaced[0]]} is synthetic but not in the training split (0); "
                "put it there, or leave it out"
            )


def write_group_csv(path: Path, files: GroupFiles) -> None:
    """Write the table, whole or not at all. Raises UserError where there is one already."""
    if path.exists():
        raise UserError(f"{path} is there already; remove it, or choose another name")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    numbers = (files.labels, files.splits, files.attributes, files.synthetic.long())
    columns = zip(files.file_names, *(values.tolist() for values in numbers), strict=True)
    for number, (name, label, split, attribute, synthetic) in enumerate(columns):
        writer.writerow([number, number, name, name, label, split, attribute, attribute, synthetic])
    with user_errors_for_disk(path):
        write_atomic(path, text.getvalue())


def read_group_csv(path: Path) -> GroupFiles:
    """Read a table of ours, of group_DRO or of BalancingGroups.

    Raises UserError for a missing file or column, and for a value that is no number or no split.
    """
    if not path.is_file():
        raise UserError(f"there is no table {path}; give a metadata.csv with filename, y, split and a (or place)")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise UserError(f"{path} has no rows; give a table of at least one image")
    names = tuple(_value(path, row, "img_filename", "filename") for row in rows)
    labels, attributes, splits = (
        torch.tensor([_number(path, line, row, *columns) for line, row in enumerate(rows, 2)])
        for columns in (("y",), ("place", "a"), ("split",))
    )
    if int(splits.max()) > TEST:
        raise UserError(f"{path} has the split {int(splits.max())}; give 0 (train), 1 (validation) or 2 (test)")
    made = [_number(path, line, row, "synthetic") if "synthetic" in row else 0 for line, row in enumerate(rows, 2)]
    return GroupFiles(names, labels, attributes, splits, torch.tensor(made) > 0)


def _value(path: Path, row: Mapping[str, str | None], *columns: str) -> str:
    """The first of these columns that the table has."""
    for column in columns:
        if (value := row.get(column)) is not None:
            return value
    raise UserError(f"{path} has no column {' or '.join(columns)}; its columns are {', '.join(map(str, row))}")


def _number(path: Path, line: int, row: Mapping[str, str | None], *columns: str) -> int:
    text = _value(path, row, *columns)
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{path}, line {line}: {columns[0]} is {text!r}; give a number from 0 on")
    return int(text)
