"""Line charts as inline SVG. Colours come from the page's style sheet, so that one chart serves light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal, TypeAlias

WIDTH, HEIGHT = 380, 230
"""User units; drawn at about this size in pixels on every screen, so text keeps its size."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 12, 12, 40
_MAX_POINTS = 240

Tone: TypeAlias = Literal["main", "soft", "second", "third", "raw"]
"""`main`: the run; `soft`: what it is compared with; `raw`: background of a smoothed line, without a read-out."""

Range: TypeAlias = tuple[float, float]
UNIT: Range = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Series:
    """One line. Example: `Series("train", (1, 2, 3), (0.9, 0.5, 0.4))`"""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    """Finite values."""
    tone: Tone = "main"
    is_dashed: bool = False


@dataclass(frozen=True, slots=True)
class Marker:
    """A point that stands out, with a text beside it. Example: `Marker(0.41, 0.70, "best F1 0.70")`"""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A column from 0 to `height`; `note` is its tooltip."""

    x_low: float
    x_high: float
    height: float
    note: str


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_name: str,
    x_range: Range | None = None,
    y_range: Range | None = None,
    bars: Sequence[Bar] = (),
    markers: Sequence[Marker] = (),
    height: int = HEIGHT,
) -> str:
    """An `<svg>` element; the title is its accessible name. The points travel along as JSON for the page's read-out.

    Without ranges the axes span the points. `series` may be empty when ranges are given.
    """
    drawn = [thin_out(line) for line in series if line.x]
    x_low, x_high = x_range or _padded([x for line in drawn for x in line.x], share=0.0)
    y_low, y_high = y_range or _padded([y for line in drawn for y in line.y], share=0.06)
    plot = _Plot(x_low, x_high, y_low, y_high, height)
    read_out, frame = _attribute(_read_out(drawn, plot)), _attribute([_LEFT, plot.bottom, WIDTH - _LEFT - _RIGHT, plot.bottom - _TOP])
    names = f'aria-label="{escape(_describe(title, series))}" data-x="{escape(x_name)}"'
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" {names} data-frame="{frame}" data-series="{read_out}">',
        *(_horizontal(plot, tick) for tick in nice_ticks(y_low, y_high, count=4)),
        *(_vertical(plot, tick) for tick in nice_ticks(x_low, x_high, count=5)),
        f'<text class="axis" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{height - 5}">{escape(x_name)}</text>',
        *(_bar(plot, bar) for bar in bars),
        *(_line(plot, line) for line in drawn),
        f'<line class="cursor" x1="0" x2="0" y1="{_TOP}" y2="{plot.bottom}" visibility="hidden"/>',
        *(_marker(plot, marker) for marker in markers),
        "</svg>",
    ]
    return "".join(parts)


def nice_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Round values in [low, high], about `count` of them, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [tick * step for tick in range(first, last + 1)]


def smooth(values: Sequence[float], *, window: int) -> tuple[float, ...]:
    """Mean over the values up to `window` places around each."""
    half = max(0, window // 2)
    return tuple(math.fsum(part) / len(part) for part in (values[max(0, place - half) : place + half + 1] for place in range(len(values))))


def thin_out(line: Series) -> Series:
    """At most some hundred points, each the mean of its neighbours."""
    if len(line.x) <= _MAX_POINTS:
        return line
    bounds = [round(place * len(line.x) / _MAX_POINTS) for place in range(_MAX_POINTS + 1)]
    spans = [(low, high) for low, high in pairwise(bounds) if high > low]
    x = tuple(math.fsum(line.x[low:high]) / (high - low) for low, high in spans)
    y = tuple(math.fsum(line.y[low:high]) / (high - low) for low, high in spans)
    return Series(line.name, x, y, line.tone, line.is_dashed)


def short_number(value: float) -> str:
    """Example: `short_number(0.00012) == "1.2e-4"`, `short_number(12000) == "12k"`"""
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 10_000:
        return f"{value / 1000:.4g}k"
    if size < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class _Plot:
    """From values to user units."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    height: int

    @property
    def bottom(self) -> int:
        return self.height - _BOTTOM

    def x(self, value: float) -> float:
        return round(_LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT), 2)

    def y(self, value: float) -> float:
        return round(_TOP + (self.y_high - value) / (self.y_high - self.y_low) * (self.bottom - _TOP), 2)


def _padded(values: Sequence[float], *, share: float) -> Range:
    low, high = min(values), max(values)
    margin = (high - low) * share
    if high - low <= abs(high) * 1e-9:
        margin = abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _horizontal(plot: _Plot, tick: float) -> str:
    y = plot.y(tick)
    line = f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
    return f'{line}<text class="tick y" x="{_LEFT - 7}" y="{y + 3.5}">{short_number(tick)}</text>'


def _vertical(plot: _Plot, tick: float) -> str:
    return f'<text class="tick x" x="{plot.x(tick)}" y="{plot.bottom + 16}">{short_number(tick)}</text>'


def _bar(plot: _Plot, bar: Bar) -> str:
    left, right, top = plot.x(bar.x_low) + 1, plot.x(bar.x_high) - 1, plot.y(bar.height)
    shape = f'x="{left:g}" y="{top:g}" width="{max(right - left, 0.5):.4g}" height="{max(plot.bottom - top, 0):.4g}"'
    return f'<rect class="bar" {shape}><title>{escape(bar.note)}</title></rect>'


def _line(plot: _Plot, line: Series) -> str:
    classes = f"line {line.tone}" + (" dashed" if line.is_dashed else "")
    if len(line.x) == 1:
        return f'<circle class="{classes}" cx="{plot.x(line.x[0])}" cy="{plot.y(line.y[0])}" r="3"/>'
    points = " ".join(f"{plot.x(x)},{plot.y(y)}" for x, y in zip(line.x, line.y, strict=True))
    return f'<polyline class="{classes}" points="{points}"/>'


def _marker(plot: _Plot, marker: Marker) -> str:
    """The text stands on the side with more room."""
    x, y = plot.x(marker.x), plot.y(marker.y)
    is_right = x > WIDTH / 2
    side, shift = (" left", -8) if is_right else ("", 8)
    return f'<circle class="marker" cx="{x}" cy="{y}" r="4"/><text class="note{side}" x="{x + shift}" y="{y - 7}">{escape(marker.text)}</text>'


def _read_out(drawn: Sequence[Series], plot: _Plot) -> list[dict[str, object]]:
    """For each line that is read: positions in user units and texts."""
    return [
        {
            "name": line.name,
            "px": [plot.x(x) for x in line.x],
            "at": [short_number(x) for x in line.x],
            "text": [short_number(y) for y in line.y],
        }
        for line in drawn
        if line.tone != "raw" and not line.is_dashed
    ]


def _attribute(value: object) -> str:
    return escape(json.dumps(value, separators=(",", ":")))


def _describe(title: str, series: Sequence[Series]) -> str:
    lines = [f"{line.name} from {short_number(line.y[0])} to {short_number(line.y[-1])}" for line in series if line.x and line.tone != "raw"]
    return f"{title}: {', '.join(lines)}" if lines else title
