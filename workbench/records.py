"""Write a data set to disk, shard by shard, so that it can be interrupted at any moment and continued.

    writer = DatasetWriter("DATA", label_names, identity={"pipeline": checksum, "seed": 0})
    for shard in writer.missing_shards(num_images):
        writer.write_shard(shard, images, rows)
    writer.finish({"description": "..."}, command="workbench sample ...", seed=0)

All work happens in `DATA.partial`, which becomes `DATA` by one rename. A shard counts as written once its
rows are there, and those are written after its images. Several processes may write different shards; one of
them finishes. The form on disk is that of `workbench.dataset_format`, whose readers can be had here too.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

from workbench.dataset_format import (
    FORMAT,
    FORMAT_VERSION,
    IDENTITY_NAME,
    INFO_NAME,
    METADATA_NAME,
    SPLITS,
    check_split,
    difference,
    existing_output,
    image_name,
    iter_rows,
    open_partial,
    plain_value,
    read_dataset_info,
    read_rows,
    row_line,
    write_dataset_info,
)
from workbench.datasheet import check_card, draw_grid, render_card
from workbench.errors import UserError
from workbench.files import atomic_writer, publish_folder, user_errors_for_disk, write_atomic
from workbench.png_files import Picture, is_picture, open_image, to_pixels, write_png
from workbench.survey import Survey, aligned, common_columns, summary
from workbench.verify import VerifyReport, verify

__all__ = [
    "DatasetWriter",
    "VerifyReport",
    "describe_parent",
    "open_image",
    "read_dataset_info",
    "read_rows",
    "verify",
]

FACTS = ("file_name", "label", "label_name", "height", "width", "sha256")  # filled in by the writer
PACKAGES = ("workbench", "torch", "diffusers", "numpy", "pillow")
EARLY_ROWS = 100  # `datasets` infers a column's type from the first rows only, so each column has a value among these


class DatasetWriter:
    """Writes a data set of labelled images with the provenance of each.

    `identity`: the settings that make the set what it is (JSON values). A half-made set is continued, and a
    finished one recognised, only under the same identity, class names and shard size; otherwise `UserError`.
    `overwrite` replaces a finished or half-made set of the workbench, and nothing else; with several
    processes let one of them open first.
    """

    def __init__(
        self,
        output: str | Path,
        label_names: Sequence[str],
        identity: Mapping[str, Any],
        *,
        shard_size: int = 1000,
        num_threads: int = 4,
        overwrite: bool = False,
    ) -> None:
        self.output = Path(output).expanduser().resolve()
        self.label_names = _checked_names(label_names)
        self.shard_size = shard_size
        self.num_threads = num_threads
        self.overwrite = overwrite
        settings = {**identity, "label_names": self.label_names, "shard_size": shard_size}
        self.identity: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        self._expected: dict[str, int] = {}
        self._complete = self._is_there()
        if not self._complete:
            self.partial = open_partial(self.output, self.identity, overwrite)

    def _is_there(self) -> bool:
        info = existing_output(self.output, self.overwrite)
        if info is None or self.overwrite:
            return False
        if info.get("identity") == self.identity:
            return True
        changed = difference(info.get("identity") or {}, self.identity)
        raise UserError(
            f"{self.output} already holds a data set made with other settings ({changed}): "
            "choose another output folder, or overwrite it."
        )

    def is_complete(self) -> bool:
        """Whether the set is there already, made with the same settings: there is nothing left to do."""
        return self._complete

    def missing_shards(self, num_images: int, split: str = "train") -> list[int]:
        """Indices of the shards of a split of `num_images` images that are still to be written."""
        check_split(split)
        if self._complete or (self.partial / INFO_NAME).exists():
            return []
        self._expected[split] = num_images
        starts = range(0, num_images, self.shard_size)
        sizes = [min(self.shard_size, num_images - start) for start in starts]
        return [index for index, size in enumerate(sizes) if self._rows_written(split, index) != size]

    def write_shard(
        self,
        index: int,
        images: Sequence[Picture] | Picture,
        rows: Sequence[Mapping[str, Any]],
        split: str = "train",
    ) -> None:
        """Write one shard: images number `index * shard_size` onwards, with one row each.

        `images`: uint8, each (H, W), (1, H, W) or (3, H, W). A row needs `label`, an index into the class
        names or -1 for none; `label_name`, `height`, `width`, `file_name` and checksums are filled in. A
        row's other values are its provenance: texts, numbers, truth values, flat lists. A value with two or
        more axes (a mask, the edited image's parent) is a further picture: under the key `mask` it is saved
        beside the image and named in `mask_file_name`.
        """
        self._check_shard(index, images, rows, split)
        plain = [self._plain_row(row) for row in rows]
        folder, done = self._shard(split, index)
        numbers = range(index * self.shard_size, index * self.shard_size + len(rows))
        with user_errors_for_disk(self.partial):
            done.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with ThreadPoolExecutor(self.num_threads) as pool:
                written = list(pool.map(partial(self._write_image, folder.parent), numbers, images, plain))
            write_atomic(done, "".join(map(row_line, written)))

    def finish(
        self,
        card: Mapping[str, Any] | None = None,
        *,
        command: str = "",
        config: Mapping[str, Any] | None = None,
        seed: int | None = None,
        parents: Sequence[str | Path | Mapping[str, Any]] = (),
    ) -> Path:
        """Join the shards, write the card and `dataset.json`, give the folder its name, and return it.

        `card`: see `workbench.datasheet.CARD_KEYS`. `config` is the identity unless given. `parents`: folders
        of data sets this one was made from, or mappings with `name` and `checksum`. `UserError` when shards
        are missing.
        """
        if self._complete or self._is_there():
            return self.output
        about = {
            "command": command,
            "config": json.loads(json.dumps(dict(config or self.identity), default=str)),
            "seed": seed,
            "versions": _versions(),
            "parents": [dict(p) if isinstance(p, Mapping) else describe_parent(p) for p in parents],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": self.identity,
            "card": check_card({"title": self.output.name} | dict(card or {})),
        }
        with user_errors_for_disk(self.partial):
            if not (self.partial / INFO_NAME).exists():
                self._seal(about)
            self._sweep()
            publish_folder(self.partial, self.output)
            (self.output / IDENTITY_NAME).unlink()
        self._complete = True
        return self.output

    # -------------------------------------------------------------------------- one shard

    def _shard(self, split: str, index: int) -> tuple[Path, Path]:
        return self.partial / split / f"{index:04d}", self.partial / split / f"{index:04d}.jsonl"

    def _rows_written(self, split: str, index: int) -> int:
        done = self._shard(split, index)[1]
        return done.read_bytes().count(b"\n") if done.exists() else 0

    def _check_shard(self, index: int, images: Sequence[Picture] | Picture, rows: Sequence[Any], split: str) -> None:
        check_split(split)
        if self._complete or (self.partial / INFO_NAME).exists():
            raise UserError(f"{self.output} is complete: overwrite it, or choose another output folder.")
        if len(images) != len(rows) or not 0 < len(rows) <= self.shard_size or index < 0:
            raise UserError(
                f"Shard {index} was given {len(images)} images and {len(rows)} rows: "
                f"give as many of one as of the other, 1 to {self.shard_size} of them, and an index from 0."
            )

    def _plain_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The label and its name, then provenance; pictures stay arrays."""
        label = plain_value("label", row.get("label"))
        if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(self.label_names):
            raise UserError(
                f"A row has the label {label!r}: give -1 for no label, or the index of one of the "
                f"{len(self.label_names)} class names."
            )
        provenance = {
            name: value if is_picture(value) else plain_value(name, value)
            for name, value in row.items()
            if name not in FACTS
        }
        _check_column_names(provenance)
        return {"label": label, "label_name": self.label_names[label] if label >= 0 else None, **provenance}

    def _write_image(self, split_folder: Path, number: int, image: Picture, plain: dict[str, Any]) -> dict[str, Any]:
        pixels = to_pixels(image)
        name = image_name(number, self.shard_size)
        row = {"file_name": name, "label": plain["label"], "label_name": plain["label_name"]}
        row |= {
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "sha256": write_png(split_folder / name, pixels),
        }
        for key, value in plain.items():
            if is_picture(value):
                name = image_name(number, self.shard_size, key)
                row[f"{key}_file_name"] = name
                row[f"{key}_sha256"] = write_png(split_folder / name, to_pixels(value))
            else:
                row[key] = value
        return row

    # -------------------------------------------------------------------------- all shards

    def _shards(self, split: str) -> list[Path]:
        return sorted((self.partial / split).glob("[0-9]*.jsonl"), key=lambda path: (len(path.name), path.name))

    def _written_rows(self, split: str) -> Iterator[dict[str, Any]]:
        paths = self._shards(split)
        for index, path in enumerate(paths):
            if path.stem != f"{index:04d}":
                raise UserError(
                    f"Shard {index} of {split} is not written yet: write it before finishing {self.output}."
                )
            last = index == len(paths) - 1
            if not last and self._rows_written(split, index) != self.shard_size:
                raise UserError(f"Shard {index} of {split} is not full, but is not the last: write it again.")
            yield from iter_rows(path)

    def _seal(self, about: dict[str, Any]) -> None:
        """Everything between the last shard and the rename; `dataset.json` comes last."""
        splits = [split for split in SPLITS if (self.partial / split).is_dir() or self._expected.get(split)]
        surveys = {split: self._survey(split) for split in splits}
        if not surveys:
            raise UserError(f"No image was written to {self.output}: write a shard before finishing.")
        columns = common_columns(surveys)
        checksums = {split: self._join(split, survey, columns) for split, survey in surveys.items()}
        contents = {"classes": list(self.label_names), "checksums": checksums}
        info = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "classes": list(self.label_names),
            **summary(surveys, self.label_names),
            "columns": columns,
            **about,
            "checksums": checksums,
            "checksum": hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
        }
        draw_grid(self.partial, self.label_names, surveys).save(self.partial / "grid.png")
        write_atomic(self.partial / "README.md", render_card(info))
        write_dataset_info(self.partial, info)

    def _survey(self, split: str) -> Survey:
        survey = Survey()
        if half := {path.name for path in (self.partial / split).glob("[0-9]*/")} - {
            s.stem for s in self._shards(split)
        }:
            raise UserError(f"Shard {int(min(half))} of {split} is half-written: write it again before finishing.")
        for row in self._written_rows(split):
            survey.add(row)
        expected = self._expected.get(split, survey.total)
        if survey.total != expected:
            raise UserError(
                f"{split} has {survey.total} of {expected} images: write the missing shards before finishing."
            )
        return survey

    def _join(self, split: str, survey: Survey, columns: Mapping[str, str]) -> str:
        """Write the split's `metadata.jsonl` and return its checksum."""
        digest = hashlib.sha256()
        with atomic_writer(self.partial / split / METADATA_NAME) as write:
            rows = self._early_values_first(split, survey)
            for row in tqdm(rows, f"rows of {split}", survey.total, mininterval=1.0, unit="row", leave=False):
                line = row_line(aligned(row, columns, survey)).encode()
                digest.update(line)
                write(line)
        return digest.hexdigest()

    def _early_values_first(self, split: str, survey: Survey) -> Iterator[dict[str, Any]]:
        """The rows in order, but for those moved to the front so that no column starts with many nulls."""
        moved = {number for number in survey.first_valued.values() if number >= EARLY_ROWS}
        if moved:
            yield from (row for number, row in enumerate(self._written_rows(split)) if number in moved)
        yield from (row for number, row in enumerate(self._written_rows(split)) if number not in moved)

    def _sweep(self) -> None:
        """Remove what only the making of the set needed, but for the mark that the folder is ours."""
        for split in SPLITS:
            for path in self._shards(split):
                path.unlink()
        for leftover in self.partial.rglob(".*.tmp"):
            leftover.unlink()


# ------------------------------------------------------------------------------ rows and columns


def _checked_names(label_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(label_names)
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"The class names are {list(names)}: give no two alike and none empty.")
    return names


def _check_column_names(names: Iterable[str]) -> None:
    for name in names:
        if not name.isidentifier() or name == "image" or name.endswith(("file_name", "file_names")):
            raise UserError(
                f"A row has the column {name!r}: use letters, digits and underscores, but "
                "neither `image` nor `...file_name`, which name pictures."
            )


# ------------------------------------------------------------------------------ provenance


def describe_parent(folder: str | Path) -> dict[str, str]:
    """How a set names the set it was made from: `name`, and the `checksum` over all its rows and images."""
    return {"name": Path(folder).resolve().name, "checksum": read_dataset_info(folder)["checksum"]}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
