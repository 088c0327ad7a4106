"""A record file of which only the place of each line is kept in memory: a record is read when it is asked for."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

from coordexp.data.jsonl import as_error, is_blank, open_records, read_line
from coordexp.data.rules import RecordReader
from coordexp.types.lines import iter_file_lines
from coordexp.types.records import CoordSpace, Record


class RecordFile(Sequence[Record]):
    """The records of a JSONL file by position. Any thread may ask; reading a line waits for a lock, decoding it does not.

    Example: `RecordFile(Path("train.jsonl"))[411].id == "train:412"`
    """

    def __init__(
        self,
        path: Path,
        *,
        coord_space: CoordSpace | None = None,
        limit: int = 0,
        dataset: str = "",
        convert: Callable[[Record], Record] = lambda record: record,
    ) -> None:
        """Args as those of `iter_records`; `convert` changes each record that is read.

        Raises:
            DataError: the file cannot be opened, or a line is too long for a record.
        """
        self._path = path
        self._coord_space: CoordSpace | None = coord_space
        self._dataset = dataset
        self._convert = convert
        self._file = open_records(path)
        self._lock = threading.Lock()
        self._starts, self._numbers = array("q"), array("q")
        start = 0
        for number, line in enumerate(iter_file_lines(self._file, path), start=1):
            if not is_blank(line, number=number):
                self._starts.append(start)
                self._numbers.append(number)
                if len(self._starts) == limit:
                    break
            start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """Raises DataError for a line that breaks a rule; it names the line."""
        if isinstance(index, slice):
            return [self._read(place) for place in range(*index.indices(len(self)))]
        return self._read(range(len(self))[index])

    def _read(self, place: int) -> Record:
        with self._lock:
            self._file.seek(self._starts[place])
            line = self._file.readline()
        reader = RecordReader(self._path.stem, coord_space=self._coord_space, dataset=self._dataset)
        record = read_line(line, reader, number=self._numbers[place])
        if record is None:
            raise as_error(self._path, reader.violations[0])
        return self._convert(record)

    def close(self) -> None:
        self._file.close()
