"""The page of `coordexp doctor data`: findings with their evidence, and samples as they stand in the file beside what the model sees. No script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordexp.data.diagnosis.findings import Finding, Severity
from coordexp.viz.outlines import Outline, PagePicture
from coordexp.viz.page import asset, content_policy, page_environment


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture with its outlines; None: it could not be read."""

    picture: PagePicture | None
    outlines: tuple[Outline, ...]


@dataclass(frozen=True, slots=True)
class SampleView:
    """One record, as it stands in the file and as the model sees it."""

    name: str
    """Example: `train.jsonl:12`"""
    image: str
    source: Panel
    model: Panel | None
    """None: training would refuse the record; `notes` say why."""
    facts: tuple[str, ...] = ()
    """Example: `96x96 pixels`, `36 image tokens`"""
    notes: tuple[str, ...] = ()
    prompt: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class DoctorPage:
    """All that the page shows."""

    file: str
    model: str
    findings: Sequence[Finding]
    facts: Mapping[str, str]
    """Name → value, for the tiles."""
    passed: Sequence[str]
    """What was looked at and found sound."""
    samples: Sequence[SampleView]


_VERDICTS = {Severity.NOTE: "Nothing found", Severity.WARNING: "Look at this before training", Severity.ERROR: "Do not train on this"}


def render_doctor(page: DoctorPage) -> str:
    """The page as text.

    Raises:
        BackendError: jinja2 is not installed.
    """
    severities = [finding.severity for finding in page.findings]
    return (
        page_environment()
        .get_template("doctor.html.j2")
        .render(
            style=asset("report.css") + asset("rollouts.css") + asset("doctor.css"),
            policy=content_policy(()),
            page=page,
            verdict=_VERDICTS[max(severities, default=Severity.NOTE)],
            counts=[(severities.count(severity), severity.name.lower()) for severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE)],
        )
    )
