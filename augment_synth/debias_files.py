"""What `workbench debias` leaves: features.json, pictures of edits, the augmented data set, its groups as CSV."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from augment_synth.aspire import Discovery
from augment_synth.debias_data import DebiasData
from augment_synth.edit_log import EditRow
from augment_synth.scoring import ScoredFeature
from augment_synth.synthetic import Synthetic, decoded, pixels_hash
from workbench.files import make_folder, user_errors_for_disk, write_atomic
from workbench.pictures import encode_png, image_grid
from workbench.records import DatasetWriter

PAIRS = 8  # shown of each feature
SHARD = 1000


def feature_record(feature: ScoredFeature, label_names: Sequence[str]) -> dict[str, Any]:
    """A feature as features.json holds it."""
    return {"class": label_names[feature.label], **asdict(feature)}


def write_features(path: Path, discovery: Discovery, mode: str) -> None:
    """The ranking with its evidence, who did what, and what must be known."""
    names = discovery.editing.subject.data.label_names
    content = {
        "mode": mode,
        "features": [feature_record(feature, names) for feature in discovery.ranking],
        "components": [asdict(component) for component in discovery.components],
        "notes": list(discovery.notes),
    }
    with user_errors_for_disk(path):
        write_atomic(path, json.dumps(content, indent=1) + "\n")


def pair_rows(discovery: Discovery, feature: ScoredFeature) -> list[EditRow]:
    """Edits to show of a feature: those that flipped first."""
    own = [
        row for row in discovery.rows
        if row.made and not row.placebo and (row.label, row.kind) == (feature.label, feature.kind)
        and row.phrase in feature.phrases
    ]  # fmt: skip
    return sorted(own, key=lambda row: (-row.flipped, row.position))[:PAIRS]


def write_pairs(folder: Path, discovery: Discovery) -> list[Path]:
    """A picture for each tried feature with edits: originals above, edits below."""
    make_folder(folder)
    data = discovery.editing.subject.data
    size = (data.images.shape[-2], data.images.shape[-1])
    written = []
    for number, feature in enumerate(discovery.ranking):
        rows = pair_rows(discovery, feature)
        if rows:
            both = torch.cat([data.images[[row.position for row in rows]], decoded(rows, size)])
            words = "-".join("".join(c if c.isalnum() else "-" for c in data.label_names[feature.label]).split("-"))
            path = folder / f"{number:02d}-{words}-{feature.kind}-{feature.name.replace(' ', '-')}.png"
            write_atomic(path, encode_png(image_grid(both, columns=len(rows))))
            written.append(path)
    return written


# ---- the augmented data set ------------------------------------------------------------------------------------------


def write_augmented(
    folder: Path, data: DebiasData, discovery: Discovery, synthetic: Synthetic, identity: dict[str, Any], name: str
) -> Path:
    """All training images, then the synthetic ones, each with where it is from; only a training split, since nothing
    synthetic is ever tested on."""
    writer = DatasetWriter(folder, data.label_names, {**identity, "synthetic": len(synthetic)}, shard_size=SHARD)
    total = len(data) + len(synthetic)
    for shard in writer.missing_shards(total):
        first, last = shard * SHARD, min((shard + 1) * SHARD, total)
        own = slice(max(0, first - len(data)), max(0, last - len(data)))
        images = torch.cat([data.images[first:last], synthetic.images[own]])
        rows = [_real_row(data, discovery, position) for position in range(first, min(last, len(data)))]
        writer.write_shard(shard, images, [*rows, *synthetic.rows[own]])
    card = {"description": f"{name} with {len(synthetic)} synthetic images without its spurious features."}
    return writer.finish(card, command=f"workbench debias {name}", config=identity, seed=identity.get("seed"))


def _real_row(data: DebiasData, discovery: Discovery, position: int) -> dict[str, Any]:
    features = discovery.editing.subject.features[position]
    return {
        "label": int(data.labels[position]), "source": "real", "parent": data.ids[position],
        "parent_sha256": pixels_hash(data, position), "caption": features.caption, "extractor_raw": features.raw,
        "background": features.background,
    }  # fmt: skip


def write_group_csv(path: Path, augmented: Path, output: Path) -> None:
    """metadata.csv as the loaders of group DRO, DFR, BalancingGroups and SubpopBench read it.

    `place` (and `a`) is the number of the background that the caption names or the edit gave, -1 where none is known:
    what the images are said to show, not a checked group.
    """
    rows = [json.loads(line) for line in (augmented / "train" / "metadata.jsonl").read_text().splitlines()]
    places = sorted({row["background"] for row in rows if row.get("background")})
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["img_id", "img_filename", "filename", "y", "split", "place", "a", "place_name", "source"])
    for number, row in enumerate(rows):
        name = (augmented / "train" / row["file_name"]).relative_to(output).as_posix()
        place = places.index(row["background"]) if row.get("background") else -1
        writer.writerow([number, name, name, row["label"], 0, place, place, row.get("background"), row["source"]])
    with user_errors_for_disk(path):
        write_atomic(path, table.getvalue())


def background_shares(synthetic: Synthetic, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """How the new images of each class are spread over new backgrounds: a new correlation would show here."""
    pairs = [(row["label"], row["replaced_by"] or "not told") for row in synthetic.rows]
    counts, totals = Counter(pairs), Counter(label for label, _ in pairs)
    return [
        {"class": label_names[label], "background": name, "images": count, "share": count / totals[label]}
        for (label, name), count in sorted(counts.items())
    ]
