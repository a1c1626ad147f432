"""What a folder of `workbench debias` shows on the page: the ranking, pictures before and after, groups."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ui import processes
from ui.debias import REPORT
from ui.results import plain
from ui.shelf import read_json
from workbench.errors import UserError

PAIRS = 8  # shown of a feature
FEATURES = ("class", "feature", "replaced by", "edits", "flips", "at least", "placebo", "verdict")
FACTS = ("counts", "seconds", "config")  # of manifest.json
Record = dict[str, Any]  # of a feature, as features.json has it


@dataclass(frozen=True)
class Found:
    """What a folder of `workbench debias` holds so far."""

    folder: Path
    text: str
    features: list[Record]
    groups: list[list[str]]  # the first row is the head
    facts: dict[str, Any]

    def choices(self) -> dict[str, Record]:
        """Features by how the page calls them."""
        return {f"{one['class']}: {one['name']} ({one['kind']})": one for one in self.features}

    def vetoes(self) -> dict[str, str]:
        """How `--veto` names those that can be left out: found spurious, or left out already."""
        return {name: veto_of(one) for name, one in self.choices().items() if one["kept"] or _vetoed(one)}

    def left_out(self) -> list[str]:
        """Those that are left out already."""
        return [name for name, one in self.choices().items() if _vetoed(one)]


def veto_of(feature: Record) -> str:
    """A feature as `--veto` takes it."""
    return f"{feature['class']}:{feature['name']}"


def _vetoed(feature: Record) -> bool:
    return str(feature["reason"]).startswith("vetoed")


def read_debiasing(folder: Path, name: str) -> Found:
    """All that is there of a finished, running or stopped run."""
    features, manifest = read_json(folder / "features.json"), read_json(folder / "manifest.json")
    records = features.get("features", [])
    started = processes.find(name)
    state = "finished" if (folder / REPORT).exists() else "not finished: Go on takes it further"
    state = "running" if started is not None and started.runs else state
    kept = sum(one["kept"] for one in records)
    lines = [f"**{plain(name)}**: {state}."]
    if records:
        lines[0] += f" Of {len(records)} features {kept} {'is' if kept == 1 else 'are'} relied on."
    lines += [f"- {plain(note)}" for note in features.get("notes", [])]
    facts = {"who did what": features.get("components", []), **{key: manifest[key] for key in FACTS if key in manifest}}
    return Found(folder, "\n".join(lines), records, group_rows(manifest), facts)


def feature_row(feature: Record) -> list[str]:
    """A line of the ranking, in the order of FEATURES."""
    placebo = f"{feature['placebo_flip_rate']:.0%}" if feature["placebo_edits"] else "none"
    rates = (f"{feature['flip_rate']:.0%}", f"{feature['lower']:.0%}", placebo)
    names = (feature["class"], f"{feature['name']} ({feature['kind']})", feature["replaced_by"] or "nothing")
    return [*names, str(feature["edits"]), *rates, feature["reason"]]


def group_rows(manifest: dict[str, Any]) -> list[list[str]]:
    """Accuracy of each classifier in each group, and the worst and the mean; the first row names the columns."""
    tables = manifest.get("accuracy") or {}
    if not tables:
        return []
    groups = next(iter(tables.values()))["groups"]
    rows = [["group", "images", *tables]]
    for number, group in enumerate(groups):
        rows.append(
            [group["group"], f"{group['n']:,}"] + [_percent(t["groups"][number]["accuracy"]) for t in tables.values()]
        )
    for title, key in (("worst group", "worst"), ("all images", "average")):
        rows.append([title, ""] + [_percent(table[key]) for table in tables.values()])
    return rows


def _percent(value: float) -> str:
    return f"{value:.1%}"


# ---- pictures before and after ---------------------------------------------------------------------------------------


def edits_of(folder: Path, feature: Record) -> list[Record]:
    """Rows of edits.parquet that show a feature, those that flipped the answer first. UserError for a damaged file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [("label", "=", feature["label"]), ("kind", "=", feature["kind"]), ("phrase", "in", feature["phrases"]),
              ("made", "=", True), ("placebo", "=", False)]  # fmt: skip
    try:
        table = pq.read_table(folder / "edits.parquet", filters=wanted)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError("the edits cannot be read; if the run is finished, start it anew with --overwrite") from error
    order = table.sort_by([("flipped", "descending"), ("position", "ascending")])
    rows: list[Record] = order.slice(0, PAIRS).to_pylist()
    return rows


def originals(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The files of training images at the size at which they were edited, where they are written already."""
    from workbench.records import read_rows

    augmented = folder / "augmented"
    if not (augmented / "dataset.json").exists():
        return {}
    rows = (row for row in read_rows(augmented) if row["source"] == "real" and row["parent"] in names)
    return {row["parent"]: (augmented / "train" / row["file_name"]).read_bytes() for row in rows}


def pairs_page(folder: Path, feature: Record) -> str:
    """Pictures before and after with the class's probability, as HTML; names are escaped."""
    rows, label = edits_of(folder, feature), feature["class"]
    before = originals(folder, [row["image_id"] for row in rows])
    pairs = []
    for row in rows:
        change = f"{row['phrase']} gone" if not row["replaced_by"] else f"{row['replaced_by']} for {row['phrase']}"
        pairs.append(
            "<figure>" + _picture(before.get(row["image_id"]), label, row["p_before"], "as it was")
            + _picture(row["png"], label, row["p_after"], change) + "</figure>"
        )  # fmt: skip
    return f'<div class="pairs">{"".join(pairs) or "<p>No edit of this feature could be made.</p>"}</div>'


def _picture(png: bytes | None, label: str, probability: float, text: str) -> str:
    """A picture, a bar as long as the probability, and both in words."""
    words = escape(f"{text}: {label} {probability:.0%}")
    data = "" if png is None else base64.b64encode(png).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{words}">' if data else ""
    return f'{image}<div class="bar"><i style="width:{probability:.0%}"></i></div><figcaption>{words}</figcaption>'
