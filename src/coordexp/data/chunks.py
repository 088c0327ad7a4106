"""A record file in pieces of whole lines, so that several processes can work on one file and memory does not grow with it.

The pieces are the same for every number of processes, and their results come in the order of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from coordexp.data.jsonl import open_records, scan_lines
from coordexp.data.parallel import choose_workers, in_batches, map_in_order
from coordexp.data.rules import RecordReader
from coordexp.types.lines import iter_file_lines
from coordexp.types.records import Record

R = TypeVar("R")

CHUNK_BYTES = 1 << 18
"""A few hundred records: to hand them to another process costs little beside the work on them."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Example: `Chunk(first=412, content=two_lines)`"""

    first: int
    """Number of the first line, from 1."""
    content: bytes
    """Whole lines."""

    def scan(self, reader: RecordReader) -> Iterator[Record | None]:
        """Records in order; None for a line that breaks a rule, `reader.violations` then says which."""
        return scan_lines(BytesIO(self.content), reader, first=self.first)


def map_chunks(work: Callable[[Chunk], R], path: Path, *, workers: int) -> Generator[R]:
    """What `work` makes of each piece of a record file, in order.

    Args:
        work: picklable, as its results.
        path: a JSONL file.
        workers: processes, no more than there are pieces; 0: one a processor, as far as the file is long enough to repay their start.

    Raises:
        DataError: the file cannot be opened, or a line is too long for a record.
        BackendError: a worker process was killed.
    """
    with open_records(path) as stream:
        num = max(1, math.ceil(path.stat().st_size / CHUNK_BYTES))
        yield from map_in_order(work, _chunks(iter_file_lines(stream, path)), workers=min(num, choose_workers(workers, num_items=num)))


def _chunks(lines: Iterable[bytes]) -> Iterator[Chunk]:
    first = 1
    for batch in in_batches(lines, size=CHUNK_BYTES, weigh=len):
        yield Chunk(first, b"".join(batch))
        first += len(batch)
