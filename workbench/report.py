"""One self-contained HTML page: text, tables, pictures, curves and provenance, without scripts and without a network.

report = Report("Quickstart")
report.heading("Pictures")
report.figure(images, "Sixteen samples", columns=8)
report.write("runs/quickstart/report.html")
"""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from workbench.errors import UserError
from workbench.files import user_errors_for_disk, write_atomic
from workbench.line_chart import Point, legend, line_chart
from workbench.pictures import Images, encode_png, image_grid

CELL_PIXELS = 64  # on the screen; small images are enlarged by a whole number
WIDEST_CELL = 250  # of images with labels; larger ones are shown smaller

STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5b6570; --page: #fff; --line: #d9dee3; --panel: #f5f7f9;
  --s0: #0b66c3; --s1: #c8374d; --s2: #23804a; --s3: #9a6700; --s4: #7445b5; --s5: #4d5866; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --soft: #9aa5b1; --page: #14171a; --line: #343b42;
  --panel: #1d2226; --s0: #6cb2ff; --s1: #ff8a95; --s2: #63c98f; --s3: #e6b84c; --s4: #c09cf0; --s5: #aab4c2; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 56rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; }
h1 { font-size: 1.9rem; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .8rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 1.8rem 0 .6rem; }
p, ul.text { max-width: 42rem; margin: .7rem 0; overflow-wrap: break-word; }
a { color: var(--s0); }
code, pre { font: .88em/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { background: var(--panel); border-radius: .25rem; padding: .1em .3em; overflow-wrap: anywhere; }
nav { background: var(--panel); border-radius: .5rem; padding: .7rem 1rem; }
nav ol { margin: .3rem 0 0; padding-left: 1.3rem; columns: 16rem auto; }
figure { margin: 1.2rem 0; }
figcaption, caption { color: var(--soft); font-size: .9rem; text-align: left; max-width: 42rem; }
figcaption { padding-top: .45rem; }
caption { padding-bottom: .45rem; }
.scroll { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .9rem .38rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--soft); white-space: nowrap; }
.number { text-align: right; }
img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; }
.labelled { display: grid; gap: .6rem .5rem; padding: 0; margin: 0; list-style: none; font-size: .78rem;
  grid-template-columns: repeat(auto-fill, minmax(min(var(--cell), 100%), 1fr)); line-height: 1.3;
  overflow-wrap: anywhere; }
