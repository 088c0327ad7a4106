"""The page of a data set's numbers: one HTML file without scripts, like the report. Every text that comes from data is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from coordexp.data.stats import GRID, DataStats, Histogram
from coordexp.viz.charts import Bar, Marker, Series, line_chart
from coordexp.viz.page import asset, content_policy, page_environment

_SHOWN_LABELS = 40
_SHOWN_SIZES = 12
_LENGTH_BINS = 30


def render_stats(stats: DataStats) -> str:
    """The page as text.

    Raises:
        BackendError: jinja2 is not installed.
    """
    labels = stats.labels.most_common()
    shown = labels if len(labels) <= 2 * _SHOWN_LABELS else [*labels[:_SHOWN_LABELS], *labels[-_SHOWN_LABELS:]]
    return (
        page_environment()
        .get_template("stats.html.j2")
        .render(
            style=asset("report.css") + asset("stats.css"),
            policy=content_policy([]),
            stats=stats,
            tail=stats.tail(),
            charts=_charts(stats),
            heat_map=heat_map(stats.centres.tolist(), title="Centres of boxes"),
            labels=[(name, count, stats.label_images[name]) for name, count in shown],
            num_hidden=len(labels) - len(shown),
            sizes=stats.image_sizes.most_common(_SHOWN_SIZES),
            num_hidden_sizes=max(0, len(stats.image_sizes) - _SHOWN_SIZES),
        )
    )


def heat_map(counts: Sequence[Sequence[int]], *, title: str) -> str:
    """An `<svg>` of cells [row][column], darker the more there are; each has its number as a tooltip."""
    most = max(1, max(map(max, counts)))
    cells = [
        f'<rect x="{column}" y="{row}" width="1" height="1" fill-opacity="{math.sqrt(count / most):.3f}"><title>{count}</title></rect>'
        for row, line in enumerate(counts)
        for column, count in enumerate(line)
    ]
    return f'<svg class="heat" viewBox="0 0 {GRID} {GRID}" role="img" aria-label="{escape(title)}: at most {most} in a cell">{"".join(cells)}</svg>'


def _charts(stats: DataStats) -> list[tuple[str, str]]:
    """(title, safe markup)"""
    charts = [
        ("Objects in an image", _count_chart(stats)),
        ("Side of a box as a share of the image's (square root of the areas' ratio)", _histogram(stats.size_histogram, "share")),
        ("Aspect ratio of boxes, log2(width / height)", _histogram(stats.aspect_histogram, "log2(width / height)")),
    ]
    if len(stats.labels) > 1:
        charts.append(("Objects of a label by its rank, as powers of ten", _tail_chart(stats)))
    if stats.lengths is not None:
        charts.append(("Tokens of a sample", _length_chart(stats)))
    return charts


def _count_chart(stats: DataStats) -> str:
    """Above 60 objects in bins."""
    most = max(stats.objects_per_image)
    step = max(1, math.ceil((most + 1) / 60))
    counts = [0] * (most // step + 1)
    for number, images in stats.objects_per_image.items():
        counts[number // step] += images
    edges = tuple(float(place * step) for place in range(len(counts) + 1))
    return _histogram(Histogram(edges, tuple(counts)), "objects")


def _tail_chart(stats: DataStats) -> str:
    counts = [count for _, count in stats.labels.most_common()]
    ranks = tuple(float(place) for place in range(1, len(counts) + 1))
    heights = tuple(math.log10(count) for count in counts)
    return line_chart([Series("labels", ranks, heights)], title="Objects of a label by its rank", x_name="rank", y_range=(0.0, max(heights[0] * 1.05, 0.1)))


def _length_chart(stats: DataStats) -> str:
    assert stats.lengths is not None
    lengths, limit = stats.lengths.lengths, stats.lengths.limit
    high = max(max(lengths) + 1, (limit or 0) * 1.02)
    counts, edges = np.histogram(lengths, bins=_LENGTH_BINS, range=(0, high))
    marks = () if limit is None else (Marker(float(limit), float(counts.max()), f"limit {limit}"),)
    return _histogram(Histogram(tuple(float(edge) for edge in edges), tuple(counts.tolist())), "tokens", markers=marks)


def _histogram(histogram: Histogram, name: str, *, markers: Sequence[Marker] = ()) -> str:
    bars = [
        Bar(low, high, float(count), f"{low:g} to {high:g}: {count}")
        for low, high, count in zip(histogram.edges[:-1], histogram.edges[1:], histogram.counts, strict=True)
        if count
    ]
    top = max(1.0, max(histogram.counts) * 1.08)
    return line_chart([], title=name, x_name=name, x_range=(histogram.edges[0], histogram.edges[-1]), y_range=(0.0, top), bars=bars, markers=markers)
