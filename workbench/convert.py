"""The three forms of a data set (image folder, parquet, WebDataset), and the way from any to any other.

    folder       DATA/train/metadata.jsonl, DATA/train/0000/000000.png ...
    parquet      DATA/train.parquet: PNG bytes inside, typed as `datasets` images and class labels
    webdataset   DATA/train/00000.tar ...: 0000/000000.png and 0000/000000.json share a key

All have `dataset.json` and the card beside them. A set is a stream of records (a row and the bytes of its
pictures), so nothing is ever decoded, compressed anew or held as a whole: what comes back is equal to the
byte.
"""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from workbench.dataset_format import (
    IDENTITY_NAME,
    INFO_NAME,
    METADATA_NAME,
    ROOT_FILES,
    existing_output,
    iter_rows,
    open_partial,
    parse_row,
    picture_columns,
    picture_files,
    read_dataset_info,
    row_line,
)
from workbench.errors import UserError
from workbench.files import (
    atomic_writer,
    map_in_threads,
    partial_folder,
    publish_folder,
    user_errors_for_disk,
    write_atomic,
)

ROW_GROUP_IMAGES = 1000
ROW_GROUP_BYTES = 100_000_000
TAR_IMAGES = 10_000
TAR_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Record:
    """A row, and the bytes of each picture file it names (None where the file is missing)."""

    row: dict[str, Any]
    files: dict[str, bytes | None]

    @property
    def num_bytes(self) -> int:
        return sum(len(content or b"") for content in self.files.values())


Info = Mapping[str, Any]
Records = Iterable[Record]


# ------------------------------------------------------------------------------ folder


def read_folder(folder: Path, split: str) -> Iterator[Record]:
    """The records of a split of an image folder."""

    def record(row: dict[str, Any]) -> Record:
        return Record(row, {name: _bytes_of(folder / split / name) for name in picture_files(row)})

    return map_in_threads(record, iter_rows(folder / split / METADATA_NAME), num_threads=4)


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def write_folder(folder: Path, split: str, info: Info, records: Records) -> None:
    """Write the records of a split as an image folder."""
    (folder / split).mkdir(exist_ok=True)
    with atomic_writer(folder / split / METADATA_NAME) as write:
        for record in records:
            for name, content in record.files.items():
                path = folder / split / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content or b"")
            write(row_line(record.row).encode())


# ------------------------------------------------------------------------------ parquet


def read_parquet(folder: Path, split: str) -> Iterator[Record]:
    """The records of a split from `SPLIT.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / f"{split}.parquet"
    columns = read_dataset_info(folder)["columns"]
    pictures = picture_columns(columns)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from (_record_of(cells, columns, pictures) for cells in batch.to_pylist())
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(
            f"{path} is damaged or missing ({error!s:.80}): restore it, or convert the set again."
        ) from error


def _record_of(cells: Mapping[str, Any], columns: Iterable[str], pictures: Mapping[str, str]) -> Record:
    row, files = {}, {}
    for column in columns:
        value = cells[pictures.get(column, column)]
        if column in pictures and value is not None:
            files[value["path"]] = value["bytes"]
            value = value["path"]
        row[column] = value
    picture_files(row)
    return Record(row, files)


def write_parquet(folder: Path, split: str, info: Info, records: Records) -> None:
    """Write the records of a split as `SPLIT.parquet`, with `dataset.json` in the schema's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = picture_columns(info["columns"])
    schema = _parquet_schema(info, split)
    with pq.ParquetWriter(folder / f"{split}.parquet", schema, compression="zstd", use_dictionary=False) as writer:
        for group in _groups(records, ROW_GROUP_IMAGES, ROW_GROUP_BYTES):
            cells = [_cells_of(record, pictures) for record in group]
            writer.write_table(pa.Table.from_pylist(cells, schema=schema), row_group_size=len(cells))


def _cells_of(record: Record, pictures: Mapping[str, str]) -> dict[str, Any]:
    return {
        pictures.get(column, column): {"bytes": record.files[value], "path": value}
        if column in pictures and value is not None
        else value
        for column, value in record.row.items()
    }


def _parquet_schema(info: Info, split: str) -> Any:
    from datasets import ClassLabel, Features, Image, List, Value

    pictures = picture_columns(info["columns"])
    features: dict[str, Any] = {}
    for column, kind in info["columns"].items():
        if column in pictures:
            features[pictures[column]] = Image()
        elif column == "label":
            features[column] = ClassLabel(names=info["classes"])
        else:
            features[column] = List(Value(kind[5:-1])) if kind.startswith("list<") else Value(kind)
    schema = Features(features).arrow_schema
    ours = {"workbench.split": split, "workbench.dataset": json.dumps(info, ensure_ascii=False)}
    return schema.with_metadata({**(schema.metadata or {}), **ours})


def _groups(records: Records, max_images: int, max_bytes: int) -> Iterator[list[Record]]:
    group: list[Record] = []
    size = 0
    for record in records:
        if group and (len(group) == max_images or size + record.num_bytes > max_bytes):
            yield group
            group, size = [], 0
        group.append(record)
        size += record.num_bytes
    if group:
        yield group


# ------------------------------------------------------------------------------ WebDataset


def read_webdataset(folder: Path, split: str) -> Iterator[Record]:
    """The records of a split from its tar shards, in the order of the shards' names."""
    shards = sorted((folder / split).glob("*.tar"), key=lambda path: (len(path.name), path.name))
    for path in shards:
        try:
            with tarfile.open(path, "r:") as tar:
                yield from _samples(tar, path)
        except (tarfile.TarError, EOFError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} is damaged ({error!s:.80}): restore it, or convert the set again.") from error


