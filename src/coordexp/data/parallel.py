"""Work on many files in several processes, with the results in order: what comes out does not depend on the number of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeVar

from coordexp.types.errors import BackendError, UserError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4
"""Items a process that are handed out before their turn: enough that none waits, few enough that memory stays flat."""
_ITEMS_A_WORKER = 64
"""Starting a process costs as much time as a few dozen images."""


def choose_workers(asked: int, *, num_items: int) -> int:
    """Processes to use: as asked; 0: one a processor, as far as there is work for them."""
    return asked or max(1, min(os.cpu_count() or 1, num_items // _ITEMS_A_WORKER))


def in_batches(items: Iterable[T], *, size: int, weigh: Callable[[T], int] | None = None) -> Iterator[list[T]]:
    """The items in lists of at least `size` items, or of that weight, but for the last one. What `items` raises comes after what came before it."""
    batch, weight = list[T](), 0
    failure: list[UserError] = []
    for item in _until_error(items, failure):
        batch.append(item)
        weight += 1 if weigh is None else weigh(item)
        if weight >= size:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch
    if failure:
        raise failure[0]


def map_in_order(work: Callable[[T], R], items: Iterable[T], *, workers: int = 1) -> Generator[R]:
    """`map(work, items)`, by `workers` processes when there are several; reads `items` only a little ahead.

    `work`, items and results must be picklable. Processes are spawned, so a script that asks for them needs `if __name__ == "__main__":`. They ignore
    Ctrl-C, which is for the caller, and end when the caller is killed. Close the generator when it is not taken to its end.

    Raises:
        BackendError: a process was killed.
        Exception: what `work` raises; what was handed out is waited for, nothing more is begun.
        UserError: what `items` raises, after the results of what came before.
    """
    if workers <= 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        waiting: deque[Future[R]] = deque()
        failure: list[UserError] = []
        try:
            for item in _until_error(items, failure):
                with _without_ctrl_c():
                    waiting.append(pool.submit(work, item))
                if len(waiting) >= workers * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            if failure:
                raise failure[0]
        except BrokenProcessPool as error:
            fix = "use fewer --workers if memory ran out; what is done stays done"
            raise BackendError("a worker process was killed", where="workers", fix=fix) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _until_error(items: Iterable[T], failure: list[UserError]) -> Iterator[T]:
    try:
        yield from items
    except UserError as error:
        failure.append(error)


@contextmanager
def _without_ctrl_c() -> Generator[None]:
    """A process that is started now is deaf to Ctrl-C from its first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's process would wait for work for ever when its parent is killed: it holds both ends of its queue."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
