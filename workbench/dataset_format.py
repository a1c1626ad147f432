"""What a data set on disk consists of: names of files, rows and their columns, `dataset.json`.

    DATA/README.md                    card
    DATA/grid.png                     its picture
    DATA/dataset.json                 what the set is; written last
    DATA/train/metadata.jsonl         one row per image
    DATA/train/0000/000000.png        the image
    DATA/train/0000/000000.mask.png   a further picture of the same row

Rows hold texts, numbers, truth values and flat lists of one kind, so that `datasets` (whose image folder
reader infers each column's type from the text), parquet and WebDataset all give back the same rows.
"""

import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.files import make_folder, partial_folder, user_errors_for_disk, write_atomic

FORMAT = "workbench-dataset"
FORMAT_VERSION = 1
INFO_NAME = "dataset.json"
METADATA_NAME = "metadata.jsonl"
IDENTITY_NAME = "identity.json"
ROOT_FILES = ("README.md", INFO_NAME, "grid.png")
SPLITS = ("train", "validation", "test")  # the names that `datasets` recognises as folders
REQUIRED_INFO = ("classes", "counts", "sizes", "columns", "checksums", "checksum")

IMAGE_NAME = re.compile(r"\d{4,}/\d{6,}(\.\w+)?\.png", re.ASCII)
OUR_FILE = re.compile(
    rf"README\.md|dataset\.json|identity\.json|grid\.png|({'|'.join(SPLITS)})(\.parquet|/metadata\.jsonl|/\d{{5,}}\.tar|/"
    rf"{IMAGE_NAME.pattern})",
    re.ASCII,
)

# ------------------------------------------------------------------------------ names


def image_name(number: int, shard_size: int, picture: str = "") -> str:
    """Path of image `number` inside its split's folder; `picture` names a further picture of the row."""
    suffix = f".{picture}.png" if picture else ".png"
    return f"{number // shard_size:04d}/{number:06d}{suffix}"


def picture_columns(columns: Iterable[str]) -> dict[str, str]:
    """Columns that name files, with the column `datasets` makes of each: `image`, or `mask` of `mask_file_name`."""
    names = {"file_name": "image"}
    names |= {name: name.removesuffix("_file_name") for name in columns if name.endswith("_file_name")}
    return {name: names[name] for name in columns if name in names}


def picture_files(row: Mapping[str, Any]) -> dict[str, str]:
    """File names of a row's pictures -> the column that holds the file's checksum.

    Raises `UserError` for a name that is not of this format, so that no name can point outside the split's
    folder.
    """
    files = {}
    for column, picture in picture_columns(row).items():
        if row[column] is None:
            continue
        if not isinstance(row[column], str) or not IMAGE_NAME.fullmatch(row[column]):
            raise UserError(
                f"A row names the file {row[column]!r}, but pictures are named like 0007/007000.png: "
                "the rows were changed by hand; restore them, or write the set anew with DatasetWriter."
            )
        files[row[column]] = "sha256" if column == "file_name" else f"{picture}_sha256"
    return files


def check_split(split: str) -> None:
    """Raise `UserError` unless `split` is a name that image folder readers know."""
    if split not in SPLITS:
        raise UserError(f"A split cannot be called {split!r}: choose one of {', '.join(SPLITS)}.")


# ------------------------------------------------------------------------------ columns


def plain_value(column: str, value: Any) -> Any:
    """The value as JSON knows it: numpy and torch scalars and vectors become numbers and lists.

    Raises `UserError` for what does not survive the way to disk and back: dictionaries, NaN, integers over 64
    bits.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        value = [plain_value(column, item) for item in value]
    kind_of(column, value)
    return value


def kind_of(column: str, value: Any) -> str:
    """The kind of a plain value: null, bool, int64, float64, string, or a list such as `list<float64>`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return "int64"
    if isinstance(value, float) and math.isfinite(value):
        return "float64"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list) and not any(isinstance(item, list) or item is None for item in value):
        inner = "null"
        for item in value:
            inner = merge_kinds(column, inner, kind_of(column, item))
        return f"list<{inner}>"
    raise UserError(
        f"Column {column!r} holds {value!r:.80}, but a row may hold texts, finite numbers of at most 64 "
        "bits, truth values and flat lists of them: write anything else as text."
    )


def merge_kinds(column: str, first: str, second: str) -> str:
    """The kind that holds both: null gives way, integers become floats; anything else raises `UserError`."""
    if first == second or second == "null":
        return first
    if first == "null":
        return second
    if {first, second} == {"int64", "float64"}:
        return "float64"
    if first.startswith("list<") and second.startswith("list<"):
        return f"list<{merge_kinds(column, first[5:-1], second[5:-1])}>"
    raise UserError(f"Column {column!r} holds both {first} and {second} values: give it values of one kind.")