def _samples(tar: tarfile.TarFile, path: Path) -> Iterator[Record]:
    """Members that share a key, up to the first dot of the file's name, are one sample."""
    files: dict[str, bytes | None] = {}
    for member in tar:
        content = tar.extractfile(member)
        if content is None:
            raise UserError(f"{path} holds {member.name!r}, which is no file: it was not made by the workbench.")
        if not member.name.endswith(".json"):
            files[member.name] = content.read()
            continue
        row = parse_row(content.read())
        expected = picture_files(row)
        yield Record(row, {name: files.pop(name, None) for name in expected} | files)
        files = {}
    if files:
        raise UserError(f"{path} ends with {next(iter(files))!r}, which belongs to no row: the file was cut.")


def write_webdataset(folder: Path, split: str, info: Info, records: Records) -> None:
    """Write a split as tar shards whose bytes depend on the records alone (no times, no owners)."""
    (folder / split).mkdir(exist_ok=True)
    for number, group in enumerate(_tar_groups(records)):
        with tarfile.open(folder / split / f"{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for record in group:
                for name, content in record.files.items():
                    _add(tar, name, content or b"")
                _add(tar, record.row["file_name"].removesuffix(".png") + ".json", row_line(record.row).encode())


def _tar_groups(records: Records) -> Iterator[Iterator[Record]]:
    """The records in runs of one shard each, without holding a shard in memory."""
    stream = iter(records)
    ahead = next(stream, None)

    def run() -> Iterator[Record]:
        nonlocal ahead
        images = size = 0
        while ahead is not None and (images == 0 or (images < TAR_IMAGES and size + ahead.num_bytes <= TAR_BYTES)):
            images, size = images + 1, size + ahead.num_bytes
            record, ahead = ahead, next(stream, None)
            yield record

    while ahead is not None:
        yield run()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


# ------------------------------------------------------------------------------ any form


@dataclass(frozen=True)
class Form:
    """How one form is read and written, split by split."""

    read: Callable[[Path, str], Iterator[Record]]
    write: Callable[[Path, str, Info, Records], None]


FORMS = {
    "folder": Form(read_folder, write_folder),
    "parquet": Form(read_parquet, write_parquet),
    "webdataset": Form(read_webdataset, write_webdataset),
}


def detect_form(folder: str | Path) -> str:
    """The form of the data set in a folder, one of `FORMS`; `UserError` where there is none or no complete one."""
    folder = Path(folder)
    splits = read_dataset_info(folder)["counts"]
    if any((folder / f"{split}.parquet").exists() for split in splits):
        return "parquet"
    if any(next((folder / split).glob("*.tar"), None) for split in splits):
        return "webdataset"
    return "folder"


def read_records(folder: str | Path, split: str = "train") -> Iterator[Record]:
    """The records of one split of a data set in any form, streamed in order."""
    return FORMS[detect_form(folder)].read(Path(folder), split)


def convert(source: str | Path, destination: str | Path, format: str, *, overwrite: bool = False) -> Path:
    """Write a data set in another form (`folder`, `parquet` or `webdataset`) to the folder `destination`.

    Rows, the bytes of every picture, `dataset.json` and the card are equal in all forms; each picture's
    checksum is compared on the way. Returns the destination. Raises `UserError` when the source is incomplete
    or damaged, or when the destination is taken (a data set of ours is replaced with `overwrite`, anything
    else never).
    """
    source, destination = Path(source).expanduser().resolve(), Path(destination).expanduser().resolve()
    if format not in FORMS:
        raise UserError(f"A data set cannot be converted to {format!r}: choose one of {', '.join(FORMS)}.")
    info = read_dataset_info(source)
    read = FORMS[detect_form(source)].read
    _check_destination(source, destination, overwrite)
    partial = open_partial(destination, {"form": format, "checksum": info["checksum"]}, overwrite)
    with user_errors_for_disk(partial):
        for split in info["counts"]:
            FORMS[format].write(partial, split, info, _checked(read(source, split), split, info))
        for name in ROOT_FILES:
            if name != INFO_NAME and (source / name).exists():
                shutil.copyfile(source / name, partial / name)
        write_atomic(partial / INFO_NAME, (source / INFO_NAME).read_bytes())
        publish_folder(partial, destination)
        (destination / IDENTITY_NAME).unlink()
    return destination


def _check_destination(source: Path, destination: Path, overwrite: bool) -> None:
    if source == destination or source in destination.parents or partial_folder(destination) == source:
        raise UserError(f"{destination} is the source itself or lies inside it: choose another output folder.")
    if existing_output(destination, overwrite) is not None and not overwrite:
        raise UserError(f"{destination} already holds a data set: choose another output folder, or overwrite it.")


def _checked(records: Records, split: str, info: Info) -> Iterator[Record]:
    """The records, with progress shown; `UserError` at the first damaged one, or when some are missing."""
    total = info["counts"][split]["total"]
    digest = hashlib.sha256()
    for record in tqdm(records, f"images of {split}", total, mininterval=1.0, unit="image"):
        for name, checksum in picture_files(record.row).items():
            content = record.files[name]
            if content is None or hashlib.sha256(content).hexdigest() != record.row[checksum]:
                raise UserError(f"{split}/{name} is missing or damaged: run `workbench verify` on the set.")
        digest.update(row_line(record.row).encode())
        yield record
    if digest.hexdigest() != info["checksums"][split]:
        raise UserError(f"The rows of {split} are not those the set was made with: run `workbench verify` on the set.")
