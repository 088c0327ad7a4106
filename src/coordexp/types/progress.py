"""How a long step reports progress without knowing who shows it. The command line hands in a bar; nobody needs one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Example: `for record in progress.track(records, "rescale", total=len(records)): …`"""

    def track(self, items: Iterable[T], description: str, *, total: int | None = None, count: Callable[[T], int] | None = None) -> Iterator[T]:
        """The items as they come; `count` says how many of what is counted an item holds, one by default."""
        ...

    def say(self, sentence: str) -> None:
        """One line that stays."""
        ...


class NoProgress:
    """Shows nothing."""

    def track(self, items: Iterable[T], description: str, *, total: int | None = None, count: Callable[[T], int] | None = None) -> Iterator[T]:
        yield from items

    def say(self, sentence: str) -> None:
        return None
