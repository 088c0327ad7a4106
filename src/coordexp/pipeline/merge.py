"""Puts the finished parts of an inference run together: the same bytes as one run would have written, or an error that says which part is missing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp.pipeline.artifacts import ArtifactPaths, write_json
from coordexp.pipeline.counts import RunCounts
from coordexp.pipeline.finished import is_finished
from coordexp.pipeline.shards import Shard, find_shards
from coordexp.pipeline.stage import with_counts
from coordexp.types.errors import DataError
from coordexp.types.files import atomic_writer, file_sha256


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part."""

    shard: Shard
    folder: Path
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def results(self) -> Path:
        return self.folder / "gt_vs_pred.jsonl"


def merge_parts(whole: Path, *, overwrite: bool = False) -> ArtifactPaths:
    """Write the whole run's three files from the parts in `<whole>/shards`. When it was done before and no part was done again since, nothing changes.

    Raises:
        DataError: a part is missing or unfinished, or the parts are not of one run.
        OutputError: another finished run lies there, or the disk is full.
    """
    parts = _read_parts(whole)
    manifest = parts[0].manifest
    fingerprint = str(manifest["whole"]["fingerprint"])
    paths = ArtifactPaths.from_dict(manifest["whole"]["artifacts"])
    if not overwrite and is_finished(paths, fingerprint) and file_sha256(paths.gt_vs_pred) == _joined_sha256(parts):
        return paths
    config = {**manifest["config"], "infer": {**manifest["config"]["infer"], "shard": None}}
    kept = {name: value for name, value in manifest.items() if name not in {"whole", "shard"}}
    stages = manifest["whole"]["stages"]
    paths.summary.unlink(missing_ok=True)
    write_json(paths.resolved_config, {**kept, "stages": stages, "artifacts": paths.as_dict(), "fingerprint": fingerprint, "config": config})
    with atomic_writer(paths.gt_vs_pred) as stream:
        for part in parts:
            with part.results.open(encoding="utf-8", newline="") as source:
                shutil.copyfileobj(source, stream, 1 << 20)
    write_json(paths.summary, _summary(parts))
    return paths


def _joined_sha256(parts: Sequence[Part]) -> str:
    """Of the parts one behind the other."""
    digest = hashlib.sha256()
    for part in parts:
        with part.results.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _read_parts(whole: Path) -> list[Part]:
    folders = find_shards(whole)
    counts = {shard.count for shard in folders}
    if len(counts) != 1:
        what = "there are no parts" if not counts else f"parts of {' and of '.join(map(str, sorted(counts)))} lie side by side"
        fix = "run 'coordexp infer --shard i/n' for each i first" if not counts else "remove the folders of the division that is not wanted"
        raise DataError(what, where=str(whole / "shards"), fix=fix)
    (count,) = counts
    missing = [str(shard) for shard in (Shard(index, count) for index in range(1, count + 1)) if shard not in folders]
    if missing:
        raise DataError(
            f"part {', '.join(missing)} is missing", where=str(whole / "shards"), fix=f"run 'coordexp infer --shard {missing[0]}' with the same file"
        )
    parts = [_read_part(shard, folder) for shard, folder in folders.items()]
    _check_together(parts)
    return parts


def _read_part(shard: Shard, folder: Path) -> Part:
    try:
        manifest, summary = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("resolved_config.json", "summary.json"))
        part = Part(shard, folder, manifest, summary)
        facts = summary["shard"]
        is_whole = file_sha256(part.results) == facts["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"part {shard} is not finished", where=str(folder), fix=f"run 'coordexp infer --shard {shard}' with the same file again") from error
    if not is_whole:
        raise DataError(f"the predictions of part {shard} were changed", where=str(part.results), fix="remove the folder and run the part again")
    return part


def _check_together(parts: Sequence[Part]) -> None:
    first, expected = parts[0], 0
    for part in parts:
        facts = part.summary["shard"]
        if part.manifest["whole"]["fingerprint"] != first.manifest["whole"]["fingerprint"]:
            what = f"part {part.shard} ran with other settings, data or weights than part {first.shard}"
            raise DataError(what, where=str(part.folder), fix="remove the folder and run the part again")
        start, stop = facts["lines"]
        if start != expected or part.summary["total_emitted"] != stop - start:
            what = f"part {part.shard} holds the records {start} to {stop} ({part.summary['total_emitted']} lines), and {expected} is the next"
            raise DataError(what, where=str(part.folder), fix="remove the folder and run the part again")
        expected = stop
    if expected != first.summary["shard"]["num_lines"]:
        raise DataError(
            f"the parts hold {expected} of {first.summary['shard']['num_lines']} records", where=str(first.folder.parent), fix="run the parts again"
        )


def _summary(parts: Sequence[Part]) -> dict[str, Any]:
    counts = RunCounts.total(RunCounts.restore(part.summary["shard"]["counts"]) for part in parts)
    seconds = sum(part.summary["speed"]["seconds"] for part in parts)
    base = {name: value for name, value in parts[0].summary.items() if name != "shard"}
    return {**with_counts(base, counts, total=counts.total_emitted, seconds=seconds), "shards": len(parts)}
