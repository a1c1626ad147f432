"""The data set's card: what is in it, how it was made, what was measured, what it should not be trusted for.

`README.md` opens with the YAML header that Hugging Face tools read, and shows `grid.png`, a fair draw of each
class.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw, ImageFont

from workbench.dataset_format import read_dataset_info, write_dataset_info
from workbench.errors import UserError
from workbench.files import user_errors_for_disk, write_atomic
from workbench.png_files import open_image
from workbench.survey import Survey

CARD_KEYS = {
    "title": "heading, the folder's name unless given",
    "description": "what the images are and what they are for, one paragraph",
    "license": "identifier such as apache-2.0",
    "limits": "sentences on what the set should not be trusted for, besides those that the counts show",
    "measured": "measure -> number, or mapping with `value`, `n` images, feature `network`, `note`",
}
GRID_CLASSES = 20
CELL_LONGEST = 96  # larger images are shown smaller
CELL_SHORTEST = 64  # smaller ones by whole multiples
SIZE_CATEGORIES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def check_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card's entries, once known to be some of `CARD_KEYS`; `UserError` for another."""
    if unknown := card.keys() - CARD_KEYS.keys():
        raise UserError(f"A card has no entry {min(unknown)!r}: choose from {', '.join(CARD_KEYS)}.")
    return dict(card)


def update_card(folder: str | Path, **card: Any) -> None:
    """Change entries of a complete set's card (see `CARD_KEYS`), such as `measured`, and rewrite `README.md`."""
    folder = Path(folder)
    info = read_dataset_info(folder)
    info["card"] = {**info.get("card", {}), **check_card(card)}
    with user_errors_for_disk(folder):
        write_atomic(folder / "README.md", render_card(info))
        write_dataset_info(folder, info)


# ------------------------------------------------------------------------------ text


