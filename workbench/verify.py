"""Whether a data set, in any form, is still what was written: every byte, row, count, label and size."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from workbench.convert import Record, detect_form, read_records
from workbench.dataset_format import (
    IDENTITY_NAME,
    METADATA_NAME,
    ROOT_FILES,
    picture_files,
    read_dataset_info,
    row_line,
)
from workbench.errors import UserError
from workbench.files import map_in_threads
from workbench.survey import Survey, size_table

SHOWN = 20


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found: no problems means that the set is good."""

    path: Path
    form: str
    num_images: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """The verdict in one line, and the first problems below it."""
        if self.ok:
            return f"{self.path} ({self.form}): {self.num_images} images, all good."
        hidden = len(self.problems) - SHOWN
        more = [f"... and {hidden} more"] if hidden > 0 else []
        head = f"{self.path} ({self.form}): {self.num_images} images, {len(self.problems)} problems."
        return "\n".join([head, *self.problems[:SHOWN], *more])


def verify(folder: str | Path, *, num_threads: int = 4) -> VerifyReport:
    """Read a whole data set in folder, parquet or WebDataset form and report all that is wrong with it.

    Checked: the checksum of every picture and of all rows, that every file is there and none besides, labels
    in range, sizes as stated, counts as stated, and the naming rules of image folder readers. Raises
    `UserError` only when there is no such folder.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of a data set.")
    try:
        info = read_dataset_info(folder)
    except UserError as error:
        return VerifyReport(folder, "unknown", 0, (str(error), *_naming_problems(folder)))
    form = detect_form(folder)
    surveys, expected, problems = {}, {*ROOT_FILES, IDENTITY_NAME}, []
    for split in info["counts"]:
        survey, files, found = _check_split(folder, split, info, num_threads)
        surveys[split] = survey
        expected |= files if form == "folder" else set()
        problems += found
    problems += _size_problems(info, surveys)
    problems += _naming_problems(folder)
    problems += _file_problems(folder, form, info, expected)
    return VerifyReport(folder, form, sum(survey.total for survey in surveys.values()), tuple(problems))


# ------------------------------------------------------------------------------ rows and pictures


def _check_split(
    folder: Path, split: str, info: Mapping[str, Any], num_threads: int
) -> tuple[Survey, set[str], list[str]]:
    survey, digest = Survey(), hashlib.sha256()
    files, problems = {f"{split}/{METADATA_NAME}"}, []
    check: Callable[[Record], tuple[Record, list[str]]] = partial(_check_record, info=info)
    stated = info["counts"][split]
    try:
        records = tqdm(
            read_records(folder, split), f"verifying {split}", stated["total"], mininterval=1.0, unit="image"
        )
        for record, found in map_in_threads(check, records, num_threads):
            problems += [f"{split}: {problem}" for problem in found]
            files |= {f"{split}/{name}" for name in record.files}
            digest.update(row_line(record.row).encode())
            survey.add(record.row)
    except UserError as error:
        problems.append(str(error))
    if digest.hexdigest() != info["checksums"].get(split):
        problems.append(f"{split}: the rows are not those the set was made with (their checksum differs).")
    counts = survey.counts(info["classes"])
    if counts != stated:
        problems.append(f"{split}: dataset.json states {_in_words(stated)}, but there are {_in_words(counts)}.")
    return survey, files, problems


def _check_record(record: Record, info: Mapping[str, Any]) -> tuple[Record, list[str]]:
    """The record itself, and what is wrong with it; `UserError` when its row lacks what every row has."""
    row = record.row
    kinds = {"label": int, "height": int, "width": int, "file_name": str, "sha256": str}
    if wrong := [name for name, kind in kinds.items() if not isinstance(row.get(name), kind)]:
        raise UserError(f"The row {row!r:.80} has no proper {wrong[0]!r}: restore the rows, or make the set again.")
    problems = list(_label_problems(row, info["classes"]))
    expected = picture_files(row)
    problems += [f"{name} belongs to no row." for name in record.files if name not in expected]
    for name, checksum in expected.items():
        content = record.files.get(name)
        if content is None:
            problems.append(f"{name} is missing.")
        elif hashlib.sha256(content).hexdigest() != row.get(checksum):
            problems.append(f"{name} was changed (its checksum differs).")
    problems += _pixel_problems(row, record.files.get(row["file_name"]))
    return record, problems


def _label_problems(row: Mapping[str, Any], classes: list[str]) -> Iterator[str]:
    label, name = row["label"], row.get("label_name")
    if not -1 <= label < len(classes):
        yield f"{row['file_name']} has the label {label}, outside of -1 to {len(classes) - 1}."
    elif (name or "") != (classes[label] if label >= 0 else ""):
        yield f"{row['file_name']} has the label {label} but the label name {name!r}."


def _pixel_problems(row: Mapping[str, Any], content: bytes | None) -> Iterator[str]:
    if content is None:
        return
    try:
        with Image.open(BytesIO(content)) as image:
            width, height = image.size
    except (OSError, SyntaxError):
        yield f"{row['file_name']} is not a readable image."
        return
    if (height, width) != (row["height"], row["width"]):
        yield f"{row['file_name']} is {height}x{width}, its row says {row['height']}x{row['width']}."


def _in_words(counts: Mapping[str, Any]) -> str:
    per_class = ", ".join(f"{name} {count}" for name, count in counts["per_class"].items())
    return f"{counts['total']} images ({per_class}, unlabelled {counts['unlabelled']})"


def _size_problems(info: Mapping[str, Any], surveys: Mapping[str, Survey]) -> Iterator[str]:
    if size_table(sum((survey.sizes for survey in surveys.values()), Counter())) != info["sizes"]:
        yield "The image sizes are not those that dataset.json states."


# ------------------------------------------------------------------------------ files and names


def _file_problems(folder: Path, form: str, info: Mapping[str, Any], expected: set[str]) -> Iterator[str]:
    """Files that are not expected, and a missing card."""
    if form == "parquet":
        expected |= {f"{split}.parquet" for split in info["counts"]}
    if form == "webdataset":
        expected |= {
            f"{path.parent.name}/{path.name}" for split in info["counts"] for path in folder.glob(f"{split}/*.tar")
        }
    if not (folder / "README.md").exists():
        yield "README.md, the card, is missing."
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name not in expected and not path.is_dir():
            yield f"{name} does not belong to the set."


def _naming_problems(folder: Path) -> Iterator[str]:
    """Which rule of `datasets`' image folder reader a misplaced or misnamed metadata file breaks."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or not path.name.lower().startswith("metadata."):
            continue
        if path.name not in (METADATA_NAME, "metadata.csv", "metadata.parquet"):
            yield f"{name}: a metadata file must be called exactly {METADATA_NAME}, or it is ignored."
        elif path.name != METADATA_NAME:
            yield f"{name}: a split has one metadata file, and this format's is {METADATA_NAME}."
        elif len(Path(name).parts) != 2:
            yield f"{name}: the metadata file must lie in the split's folder, once for each split."
