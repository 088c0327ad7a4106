"""Line charts as inline SVG. Colours come from the page's style sheet, so that one chart serves light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 360, 200
"""User units; drawn at about this size in pixels on every screen, so text keeps its size."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 26
_MAX_POINTS = 240


@dataclass(frozen=True, slots=True)
class Series:
    """One line. Example: `Series("train", (1, 2, 3), (0.9, 0.5, 0.4))`"""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    """Finite values."""
    is_faint: bool = False
    """Background of a smoothed line."""


def line_chart(series: Sequence[Series], *, title: str, x_name: str, y_range: tuple[float, float] | None = None) -> str:
    """An `<svg>` element; the title is its accessible name. The points travel along as JSON for the page's read-out."""
    drawn = [thin_out(line) for line in series if line.x]
    xs, ys = [x for line in drawn for x in line.x], [y for line in drawn for y in line.y]
    x_low, x_high = _padded(min(xs), max(xs), share=0.0)
    y_low, y_high = y_range or _padded(min(ys), max(ys), share=0.06)
    plot = _Plot(x_low, x_high, y_low, y_high)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_describe(title, series))}" '
        f'data-series="{escape(json.dumps(_read_out(drawn, plot)))}" data-x="{escape(x_name)}">',
        *(_horizontal(plot, tick) for tick in nice_ticks(y_low, y_high, count=4)),
        *(_vertical(plot, tick) for tick in nice_ticks(x_low, x_high, count=5)),
        *(_polyline(plot, line, place) for place, line in enumerate(drawn)),
        f'<line class="cursor" x1="0" x2="0" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" visibility="hidden"/></svg>',
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
    return Series(line.name, x, y, line.is_faint)


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
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return round(_LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - _LEFT - _RIGHT), 2)

    def y(self, value: float) -> float:
        return round(_TOP + (self.y_high - value) / (self.y_high - self.y_low) * (HEIGHT - _TOP - _BOTTOM), 2)


def _padded(low: float, high: float, *, share: float) -> tuple[float, float]:
    margin = (high - low) * share
    if high - low <= abs(high) * 1e-9:
        margin = abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _horizontal(plot: _Plot, tick: float) -> str:
    y = plot.y(tick)
    line = f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
    return f'{line}<text class="tick y" x="{_LEFT - 6}" y="{y + 3.5}">{short_number(tick)}</text>'


def _vertical(plot: _Plot, tick: float) -> str:
    return f'<text class="tick x" x="{plot.x(tick)}" y="{HEIGHT - 8}">{short_number(tick)}</text>'


def _polyline(plot: _Plot, line: Series, place: int) -> str:
    classes = f"line s{place}" + (" faint" if line.is_faint else "")
    if len(line.x) == 1:
        return f'<circle class="{classes}" cx="{plot.x(line.x[0])}" cy="{plot.y(line.y[0])}" r="3"/>'
    points = " ".join(f"{plot.x(x)},{plot.y(y)}" for x, y in zip(line.x, line.y, strict=True))
    return f'<polyline class="{classes}" points="{points}"/>'


def _read_out(drawn: Sequence[Series], plot: _Plot) -> list[dict[str, object]]:
    """For each visible line: pixel positions and texts."""
    return [
        {
            "name": line.name,
            "px": [plot.x(x) for x in line.x],
            "at": [short_number(x) for x in line.x],
            "text": [short_number(y) for y in line.y],
        }
        for line in drawn
        if not line.is_faint
    ]


def _describe(title: str, series: Sequence[Series]) -> str:
    lines = [f"{line.name} from {short_number(line.y[0])} to {short_number(line.y[-1])}" for line in series if line.x and not line.is_faint]
    return f"{title}: {', '.join(lines)}"