def render_card(info: Mapping[str, Any]) -> str:
    """The text of `README.md` for the content of a `dataset.json`."""
    card = info.get("card", {})
    header = yaml.safe_dump(_header(info), sort_keys=False, allow_unicode=True, width=1000)
    sections = [
        f"---\n{header}---",
        f"# {_cell(card.get('title', 'Data set'))}",
        card.get("description", ""),
        "![Examples of each class, drawn by checksum](grid.png)",
        "## Contents\n\n" + _contents(info),
        "## How it was made\n\n" + _origin(info),
        "## Measured\n\n" + _measured(card.get("measured", {})),
        "## Known limits\n\n" + "\n".join(f"- {limit}" for limit in [*_limits(info), *card.get("limits", [])]),
        "## How to load it\n\n" + _loading(info),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _total(info: Mapping[str, Any]) -> int:
    return sum(counts["total"] for counts in info["counts"].values())


def _synthetic(info: Mapping[str, Any]) -> int:
    """Images that are known not to be real."""
    return sum(n for source, n in info.get("sources", {}).items() if source not in ("real", "not stated"))


def _header(info: Mapping[str, Any]) -> dict[str, Any]:
    total = _total(info)
    header: dict[str, Any] = {}
    if license_name := info.get("card", {}).get("license"):
        header["license"] = license_name
    header["task_categories"] = ["image-classification"]
    header["tags"] = ["synthetic", "workbench"] if _synthetic(info) else ["workbench"]
    header["size_categories"] = [next((name for limit, name in SIZE_CATEGORIES if total < limit), "n>10M")]
    return header


def _contents(info: Mapping[str, Any]) -> str:
    splits = list(info["counts"])
    rows = [[name, *(info["counts"][split]["per_class"][name] for split in splits)] for name in info["classes"]]
    if any(counts["unlabelled"] for counts in info["counts"].values()):
        rows.append(["(no label)", *(info["counts"][split]["unlabelled"] for split in splits)])
    rows.append(["all", *(info["counts"][split]["total"] for split in splits)])
    sizes = [[f"{size['height']} x {size['width']}", size["count"]] for size in info["sizes"]]
    return _table(["class", *splits], rows) + "\n\n" + _table(["height x width", "images"], sizes)


def _origin(info: Mapping[str, Any]) -> str:
    origins = [f"{_count(n, 'image')} {_cell(source)}" for source, n in info.get("sources", {}).items()]
    lines = [f"Source: {', '.join(origins)}."]
    for generator in info.get("generators", []):
        lines.append(f"Generator: {_cell(generator['name'])}, checksum {_code(generator['checksum'] or 'not stated')}.")
    for parent in info.get("parents", []):
        lines.append(f"Made from: {_cell(parent['name'])}, checksum {_code(parent.get('checksum') or 'not stated')}.")
    if info.get("command"):
        lines.append(f"Command: {_code(info['command'])}")
    if info.get("seed") is not None:
        lines.append(f"Seed: {info['seed']}.")
    versions = ", ".join(f"{name} {version}" for name, version in info.get("versions", {}).items())
    lines.append(f"Written {info.get('created', 'at an unknown time')} with {versions or 'unknown versions'}.")
    lines.append("All settings are in `dataset.json`; the provenance of each image is in `metadata.jsonl`.")
    return "\n".join(f"- {line}" for line in lines)


def _measured(measured: Mapping[str, Any]) -> str:
    if not measured:
        return "Nothing was measured on this set."
    rows = []
    for name, figure in measured.items():
        entry = figure if isinstance(figure, Mapping) else {"value": figure}
        value = f"{entry['value']:.4g}" if isinstance(entry["value"], float) else entry["value"]
        rows.append([name, value, *(entry.get(key, "not stated") for key in ("n", "network")), entry.get("note", "")])
    return _table(["measure", "value", "images", "feature network", "note"], rows)


def _limits(info: Mapping[str, Any]) -> Iterable[str]:
    """What the counts themselves show."""
    if synthetic := _synthetic(info):
        yield (
            f"{synthetic} of {_count(_total(info), 'image')} are not real. Where an image was generated "
            "for a class, its label is the class asked for; nobody checked that the picture shows it."
        )
    if unstated := info.get("sources", {}).get("not stated"):
        yield f"The source of {_count(unstated, 'image')} is not stated."
    for split, counts in info["counts"].items():
        per_class = counts["per_class"].values()
        if missing := [name for name, count in counts["per_class"].items() if not count]:
            yield f"{split}: no image of {', '.join(map(_cell, missing))}."
        elif max(per_class, default=0) > 2 * min(per_class, default=0):
            yield f"{split}: the classes are unbalanced, {min(per_class)} to {max(per_class)} images each."
    if not info.get("card", {}).get("measured"):
        yield "Its quality as training data was not measured."


def _loading(info: Mapping[str, Any]) -> str:
    split = next(iter(info["counts"]))
    names = (
        f'\ndataset = dataset.cast_column("label", ClassLabel(names={info["classes"]!r}))' if info["classes"] else ""
    )
    return f"""As an image folder (`workbench export` also writes parquet and WebDataset shards):

```python
from datasets import ClassLabel, load_dataset

dataset = load_dataset("imagefolder", data_dir="THIS_FOLDER", split="{split}"){names}
```

`workbench verify THIS_FOLDER` checks every file against the checksums."""


def _table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: Any) -> str:
    """Text that can break neither a table nor a line, nor become HTML."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("<", "&lt;").strip()


def _code(text: str) -> str:
    return "`" + re.sub(r"\s+", " ", str(text)).replace("`", "'") + "`"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ------------------------------------------------------------------------------ picture


def draw_grid(folder: Path, classes: Sequence[str], surveys: Mapping[str, Survey]) -> Image.Image:
    """Examples of the first split, one class a row with its name before them; unlabelled ones come last."""
    split, survey = next(iter(surveys.items()))
    labels = [label for label in [*range(len(classes)), -1] if survey.example_files(label)][:GRID_CLASSES]
    rows = [[_fitted(open_image(folder, name, split)) for name in survey.example_files(label)] for label in labels]
    names = [" ".join(classes[label].split())[:24] if label >= 0 else "(no label)" for label in labels]
    font = ImageFont.load_default(14)
    margin = max(int(font.getlength(name)) for name in names) + 12
    side = max(max(image.size) for row in rows for image in row) + 4
    grid = Image.new("RGB", (margin + side * max(map(len, rows)), side * len(rows)), "white")
    draw = ImageDraw.Draw(grid)
    for line, (name, row) in enumerate(zip(names, rows, strict=True)):
        draw.text((6, line * side + side // 2), name, "black", font, anchor="lm")
        for place, image in enumerate(row):
            left = margin + place * side + (side - image.width) // 2
            grid.paste(image, (left, line * side + (side - image.height) // 2))
    return grid


def _fitted(image: Image.Image) -> Image.Image:
    """Small images enlarged by whole multiples (pixels stay visible), large ones reduced; aspects are kept."""
    image = image.convert("RGB")
    image.thumbnail((CELL_LONGEST, CELL_LONGEST))
    multiple = max(1, CELL_SHORTEST // max(image.size))
    return image.resize((image.width * multiple, image.height * multiple), Image.Resampling.NEAREST)
