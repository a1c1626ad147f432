"""Images in the rows of a table: parquet files, and data sets of the Hugging Face hub."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from workbench.errors import UserError
from workbench.image_files import Encoded
from workbench.image_folders import declared_classes
from workbench.image_sources import (
    SPLIT_WORDS,
    EncodedImages,
    Label,
    Positions,
    Splits,
    as_label,
    number_labels,
    require_column,
)

if TYPE_CHECKING:
    import pyarrow

_IMAGE_COLUMNS = ("image", "img", "images")
_LABEL_COLUMNS = ("label", "labels", "label_name", "class", "fine_label", "target")
_BATCH_BYTES, _BATCH_ROWS = 16_000_000, 4096


class Columns(NamedTuple):
    """Where a table keeps its images and labels, and the class names that its schema declares."""

    image: str
    label: str | None
    declared: list[str] | None


def find_columns(schema: "pyarrow.Schema", origin: str) -> Columns:
    """The image and label columns of a table: those the Hugging Face metadata names, else by type and name.

    Raises UserError where no column can hold images.
    """
    info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info") or {}
    features = {name: f for name, f in (info.get("features") or {}).items() if isinstance(f, dict)}
    kind = {name: features.get(name, {}).get("_type") for name in schema.names}
    typed = [name for name in schema.names if kind[name] == "Image"]
    images = typed or [field.name for field in schema if _can_hold_images(field.type)]
    if not images:
        raise UserError(f"{origin} has no image column: its columns are {', '.join(schema.names)}.")
    labels = [name for name in _LABEL_COLUMNS if name in kind]
    classes = [name for name in (*labels, *kind) if kind[name] == "ClassLabel"]
    label = next(iter((*classes, *labels)), None)
    declared = features[classes[0]].get("names") if classes else None
    return Columns(next((name for name in _IMAGE_COLUMNS if name in images), images[0]), label, declared)


def _can_hold_images(kind: "pyarrow.DataType") -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _encoded(batches: Iterable["pyarrow.Array"], positions: Positions, folder: Path) -> Iterator[Encoded]:
    """The images at increasing positions of a column that is read batch by batch."""
    start = 0
    for batch in batches:
        first, last = np.searchsorted(positions, (start, start + len(batch)))
        cells = batch.to_pylist() if first < last else []  # pyarrow's own take imports pandas first: a second
        yield from (_encoded_cell(cells[position - start], folder) for position in positions[first:last])
        start += len(batch)


def _encoded_cell(cell: Any, folder: Path) -> Encoded:
    """The bytes of a cell, or the file it refers to; no bytes is an image that cannot be read."""
    if isinstance(cell, dict):
        refers = cell["bytes"] is None and cell.get("path")
        return folder / cell["path"] if refers else cell["bytes"] or b""
    return cell or b""


# ------------------------------------------------------------------------------------------------ parquet


def parquet_splits(root: Path, by_split: dict[str, list[Path]]) -> Splits:
    """The splits of a folder of parquet files, given the files of each."""
    return {split: partial(_open_parquet, root, by_split, split) for split in by_split}


def _open_parquet(root: Path, by_split: dict[str, list[Path]], split: str) -> EncodedImages:
    files = by_split[split]
    declared = _parquet_columns(files[0]).declared or declared_classes(root)

    def labels_of(name: str) -> list[Label]:
        return [label for file in by_split[name] for label in _parquet_labels(file, declared)]

    labels, label_names = number_labels(labels_of, split, by_split, declared)
    names = [name for file in files for name in _parquet_names(file)]
    return EncodedImages(
        names, labels, label_names, partial(_read_parquet, files), read_column=partial(_parquet_column, files)
    )


@contextmanager
def _parquet(file: Path) -> Iterator[Any]:
    """A parquet file open as a stream: neither it nor a row group is ever in memory as a whole.

    Raises UserError where the file, or what is read of it inside the context, is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
            yield table
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file} cannot be read as parquet: {error}") from error


