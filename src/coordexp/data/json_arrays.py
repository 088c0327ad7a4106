"""Long arrays inside a JSON file, element by element: the file is read in pieces, and of each element only its place is kept.

Brackets and strings are all that is looked at to tell elements apart. What is left of the file when every run of elements with a comma between each two is
written as one `0` is small and is decoded as usual, so that together with the elements, which are decoded one by one, the whole file is checked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

_PIECE = 1 << 20
_LONGEST = 1 << 26
"""Bytes of one element or string; more is no annotation."""
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|"', re.DOTALL)
"""A whole string, a bracket, or the beginning of a string that goes on in the next piece."""


_COMMA = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_LONGEST_GAP = 256
"""Bytes between two elements of a run."""


class ArrayScanner:
    """Finds the objects in arrays of the outermost object of a file; afterwards `rest` is the file with `0` in place of each run of them.

    Example:
        scanner = ArrayScanner(path, ["annotations"])
        found = [(start, decode(element)) for key, start, element in scanner]
        document = decode(scanner.rest)
    """

    def __init__(self, path: Path, keys: Iterable[str]) -> None:
        self._path, self._keys = path, {b'"' + key.encode() + b'"': key for key in keys}
        """Not found yet, as they are spelled in the file."""
        self.rest = bytearray()
        """Complete when all elements have been taken."""
        self.num_runs: Counter[str] = Counter()
        """Zeros in `rest` that stand for elements, by the key of the array."""
        self._gap, self._is_in_run = b"", False
        """What follows an element, as long as the next one can belong to its run."""
        self._depth, self._last, self._array = 0, b"", ""
        """Key of the array that we are in."""

    def __iter__(self) -> Iterator[tuple[str, int, bytes]]:
        """(key of the array, place in the file, bytes) of each object.

        Raises:
            ValueError: a string does not end.
            OSError: the file cannot be read.
        """
        # all places count from the beginning of the file; the buffer holds what follows `base`
        buffer, base, seen, copied, start = b"", 0, 0, 0, -1
        with self._path.open("rb") as stream:
            while piece := stream.read(_PIECE):
                kept = seen if start < 0 else start
                self._copy(buffer[copied - base : kept - base])
                buffer, base = buffer[kept - base :] + piece, kept
                copied = kept
                if len(buffer) > _LONGEST:
                    raise ValueError("a string or an element does not end")
                for match in _TOKEN.finditer(buffer, seen - base):
                    seen = base + match.end()
                    if match[0] == b'"':
                        seen -= 1
                        break
                    if self._begins_element(match[0]):
                        start = base + match.start()
                        self._copy(buffer[copied - base : start - base])
                        self._begin_element()
                        copied = start
                    elif start >= 0 and self._depth == 2:
                        yield self._array, start, buffer[start - base : seen - base]
                        copied, start = seen, -1
                else:
                    seen = base + len(buffer)
        if seen < base + len(buffer):
            raise ValueError("a string does not end")
        self._copy(buffer[copied - base :])
        self.rest += self._gap

    def _copy(self, text: bytes) -> None:
        self._gap += text
        if not self._is_in_run or len(self._gap) > _LONGEST_GAP:
            self.rest += self._gap
            self._gap, self._is_in_run = b"", False

    def _begin_element(self) -> None:
        if not (self._is_in_run and _COMMA.fullmatch(self._gap)):
            self.rest += self._gap + b"0"
            self.num_runs[self._array] += 1
        self._gap, self._is_in_run = b"", True

    def _begins_element(self, token: bytes) -> bool:
        """Follow one token; whether it is the opening brace of an element."""
        if token in (b"{", b"["):
            self._depth += 1
            if self._depth == 2 and token == b"[":
                self._array = self._keys.pop(self._last, "")
            return self._depth == 3 and token == b"{" and self._array != ""
        if token in (b"}", b"]"):
            self._depth -= 1
            if self._depth < 2:
                self._array = ""
        else:
            self._last = token
        return False
