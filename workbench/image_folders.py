"""Folders of image files: class folders, metadata files, splits, or no labels at all."""

import csv
import io
import json
import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from workbench.errors import UserError
from workbench.image_files import EXTENSIONS
from workbench.image_sources import (
    SPLIT_WORDS,
    EncodedImages,
    Label,
    Positions,
    Splits,
    as_label,
    column_of,
    natural,
    no_columns,
    number_labels,
    number_or_name,
)

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


class LabelledFile(NamedTuple):
    """An image file, relative to the root, and its label."""

    file: Path
    label: Label


def visible_files(root: Path) -> list[Path]:
    """Every file under a folder, relative to it, in natural order, without hidden ones and `__MACOSX`.

    Raises UserError for a folder that may not be read.
    """
    found = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse, followlinks=True):
        inside = Path(folder)
        subfolders[:] = [name for name in subfolders if _visible(name) and not _leads_back(inside / name)]
        found += [inside.relative_to(root) / name for name in names if _visible(name)]
    return sorted(found, key=lambda file: natural(file.as_posix()))


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _refuse(error: OSError) -> None:
    raise UserError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error


def is_image(file: Path) -> bool:
    """Whether the name says that the file is an image."""
    return file.suffix.lower() in EXTENSIONS


def folder_splits(root: Path, files: Sequence[Path]) -> Splits:
    """The splits of an image folder, given its visible files."""
    images = [file for file in files if is_image(file)]
    metadata = {file.parent: file for name in reversed(METADATA_FILES) for file in files if file.name == name}
    folders = _split_folders(images, metadata)
    return {split: partial(_open, root, images, metadata, folders, split) for split in folders}


def _split_folders(images: Sequence[Path], metadata: dict[Path, Path]) -> dict[str, Path]:
    """Where each split lies: root/train, root/test ..., or all of the root as train.

    A class may be called "train": its folder then holds images and no folders, beside those of other classes.
    """
    tops = dict.fromkeys(file.parts[0] for file in images if len(file.parts) > 1)
    named = [top for top in tops if top.lower() in SPLIT_WORDS]
    deep = {file.parts[0] for file in images if len(file.parts) > 2} | {folder.as_posix() for folder in metadata}
    if not named or (len(named) < len(tops) and not deep.intersection(named)):
        return {"train": Path()}
    folders: dict[str, Path] = {}
    for top in named:
        other = folders.setdefault(SPLIT_WORDS[top.lower()], Path(top))
        if other != Path(top):
            raise UserError(f"The folders {other} and {top} are the same split: keep one of them.")
    return {split: folders[split] for split in ("train", "validation", "test") if split in folders}


def _open(
    root: Path, images: Sequence[Path], metadata: dict[Path, Path], folders: dict[str, Path], split: str
) -> EncodedImages:
    declared = declared_classes(root)

    @cache
    def rows(name: str) -> list[LabelledFile]:
        return _rows(root, images, metadata, folders[name], declared)

    files = [row.file for row in rows(split)]
    labels, label_names = number_labels(lambda name: [row.label for row in rows(name)], split, folders, declared)

    def read(positions: Positions) -> list[Path]:
        return [root / files[i] for i in positions]

    strays = _strays(images, folders[split], files) if not metadata else 0
    notes = (f"{strays} images outside the class folders of {root} are left out.",) if strays else ()
    read_column = partial(_column, root, metadata, folders[split])
    return EncodedImages([file.as_posix() for file in files], labels, label_names, read, notes, read_column)


def _strays(images: Sequence[Path], folder: Path, files: Sequence[Path]) -> int:
    return sum(1 for file in images if file.is_relative_to(folder)) - len(files)


def declared_classes(root: Path) -> list[str] | None:
    """The classes, in order, that a data set of ours declares in its `dataset.json`."""
    file = root / "dataset.json"
    if not file.is_file():
        return None
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    classes = description.get("classes") if isinstance(description, dict) else None
    return [str(name) for name in classes] if classes else None


def _rows(
    root: Path,
    images: Sequence[Path],
    metadata: dict[Path, Path],
    folder: Path,
    declared: Sequence[str] | None,
) -> list[LabelledFile]:
    if folder in metadata:
        return _metadata_rows(root, metadata[folder], declared)
    if Path() in metadata:
        rows = _metadata_rows(root, metadata[Path()], declared)
        return [row for row in rows if row.file.is_relative_to(folder)]
    depth = len(folder.parts)
    inside = [file for file in images if file.parts[:depth] == folder.parts]
    classed = [file for file in inside if len(file.parts) > depth + 1]
    if classed:
        return [LabelledFile(file, (0, file.parts[depth])) for file in classed]
    return [LabelledFile(file, None) for file in inside]


def _metadata_rows(root: Path, file: Path, declared: Sequence[str] | None) -> list[LabelledFile]:
    rows = []
    for number, record in enumerate(_records(root / file), start=1):
        image = file.parent / _image_name(record, f"Row {number} of {root / file}")
        rows.append(LabelledFile(image, as_label(record.get("label"), record.get("label_name"), declared)))
    return rows


def _image_name(record: dict[str, object], row: str) -> str:
    name = record.get("file_name") or record.get("image_file_name")
    if not isinstance(name, str):
        raise UserError(f"{row} has no file_name: each row names its image.")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{row} names {name}: name files inside the data set only.")
    return name


def _column(root: Path, metadata: dict[Path, Path], folder: Path, name: str) -> Sequence[object]:
    """One column of the metadata file that lists a split, in the order of its images."""
    file = metadata.get(folder) or metadata.get(Path())
    if file is None:
        return no_columns(name)
    records = _records(root / file)
    _check_csv(records, root / file)
    cells = column_of(records, name, str(root / file))
    images = (file.parent / _image_name(record, str(root / file)) for record in records)
    return [cell for image, cell in zip(images, cells, strict=True) if image.is_relative_to(folder)]


def _check_csv(records: Sequence[dict[str, object]], file: Path) -> None:
    for number, record in enumerate(records, start=1):
        if None in record:  # where csv puts the values beyond the last column
            raise UserError(f"Row {number} of {file} has too many values: put texts that hold commas in quotes.")


def _records(file: Path) -> list[dict[str, object]]:
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
    if file.suffix == ".csv":
        return [_numbered(record) for record in csv.DictReader(io.StringIO(text, newline=""))]
    lines = text.split("\n")  # splitlines would also cut at separators inside a caption
    return [_record(line, number, file) for number, line in enumerate(lines, 1) if line.strip()]


def _numbered(record: dict[str, str]) -> dict[str, object]:
    if "label" not in record:
        return dict(record)
    return {**record, "label": number_or_name(record["label"] or "")}


def _record(line: str, number: int, file: Path) -> dict[str, object]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"Line {number} of {file} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise UserError(f"Line {number} of {file} is not a JSON object.")
    return record
