"""`coordexp doctor data`: a record file, its images and a checkpoint → findings, a page with samples as the model sees them, an exit code."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp.data.diagnosis.diagnose import Diagnosis, diagnose_file
from coordexp.data.diagnosis.findings import Check, Finding, Severity, worst, worst_first
from coordexp.data.jsonl import scan_file
from coordexp.data.paths import refuse_replacing
from coordexp.data.rules import RecordReader
from coordexp.recipes.doctor_model import MODEL_CHECKS, Lengths, ModelSide, check_lengths, check_sizes, measure_lengths
from coordexp.recipes.doctor_samples import SampleExaminer, SampleReport
from coordexp.types.errors import DataError
from coordexp.types.files import write_text
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, GeometryKind, Record
from coordexp.viz.doctor_page import DoctorPage, render_doctor

EXIT_CODES = {Severity.NOTE: 0, Severity.WARNING: 3, Severity.ERROR: 2}
"""1 is a bug of ours, as everywhere."""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What was found, and where it can be looked at."""

    path: Path
    model: Path
    page: Path
    findings: tuple[Finding, ...]
    """Worst first."""
    diagnosis: Diagnosis
    lengths: Lengths
    samples: SampleReport

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[worst(self.findings)]

    def sentence(self) -> str:
        """For people, with numbers."""
        counts = [(sum(finding.severity is severity for finding in self.findings), severity.name.lower()) for severity in sorted(Severity, reverse=True)]
        found = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts)
        survey = self.diagnosis.survey
        return f"{self.path}: {len(survey.records)} records, {len(survey.boxes)} objects: {found}; {len(self.samples.views)} samples in {self.page}"

    def to_json(self) -> dict[str, Any]:
        """Machine-readable form."""
        survey, tokens = self.diagnosis.survey, self.lengths.tokens
        return {
            "path": str(self.path),
            "model": str(self.model),
            "page": str(self.page),
            "severity": worst(self.findings).name.lower() if self.findings else "clean",
            "exit_code": self.exit_code,
            "num_records": len(survey.records),
            "num_objects": len(survey.boxes),
            "num_labels": len(survey.labels),
            "num_images": len(self.diagnosis.images.headers),
            "tokens": {"longest": int(tokens.max()), "mean": round(float(tokens.mean()), 1)} if len(tokens) else None,
            "findings": [finding.to_json() for finding in self.findings],
            "samples": [{"record": view.name, "image": view.image, "facts": view.facts, "notes": view.notes} for view in self.samples.views],
        }


def examine_data(
    path: Path,
    *,
    model: Path,
    page: Path,
    num_samples: int = 8,
    global_max_length: int | None = None,
    coord_space: CoordSpace | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DoctorReport:
    """Look at a record file as a checkpoint will see it, and write the page.

    Args:
        path: a record file.
        model: a checkpoint folder; its weights are not read.
        page: the HTML file to write.
        num_samples: records that the page shows, those with findings first.
        global_max_length: of the training; None checks no length.
        coord_space: space of records that do not name theirs.
        seed: of the samples.
        progress: shows the loops.

    Raises:
        DataError: the file cannot be opened.
        CheckpointError: the folder has no usable processor.
        OutputError: the page cannot be written.
    """
    refuse_replacing(page, [path])
    progress = progress or NoProgress()
    diagnosis = diagnose_file(path, coord_space=coord_space, seed=seed, progress=progress)
    side = ModelSide.load(model, kinds=_kinds(diagnosis))
    lengths = measure_lengths(side, progress.track(_valid_records(path, coord_space), "count tokens", total=len(diagnosis.survey.records)))
    findings = [*diagnosis.findings, *(finding for check in MODEL_CHECKS for finding in check(side))]
    findings += [*check_sizes(side, diagnosis.survey), *check_lengths(lengths, global_max_length)]
    chosen = _choose(diagnosis, findings, count=num_samples, seed=seed)
    records = [(line, record) for line, record in _valid_records(path, coord_space) if line in chosen]
    order = {line: place for place, line in enumerate(chosen)}
    samples = SampleExaminer(side, root=path.parent, file=path.name).examine(sorted(records, key=lambda item: order[item[0]]))
    found = tuple(worst_first([*findings, *samples.findings()]))
    report = DoctorReport(path, model, page, found, diagnosis, lengths, samples)
    write_text(page, render_doctor(_page(report, limit=global_max_length)))
    return report


def _kinds(diagnosis: Diagnosis) -> tuple[GeometryKind, ...]:
    boxes = diagnosis.survey.boxes
    kinds: tuple[tuple[GeometryKind, bool], ...] = (("bbox_2d", bool(boxes.is_box.any())), ("poly", bool((~boxes.is_box).any())))
    return tuple(kind for kind, is_there in kinds if is_there) or ("bbox_2d",)


def _valid_records(path: Path, coord_space: CoordSpace | None) -> Iterator[tuple[int, Record]]:
    reader = RecordReader(path.stem, coord_space=coord_space)
    for record in scan_file(path, reader):
        if record is not None:
            yield reader.line, record


def _choose(diagnosis: Diagnosis, findings: Sequence[Finding], *, count: int, seed: int) -> list[int]:
    """Lines to show: up to half of them with findings, the others at random."""
    valid = [record.line for record in diagnosis.survey.records if record.is_valid]
    allowed = set(valid)
    evident = dict.fromkeys(place.line for finding in worst_first(findings) for place in finding.places if place.line in allowed)
    chosen = list(evident)[: (count + 1) // 2]
    others = [line for line in valid if line not in set(chosen)]
    return chosen + sorted(random.Random(seed).sample(others, min(count - len(chosen), len(others))))


def _page(report: DoctorReport, *, limit: int | None) -> DoctorPage:
    survey, tokens = report.diagnosis.survey, report.lengths.tokens
    longest = f"{int(tokens.max()):,}" + (f" of {limit:,}" if limit is not None else "") if len(tokens) else "–"
    facts = {"Records": f"{len(survey.records):,}", "Objects": f"{len(survey.boxes):,}", "Names": f"{len(survey.labels):,}", "Longest sample, tokens": longest}
    found = {finding.check for finding in report.findings}
    skipped = {Check.MAX_LENGTH} if limit is None else set[Check]()
    if not report.samples.num_encoded:
        skipped |= {Check.PROMPT_IDS, Check.ROUND_TRIP}
    passed = [check.value for check in Check if check not in found | skipped]
    return DoctorPage(report.path.name, report.model.name, report.findings, facts, passed, report.samples.views)


def default_page(path: Path) -> Path:
    """Example: `default_page(Path("a/train.coord.jsonl")) == Path("a/train.coord.doctor.html")`

    Raises:
        DataError: there is no such data file.
    """
    if not path.is_file():
        raise DataError("the data file does not exist", where=str(path), fix="check the path")
    return path.with_suffix(".doctor.html")
