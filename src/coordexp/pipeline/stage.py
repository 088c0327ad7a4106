"""The stage `infer` from opened parts to its files: `gt_vs_pred.jsonl` and `summary.json`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordexp.generation.protocol import BackendInfo
from coordexp.pipeline.artifacts import ArtifactPaths, ResultWriter, write_json
from coordexp.pipeline.counts import RunCounts
from coordexp.pipeline.infer import Inference, InferenceSettings
from coordexp.pipeline.mode import ModeChoice
from coordexp.pipeline.source import SourceLine
from coordexp.types.predictions import SampleResult
from coordexp.types.progress import Progress


@dataclass(frozen=True, slots=True)
class StageFacts:
    """What the summary says besides counts."""

    mode: ModeChoice
    backend: BackendInfo
    settings: InferenceSettings


def write_predictions(
    inference: Inference, lines: Iterable[SourceLine], *, total: int, paths: ArtifactPaths, facts: StageFacts, progress: Progress
) -> dict[str, Any]:
    """Run all windows and write both files; returns the summary.

    Raises:
        OutputError: the disk is full.
        BackendError: the backend does not work.
    """
    start = time.perf_counter()
    with ResultWriter(paths.gt_vs_pred) as writer:
        for _ in progress.track(_written(inference, lines, writer), "infer", total=total):
            pass
        writer.finish()
    summary = _summary(inference.counts, total=total, facts=facts, seconds=time.perf_counter() - start)
    write_json(paths.summary, summary)
    return summary


def _written(inference: Inference, lines: Iterable[SourceLine], writer: ResultWriter) -> Iterator[SampleResult]:
    """The results, each after the window that it belongs to has been written."""
    for results in inference.run(lines):
        writer.append(results)
        yield from results


def _summary(counts: RunCounts, *, total: int, facts: StageFacts, seconds: float) -> dict[str, Any]:
    return {
        "mode": facts.mode.mode,
        "mode_reason": facts.mode.reason,
        "mode_records": facts.mode.num_records,
        "pred_coord_mode": facts.settings.pred_coord_mode,
        **counts.as_dict(total_read=total),
        "backend": {
            **asdict(facts.backend),
            "generation": asdict(facts.settings.generation),
            "batch_size": facts.settings.window,
        },
        "determinism": facts.backend.determinism,
        "speed": {
            "seconds": round(seconds, 3),
            "generation_seconds": round(counts.generation_s, 3),
            "images_per_s": round(counts.total_emitted / seconds, 3),
            "new_tokens": counts.num_tokens,
            "tokens_per_s": round(counts.num_tokens / counts.generation_s, 1) if counts.generation_s else None,
        },
    }


def describe_summary(summary: Mapping[str, Any], predictions: Path) -> str:
    """One sentence with numbers for the console."""
    objects, speed = summary["objects"], summary["speed"]
    failed = f", {summary['total_failed']} failed ({', '.join(summary['error_codes'])})" if summary["total_failed"] else ""
    images = "1 image" if summary["total_emitted"] == 1 else f"{summary['total_emitted']} images"
    return f"{images}{failed}: {objects['kept']} objects, {speed['tokens_per_s'] or 0:.0f} tokens/s: {predictions}"
