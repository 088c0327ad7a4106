"""A comparison on the console."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordexp.evaluation.compare import Change, Comparison, GroupChange
from coordexp.viz.comparison_data import HEADLINES, chance_sentence, spell_share

_MAX_CLASSES = 8
"""That are shown of those that gained most, and of those that lost most."""

_OTHER_COLUMNS = 62
"""Width of the numbers beside the name of a class."""


def print_comparison(comparison: Comparison, *, file: TextIO | None = None) -> None:
    """To stdout when `file` is None."""
    console = Console(file=file, highlight=False)
    name_a, name_b = comparison.names
    console.print(Text(f"A  {name_a}\nB  {name_b}"))
    if not comparison.is_comparable:
        warning = f"WARNING: not comparable, the rules differ: {'; '.join(comparison.rule_differences)}"
        console.print(Text(warning, style="bold red"), soft_wrap=True)
    console.print(_overall(comparison))
    if comparison.by_class:
        console.print(_classes(comparison.by_class, name_width=max(12, min(32, console.width - _OTHER_COLUMNS))))
    if comparison.num_resamples:
        console.print(Text(chance_sentence(comparison)), soft_wrap=True)
    gained, lost = sum(len(row.gained) for row in comparison.images), sum(len(row.lost) for row in comparison.images)
    console.print(Text(f"{len(comparison.images)} images changed: {gained} objects gained, {lost} lost"))


def _overall(comparison: Comparison) -> Table:
    table = _table("")
    for key, name in HEADLINES:
        if key in comparison.metrics:
            _add(table, Text(name), comparison.metrics[key])
    for title, rows in (("size", comparison.by_size), ("objects", comparison.by_num_objects)):
        if rows:
            table.add_row()
        for row in rows:
            _add(table, Text(f"F1, {title} {row.name}"), row.f1)
    return table


def _classes(rows: Sequence[GroupChange], *, name_width: int) -> Table:
    """The ends of the list; what lies between is in compare.json."""
    table = _table("class, F1 at 0.50", counts=True)
    middle = len(rows) - 2 * _MAX_CLASSES
    shown = rows if middle <= 0 else [*rows[:_MAX_CLASSES], None, *rows[-_MAX_CLASSES:]]
    for row in shown:
        if row is None:
            table.add_row(Text(f"… {middle} more"))
        else:
            name = Text(row.name or "(no name)")
            name.truncate(name_width, overflow="ellipsis")
            _add(table, name, row.f1, f"{row.counts_a.num_gt:,}")
    return table


def _table(first: str, *, counts: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=" ", title_justify="left")
    table.add_column(first, no_wrap=True)
    for name in (*(("truths",) if counts else ()), "A", "B", "B - A", "95 % interval", "B above"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _add(table: Table, name: Text, change: Change, *more: str) -> None:
    style = "" if not change.is_clear else "green" if change.delta > 0 else "red"
    interval = "" if change.low is None or change.high is None else f"[{change.low:+.3f}, {change.high:+.3f}]"
    delta = Text(f"{change.delta:+.3f}", style=style)
    table.add_row(name, *more, f"{change.a:.3f}", f"{change.b:.3f}", delta, Text(interval, style=style), spell_share(change))
