"""Charts: every point where it belongs, whatever the values."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.line_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, format_tick, legend, line_chart


def paths(svg: str, series: int = 0) -> list[list[tuple[float, float]]]:
    """The corners of each unbroken piece of a series."""
    elements = [e for e in ElementTree.fromstring(svg).iter("path") if f"series-{series}" in e.get("class", "").split()]
    pairs = [re.findall(r"([-\d.]+) ([-\d.]+)", element.get("d", "")) for element in elements]
    return [[(float(x), float(y)) for x, y in piece] for piece in pairs]


def test_points_lie_where_the_axes_say() -> None:
    (line,) = paths(line_chart({"loss": [(0, 0), (50, 1), (100, 4)]}, "step", "loss"))
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    assert line[0] == (LEFT, bottom)
    assert line[2] == (right, TOP)
    assert line[1] == pytest.approx(((LEFT + right) / 2, bottom - (bottom - TOP) / 4), abs=0.06)


def test_values_that_are_not_finite_break_the_line() -> None:
    values = [1, 2, math.nan, 3, math.inf, 2, 1, 1]
    pieces = paths(line_chart({"loss": list(enumerate(values))}, "step", "loss"))
    assert [len(piece) for piece in pieces] == [2, 1, 3]


def test_a_point_alone_is_a_dot_and_nothing_says_so() -> None:
    one = line_chart({"a": [(3, 5)]}, "x", "y")
    assert "dot" in one
    assert len(paths(one)) == 1
    for line in ([], [(0.0, math.nan)]):
        svg = line_chart({"a": line}, "x", "y")
        ElementTree.fromstring(svg)
        assert "no finite values" in svg


def test_names_cannot_break_out() -> None:
    svg = line_chart({"<script>": [(0, 1), (1, 2)]}, "<x>", '"y" & z')
    texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
    assert "<x>" in texts
    assert '"y" & z' in texts
    assert "<script>" not in svg + legend(["<script>"])


def test_the_description_reads_the_last_values() -> None:
    svg = line_chart({"train": [(0, 3), (10, 0.5)], "empty": []}, "step", "loss")
    assert ElementTree.fromstring(svg).findtext("desc") == "train ends at 0.5 for 10"


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    (line,) = paths(line_chart({"a": [(i, i) for i in range(5001)]}, "x", "y"))
    assert 100 < len(line) <= 602
    assert line[-1] == (WIDTH - RIGHT, TOP)


finite = st.floats(-1e12, 1e12, allow_nan=False)


@example([(0.0, 5e-324), (1e-300, 0.0)])
@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8))
def test_any_finite_points_lie_inside_the_axes(points: list[tuple[float, float]]) -> None:
    corners = [corner for piece in paths(line_chart({"a": points}, "x", "y")) for corner in piece]
    assert len(corners) == len(points)
    assert all(LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1 for x, y in corners)


@settings(max_examples=80, deadline=None)
@given(finite, st.floats(1e-6, 1e9))
def test_ticks_are_few_and_cover_the_values(low: float, span: float) -> None:
    high = low + span
    axis = Axis.covering([low, high])
    assert 2 <= len(axis.ticks) <= 10
    assert axis.low <= low + 1e-6 * span
    assert axis.high >= high - 1e-6 * span


def test_ticks_are_round_numbers() -> None:
    assert [format_tick(tick) for tick in Axis.covering([0.02, 0.98]).ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [format_tick(tick) for tick in Axis.covering([0, 2000]).ticks] == ["0", "500", "1,000", "1,500", "2,000"]
    assert format_tick(-2.5) == "\N{MINUS SIGN}2.5"
