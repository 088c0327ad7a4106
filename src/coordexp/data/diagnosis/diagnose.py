"""All checks of a record file and its images that need no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.data.diagnosis.alignment import Alignment, check_alignment, measure_alignment
from coordexp.data.diagnosis.findings import Check, Finding, Place, Severity, first_places
from coordexp.data.diagnosis.labels import check_labels
from coordexp.data.diagnosis.orders import check_equal_boxes, check_xywh_disorder, check_xywh_sums
from coordexp.data.diagnosis.pictures import ImageSurvey, check_images, survey_images
from coordexp.data.diagnosis.ranges import check_ranges
from coordexp.data.diagnosis.survey import Survey, survey_file
from coordexp.data.rules import Rule
from coordexp.types.progress import Progress
from coordexp.types.records import CoordSpace


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was looked at, and what was found."""

    survey: Survey
    images: ImageSurvey
    alignment: Alignment
    findings: tuple[Finding, ...]


def diagnose_file(path: Path, *, coord_space: CoordSpace | None = None, seed: int = 0, progress: Progress | None = None) -> Diagnosis:
    """Look at every record and image header of a file, and into a sample of its pictures.

    Raises:
        DataError: the file cannot be opened.
    """
    survey = survey_file(path, coord_space=coord_space, progress=progress)
    images = survey_images(survey, progress=progress)
    alignment = measure_alignment(survey, seed=seed, progress=progress)
    findings = [*_check_rules(survey), *_check_geometry(survey, alignment), *check_labels(survey), *check_images(survey, images, progress=progress)]
    return Diagnosis(survey, images, alignment, tuple(findings))


def _check_rules(survey: Survey) -> list[Finding]:
    if not survey.records and not survey.num_violations:
        return [Finding(Check.RULES, Severity.ERROR, "the file holds no record", "check the path")]
    if not survey.num_violations:
        return []
    counts = ", ".join(f"{rule.value}: {count}" for rule, count in survey.num_violations.most_common())
    violations = sorted((item for kept in survey.violations.values() for item in kept), key=lambda item: item.line)
    places = first_places(Place(item.line, None, f"{item.field}: {item.what}" if item.field else item.what) for item in violations)
    what = f"{survey.num_violations.total()} rules of the format are broken ({counts})"
    fix = f"run 'coordexp data validate {survey.path}' to list all"
    if Rule.COORD_SPACE in survey.num_violations:
        fix = f"say with --coord-space what plain integers are; {fix}"
    return [Finding(Check.RULES, Severity.ERROR, what, fix, places)]


def _check_geometry(survey: Survey, alignment: Alignment) -> list[Finding]:
    """The first explanation of the numbers. What only looks unlikely is not said when the boxes lie on what is in the pictures."""
    checks = (check_xywh_disorder, check_ranges, check_equal_boxes, check_xywh_sums, lambda survey: check_alignment(survey, alignment))
    for check in checks:
        found = [finding for finding in check(survey) if finding.severity is Severity.ERROR or not alignment.fits]
        if found:
            return found
    return []
