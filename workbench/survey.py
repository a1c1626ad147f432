"""What the rows of a split add up to, found in one pass: counts, sizes, sources, columns."""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from workbench.dataset_format import as_kind, kind_of, merge_kinds, picture_columns
from workbench.errors import UserError

GRID_EXAMPLES = 10  # kept of each class, for the card's picture
MAX_GENERATORS = 20  # named in dataset.json; the rows name them all


class Survey:
    """Adds up rows one at a time.

    `columns` are the kinds of all columns in order of appearance, `first_valued` the row in which each first
    holds a value, `examples` for each label the few rows with the smallest checksums: a fair draw that
    depends on nothing else.
    """

    def __init__(self) -> None:
        self.total = 0
        self.labels: Counter[int] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.sources: Counter[str] = Counter()
        self.generators: dict[tuple[str, str | None], None] = {}  # as an ordered set
        self.columns: dict[str, str] = {}
        self.first_valued: dict[str, int] = {}
        self.examples: dict[int, list[tuple[str, str]]] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Count one row, whose values are plain; `UserError` when a column changes its kind."""
        self.labels[row["label"]] += 1
        self.sizes[row["height"], row["width"]] += 1
        self.sources[row.get("source") or "not stated"] += 1
        if row.get("generator") and len(self.generators) < MAX_GENERATORS:
            self.generators[row["generator"], row.get("generator_checksum")] = None
        for column, value in row.items():
            kind = kind_of(column, value)
            self.columns[column] = merge_kinds(column, self.columns.get(column, "null"), kind)
            if kind != "null":
                self.first_valued.setdefault(column, self.total)
        self._keep_example(row)
        self.total += 1

    def _keep_example(self, row: dict[str, Any]) -> None:
        kept = self.examples.setdefault(row["label"], [])
        kept.append((row["sha256"], row["file_name"]))
        if len(kept) > 4 * GRID_EXAMPLES:
            self.examples[row["label"]] = heapq.nsmallest(GRID_EXAMPLES, kept)

    def example_files(self, label: int) -> list[str]:
        """File names of the rows drawn for one label."""
        return [name for _, name in heapq.nsmallest(GRID_EXAMPLES, self.examples.get(label, []))]

    def counts(self, classes: Sequence[str]) -> dict[str, Any]:
        """Images in all, without label, and of each class."""
        per_class = {name: self.labels[label] for label, name in enumerate(classes)}
        return {"total": self.total, "unlabelled": self.labels[-1], "per_class": per_class}


def summary(surveys: Mapping[str, Survey], classes: Sequence[str]) -> dict[str, Any]:
    """What all splits add up to, as `dataset.json` states it."""
    generators = dict.fromkeys(chain.from_iterable(survey.generators for survey in surveys.values()))
    return {
        "counts": {split: survey.counts(classes) for split, survey in surveys.items()},
        "sizes": size_table(sum((survey.sizes for survey in surveys.values()), Counter())),
        "sources": dict(sum((survey.sources for survey in surveys.values()), Counter())),
        "generators": [{"name": name, "checksum": checksum} for name, checksum in generators],
    }


def size_table(sizes: Counter[tuple[int, int]]) -> list[dict[str, int]]:
    """The distinct sizes with the number of images of each, from small to large."""
    return [{"height": height, "width": width, "count": sizes[height, width]} for height, width in sorted(sizes)]


def common_columns(surveys: Mapping[str, Survey]) -> dict[str, str]:
    """The columns of all splits with their kinds; `UserError` where `datasets` could not read the splits together."""
    columns: dict[str, str] = {}
    for survey in surveys.values():
        for name, kind in survey.columns.items():
            columns[name] = merge_kinds(name, columns.get(name, "null"), kind)
    pictures = picture_columns(columns)
    for name, kind in columns.items():
        empty = [split for split, survey in surveys.items() if survey.columns.get(name, "null") == "null"]
        if empty and kind != "null" and (kind != "string" or name in pictures):
            raise UserError(f"Column {name!r} has no value in {empty[0]}: give it values in every split or in none.")
    if twice := columns.keys() & set(pictures.values()):
        raise UserError(f"Column {min(twice)!r} holds pictures in some rows and other values in others: use two names.")
    return columns


def aligned(row: Mapping[str, Any], columns: Mapping[str, str], survey: Survey) -> dict[str, Any]:
    """The row with all columns; what is missing is null, or empty text where the whole split has none of it."""
    return {
        name: "" if kind == "string" and survey.columns.get(name, "null") == "null" else as_kind(row.get(name), kind)
        for name, kind in columns.items()
    }
