"""The report: well-formed, self-contained, and nothing that a user writes is run."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from workbench.errors import UserError
from workbench.pictures import image_grid
from workbench.report import Report
from workbench.seeds import generator

VOID = {"meta", "img", "br", "hr", "link"}
EVIL = "<script>alert('1')</script><img src=x onerror=alert(2)> \"quoted\" & 'so'"


class Page(HTMLParser):
    """Checks that every element is closed by its own tag; keeps elements and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def noise(count: int, channels: int = 1, height: int = 6, width: int = 9) -> Tensor:
    return torch.randint(256, (count, channels, height, width), generator=generator(count), dtype=torch.uint8)


def full_report(words: str) -> Report:
    """Every kind of part, with the given words wherever words go."""
    report = Report(words).heading(words).text(words).heading(words, level=3).heading(words)
    report.table([{words: words, "n": 3}], words)
    report.figure(noise(3), words).figure(noise(2, 3), words, labels=[words, words])
    report.curve({words: [(0, 1), (1, 2)], "b": []}, words, words, words)
    return report.details(words, words).details(words, {words: [words]})


def decoded(attributes: dict[str, str]) -> Tensor:
    kind, data = attributes["src"].split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return torch.from_numpy(np.array(picture))


@pytest.mark.parametrize("words", ["plain", EVIL])
def test_the_page_is_well_formed_and_self_contained(words: str) -> None:
    html = full_report(words).html()
    page = Page(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "base", "form"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert all(attributes.get(name, "data:").startswith(("data:", "#")) for name in ("src", "href", "srcset"))
    assert not re.search(r"url\(|@import|https?:", html)
    assert [a["id"] for a in page.all("h2")] == [a["href"][1:] for a in page.all("a")] == ["section-1", "section-2"]


def test_words_are_shown_as_they_are() -> None:
    page = Page(full_report(EVIL).html())
    assert page.text.count(EVIL) >= 12
    assert [len(page.all(tag)) for tag in ("h1", "h2", "h3", "img", "svg", "details")] == [1, 2, 1, 3, 3, 2]
    assert all(image["alt"] == EVIL for image in page.all("img"))


def test_text_has_paragraphs_lists_bold_and_code() -> None:
    html = Report("t").text("One **bold**\nline.\n\n- a `x < **y**`\n- b & c\n\nTwo 2 ** 3 ** 4 is `code`").html()
    assert "<p>One <strong>bold</strong> line.</p>" in html
    assert '<ul class="text"><li>a <code>x &lt; **y**</code></li><li>b &amp; c</li></ul>' in html
    assert "is <code>code</code></p>" in html
    Page(html)


def test_tables_have_all_columns_and_readable_numbers() -> None:
    rows = [{"name": "a", "value": 0.123456, "count": 12345}, {"name": "b", "value": math.nan, "extra": True}]
    html = Report("t").table(rows, "Values").html()
    cells = re.findall(r"<t[dh]( [^>]*|)>([^<]*)<", html)
    dash = "\N{EN DASH}"
    assert [text for _, text in cells] == [
        *("name", "value", "count", "extra", "a", "0.1235", "12,345", dash, "b", dash, dash, "yes")
    ]
    assert ["number" in attributes for attributes, _ in cells[4:8]] == [False, True, True, False]
    Page(Report("t").table([], "Nothing").html())


def test_figures_hold_the_pixels_enlarged_without_smoothing() -> None:
    images = noise(5, 3)
    html = Report("t").figure(images, "Five", columns=2).html()
    (attributes,) = Page(html).all("img")
    grid = image_grid(images, columns=2)
    assert torch.equal(decoded(attributes), grid.permute(1, 2, 0))
    assert (int(attributes["width"]), int(attributes["height"])) == (grid.shape[2] * 7, grid.shape[1] * 7)
    assert "image-rendering: pixelated" in html


def test_labelled_figures_show_each_image_with_its_label() -> None:
    images = [noise(1)[0], noise(1, 3, 4, 5)[0]]
    page = Page(Report("t").figure(images, "Two", labels=["first", "second"]).html())
    pictures = page.all("img")
    assert [picture["alt"] for picture in pictures] == ["first", "second"]
    assert torch.equal(decoded(pictures[0]), images[0][0])
    assert torch.equal(decoded(pictures[1]), images[1].permute(1, 2, 0))
    assert "second" in page.text
    with pytest.raises(UserError, match="2 images came with 1 labels"):
        Report("t").figure(images, "Two", labels=["first"])


def test_impossible_parts_are_refused() -> None:
    with pytest.raises(UserError, match="at least one image"):
        Report("t").figure([], "None")
    with pytest.raises(UserError, match="level 5"):
        Report("t").heading("deep", level=5)


def test_details_are_json_that_reads_back() -> None:
    provenance = {"seed": 3, "path": Path("a/b"), "name": "Hémd <b>"}
    page = Page(Report("t").details("Provenance", provenance).html())
    assert json.loads(page.text[page.text.index("{") :]) == {"seed": 3, "path": "a/b", "name": "Hémd <b>"}


def test_a_curve_has_a_legend_only_where_there_is_a_choice() -> None:
    line = [(0.0, 1.0), (1.0, 2.0)]
    assert 'class="legend"' not in Report("t").curve({"one": line}, "x", "y", "c").html()
    page = Page(Report("t").curve({"one": line, "two": line}, "x", "y", "c").html())
    assert "one" in page.text
    assert "two" in page.text


def test_writing_is_whole_and_never_over_another_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert Report("Hémd").write(path) == path
    assert path.read_text(encoding="utf-8") == Report("Hémd").html()
    with pytest.raises(UserError, match="exists already"):
        Report("other").write(path)
    Report("other").write(path, overwrite=True)
    assert "<h1>other</h1>" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(UserError, match="part of that path is a file"):
        Report("t").write(path / "below.html")


def test_statements_are_shown_as_they_are_below_whose_they_are() -> None:
    page = Report("x").statement("**a** `b` <i>c</i>", "a model & co", "generated").html()
    assert '<div class="statement generated"><span class="badge">a model &amp; co</span>' in page
    assert "<p>**a** `b` &lt;i&gt;c&lt;/i&gt;</p>" in page
