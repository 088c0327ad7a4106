"""The tests in two processes: which process runs what. `tools/run_tests.sh` starts them; with `-n 0`, or without xdist, all runs in one.

A test file is run by one worker, so that what its tests share is made once. The files whose tests share the vLLM server of the run are one piece of work, for
the worker that starts the server while it runs another piece. Whole commands come first and the short unit tests last: no worker waits long in the end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

_SERVER = "vllm server"
_OWNER = "gw0"
_FEW = 4  # with so few pieces, nothing is gained by another one before the server's
_FIRST_TO_LAST = ("tests/e2e/", "tests/invariant/", "tests/test_", "tests/contract/", "tests/unit/")
_ASKS = re.compile(r"[( ]vllm_server[:,)]")


def starts_server() -> bool:
    """Whether this process is the one whose tests share the server."""
    return os.environ.get("PYTEST_XDIST_WORKER", _OWNER) == _OWNER


def check_server_files(items: Iterable[pytest.Item]) -> None:
    """The process that hands out the work sees names and sources alone.

    Raises:
        pytest.UsageError: a test gets the server through a fixture of another file.
    """
    for path in {item.path for item in items if "vllm_server" in getattr(item, "fixturenames", ())}:
        if not _asks_for_server(path):
            raise pytest.UsageError(f"{path}: its tests use vllm_server and the file does not say so; name the fixture in it")


def _asks_for_server(path: Path) -> bool:
    return path.is_file() and _ASKS.search(path.read_text(encoding="utf-8")) is not None


class TwoWorkers(LoadFileScheduling):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pieces: dict[str, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if file not in self._pieces:
            self._pieces[file] = _SERVER if _asks_for_server(self.config.rootpath / file) else file
        return self._pieces[file]

    def _assign_work_unit(self, node: Any) -> None:
        if node.gateway.id == _OWNER and _SERVER in self.workqueue:  # its first: the server's piece goes with it, before the other worker can take that
            if len(self.workqueue) >= _FEW:
                self._assign_first(node)
            self.workqueue.move_to_end(_SERVER, last=False)
            super()._assign_work_unit(node)
        else:
            self._assign_first(node)

    def _assign_first(self, node: Any) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=_rank), last=False)
        super()._assign_work_unit(node)


def _rank(piece: str) -> int:
    """Small is early; the server's piece is the last for a worker that does not start the server."""
    found = (rank for rank, start in enumerate(_FIRST_TO_LAST) if piece.startswith(start))
    return len(_FIRST_TO_LAST) + 1 if piece == _SERVER else next(found, len(_FIRST_TO_LAST))
