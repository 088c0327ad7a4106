"""What happened in an inference run, counted from the lines that were written and the objects that were read. Goes into `summary.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from coordexp.pipeline.standardize import ObjectError
from coordexp.types.predictions import SampleResult


class SampleError(StrEnum):
    """Why a line has no prediction, or none that can be used. The values are public: `errors` of a line."""

    INVALID_JSON = "invalid_json"
    """The input line is not a JSON object."""
    INVALID_RECORD = "invalid_record"
    """The input line breaks a rule that is none of the following."""
    INVALID_GEOMETRY = "invalid_geometry"
    INVALID_COORD = "invalid_coord"
    MISSING_SIZE = "missing_size"
    IMAGE_ERROR = "image_error"
    """The image is missing, damaged, outside of the image folder, or of a form that the model cannot take."""
    SIZE_MISMATCH = "size_mismatch"
    """The image has another size than its record says."""
    MODE_GT_MISMATCH = "mode_gt_mismatch"
    """Ground truth in pixels in mode coord, or in bins in mode text."""
    GENERATION_FAILED = "generation_failed"
    EMPTY_PRED = "empty_pred"
    """The model answered; there is no object in the answer that can be used."""


_COUNTER_OF: Mapping[str, SampleError] = {
    ObjectError.COORD_PARSE: SampleError.INVALID_COORD,
    ObjectError.COORD_RANGE: SampleError.INVALID_COORD,
    ObjectError.BBOX_POINTS: SampleError.INVALID_GEOMETRY,
    ObjectError.POLY_POINTS: SampleError.INVALID_GEOMETRY,
    ObjectError.DEGENERATE: SampleError.INVALID_GEOMETRY,
}


@dataclass(slots=True)
class RunCounts:
    """Invariants: `total_read == num_answered + num_failed`; `objects_read == objects_kept + sum(objects_dropped)`."""

    total_emitted: int = 0
    num_answered: int = 0
    num_tokens: int = 0
    generation_s: float = 0.0
    objects_read: int = 0
    objects_kept: int = 0
    objects_dropped: Counter[str] = field(default_factory=Counter[str])
    """Objects that were read and cannot be used, by `ObjectError`."""
    objects_broken: Counter[str] = field(default_factory=Counter[str])
    """Entries of answers that could not be read, by reason."""
    finish_reasons: Counter[str] = field(default_factory=Counter[str])
    samples: Counter[str] = field(default_factory=Counter[str])
    """Lines by `SampleError`."""

    def note_objects(self, *, num_read: int, num_kept: int, dropped: Iterable[str], broken: Iterable[tuple[str, int]]) -> None:
        """What the answer of one sample held."""
        self.objects_read += num_read
        self.objects_kept += num_kept
        self.objects_dropped.update(dropped)
        self.objects_broken.update(dict(broken))

    def note_results(self, results: Iterable[SampleResult]) -> None:
        """Lines that were written."""
        for result in results:
            self.total_emitted += 1
            self.samples.update(error for error in result.errors if error in set(SampleError))
            if result.finish_reason is not None:
                self.num_answered += 1
                self.finish_reasons[result.finish_reason] += 1

    def snapshot(self) -> dict[str, Any]:
        """All of it, for `restore` in another process."""
        whole = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in whole.items()}

    @classmethod
    def restore(cls, snapshot: Mapping[str, Any]) -> RunCounts:
        """The counts of which `snapshot` was taken; of an empty one, those of a run that begins."""
        values: dict[str, Any] = {name: Counter[str](value) if isinstance(value, Mapping) else value for name, value in snapshot.items()}
        return cls(**values)

    @classmethod
    def total(cls, parts: Iterable[RunCounts]) -> RunCounts:
        """Of several shards together."""
        whole = cls()
        for part in parts:
            for item in fields(cls):
                setattr(whole, item.name, getattr(whole, item.name) + getattr(part, item.name))
        return whole

    @property
    def counters(self) -> dict[str, int]:
        """Lines by `SampleError`; `invalid_geometry` and `invalid_coord` also count predicted objects. All keys are always present."""
        totals = {str(code): self.samples[code] for code in SampleError}
        for code, number in self.objects_dropped.items():
            totals[_COUNTER_OF[code]] += number
        return totals

    def as_dict(self, *, total_read: int) -> dict[str, Any]:
        """The counting part of `summary.json`."""
        codes = {*self.objects_dropped, *(code for code, number in self.samples.items() if number)}
        return {
            "total_read": total_read,
            "total_emitted": self.total_emitted,
            "total_answered": self.num_answered,
            "total_failed": self.total_emitted - self.num_answered,
            "counters": self.counters,
            "error_codes": sorted(codes),
            "objects": {
                "read": self.objects_read,
                "kept": self.objects_kept,
                "dropped": dict(sorted(self.objects_dropped.items())),
                "broken": dict(sorted(self.objects_broken.items())),
            },
            "finish_reasons": dict(sorted(self.finish_reasons.items())),
        }
