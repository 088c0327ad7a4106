"""The line of one sample: answered, or failed with its error."""

from __future__ import annotations

from coordexp.pipeline.counts import SampleError
from coordexp.pipeline.reading import ReadAnswer
from coordexp.pipeline.standardize import Mode
from coordexp.types.predictions import Detection, SampleResult
from coordexp.types.rollouts import GenerationSample


def answered_result(
    answer: GenerationSample, read: ReadAnswer, *, image: str, width: int, height: int, mode: Mode, gt: tuple[Detection, ...] = ()
) -> SampleResult:
    """What the model answered, and what was read of it; an answer without an object that can be used has the error `empty_pred`."""
    return SampleResult(
        image=image,
        width=width,
        height=height,
        mode=_line_mode(mode),
        coord_mode="pixel" if gt or read.detections else None,
        gt=gt,
        pred=read.detections,
        raw_output=answer.text,
        errors=tuple(dict.fromkeys((*read.dropped, *(() if read.detections else (SampleError.EMPTY_PRED,))))),
        finish_reason=answer.finish_reason,
        score_source=read.score_source,
        extras={"broken": dict(read.broken)} if read.broken else {},
    )


def failed_result(
    error: SampleError, message: str, *, image: str, width: int | None, height: int | None, mode: Mode, gt: tuple[Detection, ...] = ()
) -> SampleResult:
    """Why there is no answer: a code, and a sentence."""
    return SampleResult(
        image=image,
        width=width,
        height=height,
        mode=_line_mode(mode),
        coord_mode="pixel" if gt else None,
        gt=gt,
        pred=(),
        raw_output="",
        errors=(error,),
        extras={"message": message},
    )


def _line_mode(mode: Mode) -> str:
    """What a line says: `coord` or `text`; the native format writes plain numbers."""
    return "coord" if mode == "coord" else "text"
