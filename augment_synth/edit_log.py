"""Edits as they are made: one row each, written in parts that a stopped run goes on from, joined to edits.parquet."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from workbench.errors import UserError
from workbench.files import atomic_writer, make_folder, user_errors_for_disk, write_atomic

Kind = Literal["object", "background"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class EditRow:
    """One edit of one image, or one that could not be made (`made` is False, and so is what follows from it).

    `placebo`: an edit that leaves the feature alone, to see what editing itself does. `png` holds the picture.
    """

    image_id: str
    position: int  # in the data set
    label: int
    kind: Kind
    phrase: str  # as the caption has it
    replaced_by: str  # the other background; nothing for an object that is removed
    placebo: bool
    made: bool
    p_before: float
    p_after: float
    pred_before: int
    pred_after: int
    flipped: bool
    label_change: float  # share of the label's own pixels that changed
    seed: int
    png: bytes


def content_hash(content: Any) -> str:
    """16 hexadecimal digits of anything JSON can say; bytes count by their own hash."""
    text = json.dumps(content, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weights_hash(module: nn.Module) -> str:
    """`content_hash` of all weights."""
    return content_hash([(name, str(value.dtype), _bytes(value)) for name, value in module.state_dict().items()])


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _plain(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def batches(
    images: UInt8[Tensor, "n 3 h w"], others: Sequence[Item], at_once: int
) -> Iterator[tuple[UInt8[Tensor, "m 3 h w"], Sequence[Item]]]:
    """Images, and what belongs to each, a few at a time: the parts in which results of steps are kept."""
    for start in range(0, len(images), at_once):
        yield images[start : start + at_once], others[start : start + at_once]


class StepCache:
    """Results of steps by the hash of what they depend on: asked again with the same, they are not made again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)

    def json(self, step: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What `make` gave for this key, now or earlier."""
        path = self.folder / f"{step}-{content_hash(key)}.json"
        if not path.exists():
            with user_errors_for_disk(path):
                write_atomic(path, json.dumps(make()))
        return _read(path)

    def edits(self, key: Mapping[str, Any], make: Callable[[], Sequence[EditRow]]) -> list[EditRow]:
        """The edits made for this key, now or earlier."""
        path = self.folder / f"edits-{content_hash(key)}.parquet"
        if not path.exists():
            write_edits(path, make())
        return list(read_edits(path))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is damaged: delete it and run the same command again") from error


def write_edits(path: Path, rows: Sequence[EditRow]) -> None:
    """A parquet file of edits, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(EditRow)}
    kinds: dict[Any, Any] = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        bytes: pa.binary(),
    }
    schema = pa.schema([(field.name, kinds.get(field.type, pa.string())) for field in fields(EditRow)])
    with user_errors_for_disk(path), atomic_writer(path) as write:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema), sink)
        write(sink.getvalue().to_pybytes())


def read_edits(path: Path) -> Iterator[EditRow]:
    """The edits of a file, in order. Raises `UserError` where it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} is damaged: delete it and run the same command again") from error
    for row in table.to_pylist():
        yield EditRow(**row)


def without_picture(row: EditRow) -> dict[str, Any]:
    """An edit as JSON knows it."""
    return {name: value for name, value in asdict(row).items() if name != "png"}