def as_kind(value: Any, kind: str) -> Any:
    """An integer as a float where its column holds floats; every other value as it is."""
    if kind == "float64" and isinstance(value, int):
        return float(value)
    if kind == "list<float64>" and value is not None:
        return [float(item) for item in value]
    return value


# ------------------------------------------------------------------------------ rows


def row_line(row: Mapping[str, Any]) -> str:
    """A row as its line in `metadata.jsonl`; equal rows with columns in the same order give equal lines."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def parse_row(line: bytes) -> dict[str, Any]:
    """The row of a line; `ValueError` when it is none."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"not a row: {line!r:.80}")
    return row


def iter_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a `.jsonl` file one by one; `UserError` names the first line that is damaged."""
    if not path.is_file():
        raise UserError(f"{path} is missing: the set is damaged or not complete; restore it, or make it again.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = parse_row(line)
            except ValueError as error:
                raise UserError(
                    f"{path} is damaged at line {number}: restore the file, or make the set again."
                ) from error
            yield row


def read_rows(folder: str | Path, split: str = "train") -> list[dict[str, Any]]:
    """The rows of one split of a data set in folder form, in order; `UserError` when missing or damaged."""
    check_split(split)
    return list(iter_rows(Path(folder) / split / METADATA_NAME))


# ------------------------------------------------------------------------------ dataset.json


def read_dataset_info(folder: str | Path) -> dict[str, Any]:
    """The content of `dataset.json` of a complete data set in any form; `UserError` when missing or not ours."""
    path = Path(folder) / INFO_NAME
    if not path.is_file():
        raise UserError(f"{folder} has no {INFO_NAME}: it is not a complete data set of the workbench.")
    try:
        info = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is damaged (not JSON): restore the file, or make the set again.") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise UserError(f"{path} was not written by the workbench: give the folder of a data set of ours.")
    if info.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {info.get('format_version')}, this workbench reads "
            f"version {FORMAT_VERSION}: use the workbench that wrote it."
        )
    if missing := [key for key in REQUIRED_INFO if key not in info]:
        raise UserError(f"{path} is damaged ({', '.join(missing)} missing): restore the file, or make the set again.")
    return info


def write_dataset_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Write `dataset.json`, the mark of a complete set: the last file to be written."""
    write_atomic(folder / INFO_NAME, json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


# ------------------------------------------------------------------------------ output folders


def existing_output(output: Path, overwrite: bool) -> dict[str, Any] | None:
    """The `dataset.json` of the set that is already at `output`, or None where the place is free.

    Raises `UserError` where something else is there, and, when it is to be overwritten, where the set's
    folder holds files that the workbench did not make: those are never removed.
    """
    if not output.exists() and not output.is_symlink():
        return None
    if output.is_dir() and not any(output.iterdir()):
        return None
    try:
        info = read_dataset_info(output)
    except (UserError, NotADirectoryError) as error:
        raise UserError(
            f"{output} exists and is not a data set of the workbench, so it is left alone: "
            "choose another output folder."
        ) from error
    if overwrite and (foreign := first_foreign_file(output)):
        raise UserError(f"{foreign} was not made by the workbench: move it away before overwriting {output}.")
    return info


def first_foreign_file(folder: Path) -> Path | None:
    """A file in a data set's folder whose name is none of ours."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return next((path for path in files if not OUR_FILE.fullmatch(path.relative_to(folder).as_posix())), None)


def open_partial(output: Path, identity: Mapping[str, Any], overwrite: bool) -> Path:
    """Make or reopen the folder in which the set at `output` is being made, marked with its identity.

    A folder begun with the same identity is continued. One begun with another raises `UserError`, or is begun
    anew with `overwrite`; a folder without our mark is left alone.
    """
    partial = partial_folder(output)
    mark = partial / IDENTITY_NAME
    with user_errors_for_disk(partial):
        make_folder(partial)
        if mark.exists():
            begun_with = json.loads(mark.read_bytes())
            if begun_with == identity:
                return partial
            if not overwrite:
                raise UserError(
                    f"{partial} was begun with other settings ({difference(begun_with, identity)}): "
                    "use the same settings to continue, overwrite to begin anew, or choose another folder."
                )
            shutil.rmtree(partial)
            partial.mkdir()
        elif foreign := next((path for path in partial.iterdir() if path.suffix != ".tmp"), None):
            raise UserError(
                f"{foreign} was not made by the workbench: move {partial} away, or choose another output folder."
            )
        write_atomic(mark, json.dumps(identity, ensure_ascii=False))
    return partial


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings that differ, in words, for an error's sentence."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} was {before.get(name)!r:.60}, now {now.get(name)!r:.60}" for name in names[:3])