def _parquet_columns(file: Path) -> Columns:
    with _parquet(file) as table:
        return find_columns(table.schema_arrow, str(file))


def _parquet_labels(file: Path, declared: Sequence[str] | None) -> list[Label]:
    column = _parquet_columns(file).label
    with _parquet(file) as table:
        if column is None:
            return [None] * table.metadata.num_rows
        values = table.read(columns=[column]).column(column).to_pylist()
    return [as_label(value, declared=declared) for value in values]


def _parquet_column(files: Sequence[Path], name: str) -> list[object]:
    cells: list[object] = []
    for file in files:
        image = _parquet_columns(file).image
        with _parquet(file) as table:
            require_column(name, (column for column in table.schema_arrow.names if column != image), str(file))
            cells += table.read(columns=[name]).column(name).to_pylist()
    return cells


def _parquet_names(file: Path) -> list[str]:
    """The path inside the image cells where there is one, else file name and row."""
    column = _parquet_columns(file).image
    with _parquet(file) as table:
        names = [f"{file.name}[{row}]" for row in range(table.metadata.num_rows)]
        cells = table.read(columns=[f"{column}.path"])
    if cells.num_columns == 0:
        return names
    cells = cells.column(column).to_pylist()
    return [(cell or {}).get("path") or name for cell, name in zip(cells, names, strict=True)]


def _read_parquet(files: Sequence[Path], positions: Positions) -> Iterator[Encoded]:
    start = 0
    for file in files:
        column = _parquet_columns(file).image
        with _parquet(file) as table:
            for group in range(table.metadata.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                first, last = np.searchsorted(positions, (start, start + rows))
                if first < last:  # of several processes that share the images, none reads all of the file
                    batches = table.iter_batches(_batch_rows(table.metadata), [group], [column], use_threads=False)
                    cells = (batch.column(0) for batch in batches)
                    yield from _encoded(cells, positions[first:last] - start, file.parent)
                start += rows


def _batch_rows(metadata: Any) -> int:
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * metadata.num_rows // max(1, size)))


# ------------------------------------------------------------------------------------------------ hub


def hub_splits(name: str) -> Splits:
    """The splits of `owner/name` or `owner/name:config` on the Hugging Face hub, fetched or from its cache.

    Raises UserError where it cannot be had, as when offline (`HF_HUB_OFFLINE=1`) and not in the cache.
    """
    import datasets

    repository, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(repository, config or None)
    except Exception as error:  # the hub's client raises its own, the network's and the file system's
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{name} is neither a file or folder here nor a data set the Hugging Face hub gives ({reason[0]}): "
            "correct the name, or see that the hub can be reached."
        ) from error
    return {SPLIT_WORDS.get(split, split): partial(_open_hub, loaded, split, name) for split in loaded}


def _open_hub(loaded: Any, split: str, name: str) -> EncodedImages:
    columns = find_columns(loaded[split].features.arrow_schema, name)

    def column(of_split: str, which: str) -> Any:
        return loaded[of_split].select_columns([which]).with_format("arrow")

    def labels_of(of_split: str) -> list[Label]:
        if columns.label is None:
            return [None] * len(loaded[of_split])
        return [as_label(value, declared=columns.declared) for value in values(of_split, columns.label)]

    def values(of_split: str, which: str) -> list[Any]:
        return column(of_split, which)[:].column(0).to_pylist()

    def read_column(which: str) -> list[object]:
        require_column(which, (other for other in loaded[split].column_names if other != columns.image), name)
        return values(split, which)

    def read(positions: Positions) -> Iterator[Encoded]:
        tables = column(split, columns.image).iter(batch_size=256)
        return _encoded((table.column(0).combine_chunks() for table in tables), positions, Path())

    labels, label_names = number_labels(labels_of, split, loaded, columns.declared)
    names = [f"{split}[{row}]" for row in range(len(labels))]
    return EncodedImages(names, labels, label_names, read, read_column=read_column)