.chart { display: block; width: 100%; max-width: 36rem; height: auto; }
.chart text { fill: var(--text); font-size: 14px; }
.chart .label { fill: var(--soft); }
.chart .grid { stroke: var(--line); fill: none; }
.chart .axis { stroke: var(--soft); fill: none; }
[class^="series-"] { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.dot { stroke-width: 7; }
.series-0 { stroke: var(--s0); } .series-1 { stroke: var(--s1); } .series-2 { stroke: var(--s2); }
.series-3 { stroke: var(--s3); } .series-4 { stroke: var(--s4); } .series-5 { stroke: var(--s5); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; margin: .2rem 0 0;
  font-size: .9rem; }
.legend svg { vertical-align: middle; }
details { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .9rem; margin: .8rem 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; max-height: 30rem; }
.statement { margin: .9rem 0; padding: .1rem .9rem .3rem; border-left: 4px solid var(--kind); max-width: 42rem; }
.statement p { margin: .4rem 0; }
.badge { font-size: .8rem; color: var(--kind); border: 1px solid var(--kind); border-radius: .7rem; padding: 0 .55rem; }
.measured { --kind: var(--s2); } .model { --kind: var(--s5); } .generated { --kind: var(--s3); }
@media print { nav { display: none; } details { border: 0; } }
"""


class Report:
    """A page that is built from top to bottom. All strings may hold anything: they are shown as they are, never run.

    Every method but `write` returns the report, so that calls can be chained.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []
        self._headings: list[str] = []

    def heading(self, text: str, level: int = 2) -> "Report":
        """A section (level 2, listed in the table of contents) or a part of one (level 3)."""
        if level not in (2, 3):
            raise UserError(f"A heading of level {level} was asked for; use 2 for a section or 3 for a part of one.")
        if level == 2:
            self._headings.append(text)
            return self._add(f'<h2 id="section-{len(self._headings)}">{escape(text)}</h2>')
        return self._add(f"<h3>{escape(text)}</h3>")

    def text(self, paragraphs: str) -> "Report":
        """Paragraphs between blank lines; `- ` starts a list item, `**bold**` and backquoted `code` are marked."""
        for block in re.split(r"\n\s*\n", paragraphs.strip()):
            self._add(_text_block(block))
        return self

    def statement(self, text: str, badge: str, kind: Literal["measured", "model", "generated"]) -> "Report":
        """A text as it is, nothing in it marked, below a badge that says whose it is, in the colour of its kind."""
        return self._add(
            f'<div class="statement {kind}"><span class="badge">{escape(badge)}</span><p>{escape(text)}</p></div>'
        )

    def table(self, rows: Sequence[Mapping[str, Any]], caption: str) -> "Report":
        """One row per mapping, columns in order of appearance; floats with 4 digits, what is missing as a dash."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        head = "".join(f"<th scope='col'{_number_class(rows, column)}>{escape(column)}</th>" for column in columns)
        body = "".join(
            f"<tr>{''.join(f'<td{_number_class(rows, c)}>{_cell(row.get(c))}</td>' for c in columns)}</tr>"
            for row in rows
        )
        label = escape(caption)
        return self._add(
            f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table><caption>{label}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def figure(
        self, images: Images, caption: str, labels: Sequence[str] | None = None, columns: int | None = None
    ) -> "Report":
        """A grid of uint8 images (gray or colour, any sizes); with `labels`, each image with its own below it.

        Small images are enlarged without smoothing. `columns` holds for a grid without labels, which is one picture.
        """
        if labels is not None and len(labels) != len(images):
            raise UserError(f"{len(images)} images came with {len(labels)} labels; give one label per image.")
        scale = max(1, round(CELL_PIXELS / max(max(image.shape[1:]) for image in images))) if len(images) else 1
        if labels is None:
            content = _picture(encode_png(image_grid(images, columns)), caption, scale)
        else:
            pictures = zip(images, labels, strict=True)
            items = (
                f"<li>{_picture(encode_png(image), label, scale)}{escape(label)}</li>" for image, label in pictures
            )
            cell = min(WIDEST_CELL, 8 + scale * max((image.shape[2] for image in images), default=CELL_PIXELS))
            content = f'<ul class="labelled" style="--cell: {cell}px">{"".join(items)}</ul>'
        return self._figure(content, caption)

    def curve(self, series: Mapping[str, Sequence[Point]], x_label: str, y_label: str, caption: str) -> "Report":
        """A line chart of (x, y) points per named series; points that are not finite interrupt a line."""
        content = line_chart(series, x_label, y_label)
        return self._figure(content + (legend(list(series)) if len(series) > 1 else ""), caption)

    def details(self, summary: str, content: Any) -> "Report":
        """What only some readers want, folded away: text as it is, anything else as JSON."""
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False, default=str)
        return self._add(f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>")

    def html(self) -> str:
        """The whole page."""
        title = escape(self.title)
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{title}</h1></header>\n{self._contents()}<main>\n"
            + "\n".join(self._parts)
            + "\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the page, whole or not at all; a file that is there is a `UserError` unless `overwrite`."""
        path = Path(path)
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists already; choose another file, or overwrite it with --overwrite.")
        with user_errors_for_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, self.html())
        return path

    def _add(self, part: str) -> "Report":
        self._parts.append(part)
        return self

    def _figure(self, content: str, caption: str) -> "Report":
        return self._add(f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>")

    def _contents(self) -> str:
        if len(self._headings) < 2:
            return ""
        items = (
            f'<li><a href="#section-{number}">{escape(text)}</a></li>'
            for number, text in enumerate(self._headings, start=1)
        )
        return f'<nav aria-label="Contents"><strong>Contents</strong><ol>{"".join(items)}</ol></nav>\n'


def _text_block(block: str) -> str:
    lines = [line.strip() for line in block.splitlines()]
    if all(line.startswith("- ") for line in lines):
        return f'<ul class="text">{"".join(f"<li>{_marked(line[2:])}</li>" for line in lines)}</ul>'
    return f"<p>{_marked(' '.join(lines))}</p>"


def _marked(text: str) -> str:
    """Escaped text with code and bold marked; nothing inside code is marked."""
    pieces = re.split(r"`([^`]+)`", escape(text))
    plain = [re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", piece) for piece in pieces[::2]]
    code = [f"<code>{piece}</code>" for piece in pieces[1::2]]
    return "".join(part for pair in zip(plain, [*code, ""], strict=True) for part in pair)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number_class(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    values = [row[column] for row in rows if row.get(column) is not None]
    return ' class="number"' if values and all(map(_is_number, values)) else ""


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _picture(png: bytes, alternative: str, scale: int) -> str:
    width, height = (int.from_bytes(png[start : start + 4], "big") * scale for start in (16, 20))  # the PNG header
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alternative)}" width="{width}" height="{height}">'
