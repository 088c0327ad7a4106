"""A chain of named steps, each done once: a step whose settings, predecessors and outputs are unchanged is reused.

A step is recorded after its work has ended, by an atomic write; a killed run repeats at most the step it was in.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import coordexp
from coordexp.types.files import write_text
from coordexp.types.progress import NoProgress, Progress

Check: TypeAlias = Callable[[dict[str, Any]], bool]


def _accept(_: dict[str, Any]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a finished step left behind. Example: `StepRecord(result={"f1_50": 0.41}, seconds=12.5, is_reused=False)`"""

    result: dict[str, Any]
    seconds: float
    is_reused: bool


@dataclass(slots=True)
class StepChain:
    """Steps in order; each one's key holds its settings and the keys of all steps before it.

    Example:
        chain = StepChain(Path("output/demo/.steps"))
        counts = chain.run("import", settings={"boxes": True}, outputs=[jsonl], work=lambda: {"images": 200}).result
    """

    folder: Path
    progress: Progress = field(default_factory=NoProgress)
    _digest: str = field(default=coordexp.__version__, init=False)
    _records: dict[str, StepRecord] = field(default_factory=dict[str, StepRecord], init=False)

    def run(self, name: str, *, settings: dict[str, Any], outputs: Sequence[Path], work: Callable[[], dict[str, Any]], check: Check = _accept) -> StepRecord:
        """Do `work` unless a step of this name with the same settings and predecessors has been done and all `outputs` still exist.

        Args:
            name: names the record file; unique in the chain.
            settings: JSON-serializable; everything that decides the result, content hashes of input files included.
            outputs: files or folders that the step makes.
            work: returns a JSON-serializable result, kept in the record.
            check: looks at a kept result; False: the outputs are not those that it speaks of, and the work is done again.
        """
        self._digest = hashlib.sha256(json.dumps([self._digest, name, settings], sort_keys=True).encode()).hexdigest()
        record_path = self.folder / f"{name}.json"
        record = self._reusable(record_path, outputs, check)
        if record is None:
            start = time.perf_counter()
            result = work()
            record = StepRecord(result=result, seconds=round(time.perf_counter() - start, 2), is_reused=False)
            write_text(record_path, json.dumps({"digest": self._digest, "result": result, "seconds": record.seconds}, indent=2) + "\n")
        self._records[name] = record
        return record

    def _reusable(self, record_path: Path, outputs: Sequence[Path], check: Check) -> StepRecord | None:
        if not record_path.exists() or not all(path.exists() for path in outputs):
            return None
        stored = json.loads(record_path.read_text(encoding="utf-8"))
        if stored["digest"] != self._digest or not check(stored["result"]):
            return None
        self.progress.say(f"{record_path.stem}: unchanged, reused")
        return StepRecord(result=stored["result"], seconds=stored["seconds"], is_reused=True)

    @property
    def seconds(self) -> float:
        """Work time of all steps so far, reused ones counted with the time they took when they were done."""
        return sum(record.seconds for record in self._records.values())

    @property
    def num_reused(self) -> int:
        return sum(record.is_reused for record in self._records.values())
