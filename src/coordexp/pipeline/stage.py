"""The stage `infer` from opened parts to its files: `gt_vs_pred.jsonl` and `summary.json`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from coordexp.evaluation.score_calibration import ScoreCalibration
from coordexp.generation.protocol import BackendInfo
from coordexp.pipeline.artifacts import ArtifactPaths, write_json
from coordexp.pipeline.counts import RunCounts
from coordexp.pipeline.infer import Inference, InferenceSettings
from coordexp.pipeline.journal import check_lines
from coordexp.pipeline.mode import ModeChoice
from coordexp.pipeline.result_file import ResultWriter
from coordexp.pipeline.source import SourceLine
from coordexp.types.files import file_sha256
from coordexp.types.predictions import SampleResult
from coordexp.types.progress import Progress


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What the summary says besides counts."""

    mode: ModeChoice
    backend: BackendInfo
    settings: InferenceSettings
    batch_size: int
    """Records that the backend is asked to generate together; a window holds one batch or more."""
    fingerprint: str
    """Of everything that decides the results: only a run with the same one goes on with what is written."""
    shard: Mapping[str, Any] | None = None
    """Which part of a run this is: what `merge_parts` wants to know."""


def write_predictions(
    inference: Inference,
    lines: Iterable[SourceLine],
    *,
    total: int,
    paths: ArtifactPaths,
    facts: StageFacts,
    progress: Progress,
    is_resumed: bool = True,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Run all windows that are not written yet and write both files; returns the summary.

    Args beside the obvious.
        lines: all of the run, those whose results are written too.
        total: how many they are.
        is_resumed: False: what an interrupted run has written is thrown away.
        begin: called once it is certain that no other run writes here; it may replace the other files of the run.

    Raises:
        OutputError: the disk is full, another run writes here, or what is written belongs to other lines.
        BackendError: the backend does not work; what is written stays, and the next start goes on behind it.
    """
    with ResultWriter(paths.gt_vs_pred, fingerprint=facts.fingerprint, is_resumed=is_resumed) as writer:
        source, done = iter(lines), writer.done
        check_lines(done.lines, [line.identity for line in islice(source, len(done.lines))], where=paths.gt_vs_pred)
        begin()
        inference.counts = RunCounts.restore(done.last.counts)
        if done.marks:
            progress.say(f"goes on behind record {len(done.lines)} of {total}")
        clock = _Clock(done.last.seconds)
        for _ in progress.track(_written(inference, source, writer, clock), "infer", total=total - len(done.lines)):
            pass
        summary = _summary(inference.counts, total=total, facts=facts, seconds=clock.seconds)
        if facts.shard is not None:
            summary["shard"] = {**facts.shard, "sha256": file_sha256(writer.partial), "counts": inference.counts.snapshot()}
        writer.finish(before=lambda: write_json(paths.summary, summary))
    return summary


class _Clock:
    """Seconds of work, those of earlier starts included."""

    def __init__(self, before: float) -> None:
        self._start = time.perf_counter() - before

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start


def _written(inference: Inference, lines: Iterable[SourceLine], writer: ResultWriter, clock: _Clock) -> Iterator[SampleResult]:
    """The results, each after the window that it belongs to has been written."""
    for window in inference.run(lines):
        identities = [line.identity for line in window.lines]
        writer.append(window.results, lines=identities, counts=inference.counts.snapshot(), seconds=clock.seconds)
        yield from window.results


def _summary(counts: RunCounts, *, total: int, facts: StageFacts, seconds: float) -> dict[str, Any]:
    base = {
        "mode": facts.mode.mode,
        "mode_reason": facts.mode.reason,
        "mode_records": facts.mode.num_records,
        "pred_coord_mode": facts.settings.pred_coord_mode,
        "coord_decode": "argmax" if facts.settings.expectation_window is None else "expectation",
        "coord_decode_window": facts.settings.expectation_window,
        "calibration": _calibration_facts(facts.settings.calibration),
        "backend": {
            **asdict(facts.backend),
            "generation": asdict(facts.settings.generation),
            "batch_size": facts.batch_size,
            "window": facts.settings.window,
        },
        "determinism": facts.backend.determinism,
    }
    return with_counts(base, counts, total=total, seconds=seconds)


def _calibration_facts(calibration: ScoreCalibration | None) -> dict[str, Any] | None:
    """Without the curve: it stands in the file that the manifest names."""
    if calibration is None:
        return None
    return {"method": calibration.method, **{name: value for name, value in calibration.as_dict().items() if name != "curve"}}


def with_counts(base: Mapping[str, Any], counts: RunCounts, *, total: int, seconds: float) -> dict[str, Any]:
    """`summary.json` from what is fixed and what was counted. `seconds` of work: of several parts, their sum."""
    speed = {
        "seconds": round(seconds, 3),
        "generation_seconds": round(counts.generation_s, 3),
        "images_per_s": round(counts.total_emitted / seconds, 3),
        "new_tokens": counts.num_tokens,
        "tokens_per_s": round(counts.num_tokens / counts.generation_s, 1) if counts.generation_s else None,
    }
    return {**base, **counts.as_dict(total_read=total), "speed": speed}


def describe_summary(summary: Mapping[str, Any], predictions: Path) -> str:
    """One sentence with numbers for the console."""
    objects, speed = summary["objects"], summary["speed"]
    failed = f", {summary['total_failed']} failed ({', '.join(summary['error_codes'])})" if summary["total_failed"] else ""
    images = "1 image" if summary["total_emitted"] == 1 else f"{summary['total_emitted']} images"
    return f"{images}{failed}: {objects['kept']} objects, {speed['tokens_per_s'] or 0:.0f} tokens/s: {predictions}"
