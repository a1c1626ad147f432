"""Images in WebDataset shards: tar files of `key.png` (or jpg ...) with `key.json` or `key.cls` beside it."""

import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from workbench.errors import UserError
from workbench.image_files import EXTENSIONS
from workbench.image_folders import declared_classes
from workbench.image_sources import (
    EncodedImages,
    Label,
    Positions,
    Splits,
    as_label,
    column_of,
    number_labels,
    number_or_name,
)


class Place(NamedTuple):
    """Where a file lies in a shard."""

    offset: int
    size: int


class Sample(NamedTuple):
    """One image of a shard, the json beside it, and its label."""

    name: str
    shard: Path
    image: Place
    record: Place | None
    label: Label


def tar_splits(root: Path, by_split: dict[str, list[Path]]) -> Splits:
    """The splits of a folder of uncompressed tar shards, given the shards of each."""
    return {split: partial(_open_tars, root, by_split, split) for split in by_split}


def _open_tars(root: Path, by_split: dict[str, list[Path]], split: str) -> EncodedImages:
    declared = declared_classes(root)

    @cache
    def samples(name: str) -> list[Sample]:
        return [sample for shard in by_split[name] for sample in _samples(shard, declared)]

    own = samples(split)
    labels, label_names = number_labels(
        lambda name: [sample.label for sample in samples(name)], split, by_split, declared
    )
    names = [sample.name for sample in own]
    return EncodedImages(names, labels, label_names, partial(_read, own), read_column=partial(_column, own, str(root)))


def _samples(shard: Path, declared: Sequence[str] | None) -> Iterator[Sample]:
    """The samples of a shard: a key is all of a member's path before the first dot of its name."""
    try:
        with tarfile.open(shard, "r:") as archive:
            members = (member for member in archive if member.isfile())
            for _, group in groupby(members, key=lambda member: _key(member.name)[0]):
                parts = {_key(member.name)[1].lower(): member for member in group}
                image = next((part for ending, part in parts.items() if ending in EXTENSIONS), None)
                if image is not None:
                    record = _place(parts[".json"]) if ".json" in parts else None
                    yield Sample(image.name, shard, _place(image), record, _label(archive, parts, declared))
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{shard} cannot be read as an uncompressed tar file: {error}.") from error


def _place(member: tarfile.TarInfo) -> Place:
    return Place(member.offset_data, member.size)


def _key(member: str) -> tuple[str, str]:
    folder, slash, name = member.rpartition("/")
    stem, dot, ending = name.partition(".")
    return folder + slash + stem, dot + ending


def _label(archive: tarfile.TarFile, parts: dict[str, tarfile.TarInfo], declared: Sequence[str] | None) -> Label:
    if ".json" in parts:
        try:
            record = json.loads(_content(archive, parts[".json"]))
        except ValueError as error:
            raise UserError(f"{parts['.json'].name} in {archive.name!s} is not JSON: {error}.") from error
        if isinstance(record, dict) and ("label" in record or "label_name" in record):
            return as_label(record.get("label"), record.get("label_name"), declared)
    if ".cls" in parts:
        text = _content(archive, parts[".cls"]).decode().strip()
        return as_label(number_or_name(text), declared=declared)
    return None


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # regular files only
    return file.read()


def _read(samples: Sequence[Sample], positions: Positions) -> Iterator[bytes]:
    yield from _contents((samples[i].shard, samples[i].image) for i in positions)


def _contents(places: Iterable[tuple[Path, Place | None]]) -> Iterator[bytes]:
    """The files at these places, nothing where there is none; each run of one shard opens it once."""
    for shard, group in groupby(places, key=itemgetter(0)):
        with shard.open("rb") as file:
            for _, place in group:
                file.seek(place.offset if place else 0)
                yield file.read(place.size if place else 0)


def _column(samples: Sequence[Sample], origin: str, name: str) -> list[object]:
    """One column of the json members."""
    records = (json.loads(content or b"{}") for content in _contents((s.shard, s.record) for s in samples))
    return column_of((record if isinstance(record, dict) else {} for record in records), name, origin)
