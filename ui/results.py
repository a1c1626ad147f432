"""What the page shows of a result on disk: where it is, its curves, and a file to take home."""

import hashlib
import shutil
import zipfile
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ui.shelf import RESULTS, Shelf
from workbench.line_chart import Point, line_chart

if TYPE_CHECKING:
    from PIL.Image import Image

CHARTS = 6  # at most


def zipped(folder: Path) -> str:
    """A zip file of a folder, beside it."""
    return shutil.make_archive(str(folder), "zip", folder)


def handed_out(shelf: Shelf, path: Path, leave_out: Collection[str] = ()) -> str:
    """A copy of a file, or a zip file of a folder, among the results, from where alone files are handed out.

    Parts of the folder may be left out by name. It is made once, and again when something of it has changed.
    """
    below = [one for one in sorted(path.rglob("*")) if not one.is_symlink()]
    inside = [one for one in below if one.relative_to(path).parts[0] not in leave_out]
    newest = max(one.stat().st_mtime_ns for one in (path, *inside))
    key = hashlib.sha256(f"{path} {newest}".encode()).hexdigest()[:12]
    copy = shelf.root / RESULTS / "copies" / f"{path.stem}-{key}{'.zip' if path.is_dir() else path.suffix}"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        partial = shelf.new_result("copy")
        if path.is_dir():
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
                for one in inside:
                    archive.write(one, one.relative_to(path))
        else:
            shutil.copyfile(path, partial)
        partial.replace(copy)
    return str(copy)


def where(shelf: Shelf, folder: Path, text: str) -> str:
    """A sentence with the result's place below the served folder, as Markdown."""
    return f"{escape(text)} Kept in `{shelf.shown(folder)}`."


def opened(path: Path) -> "Image":
    """A picture of the served folder as pixels: only what was made here is handed out as files."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def told_record(shelf: Shelf, record: Any) -> Any:
    """A record (JSON) as a browser may read it; see `Shelf.told`."""
    if isinstance(record, dict):
        return {key: told_record(shelf, value) for key, value in record.items()}
    if isinstance(record, list):
        return [told_record(shelf, value) for value in record]
    return shelf.told(record) if isinstance(record, str) else record


def plain(text: str) -> str:
    """A text as text in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]#|" else letter for letter in escape(text))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl."""
    from workbench.metrics_log import read_metrics

    return [row for row in read_metrics(path) if isinstance(row, dict) and isinstance(row.get("step"), int)]


def charts_of(rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> str:
    """A chart for each figure, those named first before the others, as HTML; names are escaped."""
    series: dict[str, list[Point]] = {}
    for row in rows:
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):
                series.setdefault(key, []).append((row["step"], value))
    order = sorted(series, key=lambda key: (first.index(key) if key in first else len(first), key))[:CHARTS]
    charts = "".join(f"<figure>{line_chart({key: series[key]}, 'step', key)}</figure>" for key in order)
    return f'<div class="charts">{charts or "<p>No figures yet.</p>"}</div>'
