"""Work done ahead of its consumer by threads, in order and bounded: images are decoded while the model generates, servers get the next window in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], *, num_threads: int, depth: int) -> Iterator[R]:
    """`map` by `num_threads` threads; at most `depth` results are under way or waiting to be taken.

    An error appears where its result would have been. When the consumer stops, what has not begun is dropped; what has begun ends by itself.

    Example: `map_ahead(load, paths, num_threads=2, depth=4)`
    """
    assert num_threads > 0, num_threads
    assert depth > 0, depth
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
