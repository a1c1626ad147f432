"""A line chart as inline SVG: axes, ticks, and one line per series that differs in colour and in dashes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

WIDTH, HEIGHT = 480, 300  # no wider, so that the text stays readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 62, 28, 30, 50
MOST_POINTS = 600  # a line of more is thinned: the eye sees no difference, the page stays small
DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "12 4")

SMALLEST, LARGEST = 1e-100, 1e100  # beyond these, steps and ranges are not safe in float64

Number = int | float
Point = tuple[Number, Number]


@dataclass(frozen=True)
class Axis:
    """A range of values, and round values in it at which to put ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def covering(cls, values: Sequence[Number], count: int = 5) -> "Axis":
        """An axis with about `count` ticks on which all values lie; a single value gets room on both sides."""
        low, high = min(values), max(values)
        if high - low <= max(1e-12 * max(abs(low), abs(high)), SMALLEST):
            room = max(abs(low) / 2, SMALLEST) if low else 1.0
            low, high = low - room, high + room
        step = _round_step((high - low) / count)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(index * step for index in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks)

    def fraction(self, value: Number) -> float:
        """Where a value lies, from 0 (low) to 1 (high)."""
        return (value - self.low) / (self.high - self.low)


def line_chart(series: Mapping[str, Sequence[Point]], x_label: str, y_label: str) -> str:
    """The `<svg>` element of a chart of (x, y) points, in the order given; the page's classes `series-0` ... colour it.

    A point that is not finite interrupts its line; one that stands alone is a dot. A title and a description with
    the last value of each series serve those who cannot see it.
    """
    points = [point for line in series.values() for point in line if _finite(point)]
    title = f"<title>{escape(y_label)} against {escape(x_label)}</title><desc>{escape(_description(series))}</desc>"
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{title}'
    if not points:
        return f'{head}<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no finite values</text></svg>'
    x_axis = Axis.covering([x for x, _ in points], count=4)
    y_axis = Axis.covering([y for _, y in points])
    lines = [_line(line, index, x_axis, y_axis) for index, line in enumerate(series.values())]
    return head + _frame(x_axis, y_axis, x_label, y_label) + "".join(lines) + "</svg>"


def legend(names: Sequence[str]) -> str:
    """A list of the series' names with samples of their lines, as text of the page, which is readable on a phone."""
    samples = "".join(
        f'<li><svg viewBox="0 0 32 8" width="32" height="8" aria-hidden="true"><path class="series-{index % 6}"'
        f'{_dashes(index)} d="M0 4H32"/></svg> {escape(name)}</li>'
        for index, name in enumerate(names)
    )
    return f'<ul class="legend">{samples}</ul>'


def format_tick(value: Number) -> str:
    """A short number: 0.25, 1,500, 2e+06."""
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 and value == int(value) else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _frame(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in y_axis.ticks:
        y = _y(y_axis, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{format_tick(tick)}</text>')
    for tick in x_axis.ticks:
        x = _x(x_axis, tick)
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v5"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{format_tick(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>')
    parts.append(f'<text class="label" x="8" y="16">{escape(y_label)}</text>')
    parts.append(f'<text class="label" x="{right}" y="{HEIGHT - 8}" text-anchor="end">{escape(x_label)}</text>')
    return "".join(parts)


def _line(points: Sequence[Point], index: int, x_axis: Axis, y_axis: Axis) -> str:
    parts = []
    for finite, run in groupby(_thinned(points), _finite):
        corners = [f"{_x(x_axis, x):.1f} {_y(y_axis, y):.1f}" for x, y in run] if finite else []
        if len(corners) == 1:
            parts.append(f'<path class="series-{index % 6} dot" d="M{corners[0]}h0"/>')
        elif corners:
            parts.append(f'<path class="series-{index % 6}"{_dashes(index)} d="M{"L".join(corners)}"/>')
    return "".join(parts)


def _dashes(index: int) -> str:
    return f' stroke-dasharray="{DASHES[index % 6]}"' if index % 6 else ""


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    stride = -(-len(points) // MOST_POINTS)
    return points if stride <= 1 else [*points[::stride], points[-1]]


def _description(series: Mapping[str, Sequence[Point]]) -> str:
    last = {name: [point for point in line if _finite(point)][-1:] for name, line in series.items()}
    texts = [f"{name} ends at {format_tick(p[0][1])} for {format_tick(p[0][0])}" for name, p in last.items() if p]
    return "; ".join(texts) or "no finite values"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return power * min((1, 2, 2.5, 5, 10), key=lambda nice: abs(nice - step / power))


def _x(axis: Axis, value: Number) -> float:
    return LEFT + axis.fraction(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: Number) -> float:
    return HEIGHT - BOTTOM - axis.fraction(value) * (HEIGHT - BOTTOM - TOP)


def _finite(point: Point) -> bool:
    return all(abs(value) < LARGEST for value in point)  # false for NaN
