"""Fits and applies calibrations of confidences on files of predictions. Right is a prediction that f1_det matches at the given IoU.

scikit-learn is loaded by `fit_calibration` alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from coordexp.evaluation.calibration import calibration
from coordexp.evaluation.columns import Bools, Floats, Ints
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.ingest import PixelMode
from coordexp.evaluation.lines import bad_line, decode_line, iter_lines, iter_raw_lines
from coordexp.evaluation.score_calibration import CALIBRATED, FittedOn, IsotonicCurve, Method, PlattCurve, Quality, ScoreCalibration, logit
from coordexp.types.errors import BackendError, DataError
from coordexp.types.files import atomic_writer, file_sha256
from coordexp.types.predictions import ScoreParts
from coordexp.types.progress import Progress

NUM_FOLDS = 5
_FEWEST = 10
"""Right ones, and wrong ones: with fewer a curve says nothing."""
_SEED = 0

_Curve = IsotonicCurve | PlattCurve


@dataclass(frozen=True, slots=True)
class JudgedScores:
    """Predictions of a file with what became of them, one row each."""

    scores: Floats
    """[P]"""
    parts: tuple[ScoreParts | None, ...]
    is_right: Bools
    """[P]"""
    image: Ints
    """[P] which image; those of one image are not independent."""


def fit_calibration(
    predictions: Path,
    *,
    method: Method = "isotonic",
    iou: float = 0.5,
    pixel_mode: PixelMode = "int",
    probabilities: str | None = None,
    progress: Progress | None = None,
) -> ScoreCalibration:
    """A curve from the confidences of a run on validation data.

    Args:
        predictions: a `gt_vs_pred.jsonl` with raw scores.
        method: `isotonic` from the score, `platt` from its parts where every prediction has them.
        iou: from which a matched prediction is right, at least 0.5.
        pixel_mode: that of the evaluation.
        probabilities: that the confidences were made from, where it is known; see `FittedOn`.
        progress: shows what goes on.

    Raises:
        DataError: the file cannot be read, has no raw scores, or too few right or wrong predictions.
        BackendError: scikit-learn is not installed.
    """
    judged, num_images = judge_scores(predictions, iou=iou, pixel_mode=pixel_mode, progress=progress)
    num_right = int(judged.is_right.sum())
    for name, number in (("right", num_right), ("wrong", len(judged.scores) - num_right)):
        if number < _FEWEST:
            what = f"{number} of {len(judged.scores)} predictions are {name}: at least {_FEWEST} are needed to fit a curve"
            raise DataError(what, where=str(predictions), fix="use more validation images")
    if len(np.unique(judged.image)) < 2:
        what = f"all {len(judged.scores)} predictions are of one image, and a curve is judged on images that it has not seen"
        raise DataError(what, where=str(predictions), fix="use more validation images")
    fit = _fitter(method, judged)
    everything = np.ones(len(judged.scores), dtype=np.bool_)
    raw = calibration(judged.scores, judged.is_right)
    seen = calibration(_cross_validated(judged, fit), judged.is_right)
    return ScoreCalibration(
        curve=fit(everything),
        fitted_on=FittedOn(
            file=predictions.name,
            sha256=file_sha256(predictions),
            num_images=num_images,
            num_pred=len(judged.scores),
            num_right=num_right,
            iou=iou,
            label_rule="exact",
            pixel_mode=pixel_mode,
            probabilities=probabilities,
        ),
        before=Quality(raw.ece, raw.mce, raw.brier, raw.auroc),
        after=Quality(seen.ece, seen.mce, seen.brier, seen.auroc),
        folds=NUM_FOLDS,
    )


def judge_scores(predictions: Path, *, iou: float, pixel_mode: PixelMode, progress: Progress | None = None) -> tuple[JudgedScores, int]:
    """The predictions that can be evaluated, and the number of images.

    Raises:
        DataError: the file cannot be read, or holds no raw scores.
    """
    if not 0.5 <= iou < 1:
        raise DataError(f"IoU {iou} is not in [0.5, 1)", where="--iou", fix="matches begin at 0.5")
    result = evaluate(predictions, settings=EvalSettings(pixel_mode=pixel_mode, with_coco=False, with_f1ish=False), progress=progress)
    table, matches = result.data.pred, result.det.matches
    scores = table.scores
    if not np.all((scores >= 0) & (scores <= 1)):
        raise DataError("a prediction has no score, or one outside of [0, 1]", where=str(predictions), fix="give a run with model scores")
    is_right = np.zeros(len(table), dtype=np.bool_)
    is_right[matches.pred[matches.iou >= iou]] = True
    parts_of = _read_parts(predictions)
    image_ids = [image.image_id for image in result.data.images]
    parts = tuple(parts_of[image_ids[image]][index] for image, index in zip(table.image.tolist(), table.index.tolist(), strict=True))
    return JudgedScores(scores, parts, is_right, table.image), len(result.data.images)


def apply_calibration(calibration: ScoreCalibration, source: Path, target: Path) -> int:
    """Write the lines of `source` with probabilities as scores; the number of predictions. Everything else stays as it is.

    Raises:
        DataError: `source` cannot be read, or has scores that are not raw ones; `target` is then what it was.
        OutputError: `target` cannot be written.
    """
    if target.resolve() == source.resolve():
        raise DataError("the output would replace the raw scores", where=str(target), fix="choose another --out")
    num_pred = 0
    with atomic_writer(target) as stream:
        for number, line in iter_raw_lines(source):
            record = decode_line(line)
            if record is None:
                raise bad_line(source, number, line, fix="repair or remove the line")
            where = f"{source}:{number}"
            _check_source(record, where=where)
            objects = [item for item in _predictions(record) if isinstance(item, dict)]
            for item in objects:
                item["score"] = _probability(calibration, item, where=where)
            num_pred += len(objects)
            if record.get("score_source") is not None or objects:
                record["score_source"] = CALIBRATED
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    return num_pred


def _probability(calibration: ScoreCalibration, item: Mapping[str, Any], *, where: str) -> float:
    score = item.get("score")
    if not _is_share(score):
        raise DataError(f"a prediction has the score {score!r}", where=where, fix="give a run with model scores")
    try:
        return calibration.probability(float(score), parts=_parts(item))
    except ValueError as error:
        raise DataError(str(error), where=where, fix="fit another one with --method isotonic") from error


def _read_parts(predictions: Path) -> list[list[ScoreParts | None]]:
    """By readable line, by place in the line's own array."""
    found: list[list[ScoreParts | None]] = []
    for number, record in iter_lines(predictions, on_bad=lambda _: None):
        _check_source(record, where=f"{predictions}:{number}")
        found.append([_parts(item) if isinstance(item, dict) else None for item in _predictions(record)])
    return found


def _check_source(record: Mapping[str, Any], *, where: str) -> None:
    source = record.get("score_source")
    if source == CALIBRATED:
        raise DataError("these scores are calibrated already", where=where, fix="give the file with the raw scores")
    if source == "constant" and _predictions(record):
        raise DataError("these scores are all 1.0: the backend gave no probabilities", where=where, fix="run inference with backend hf")


def _predictions(record: Mapping[str, Any]) -> list[Any]:
    value = record.get("pred") or record.get("predictions")
    return value if isinstance(value, list) else []


def _parts(item: Mapping[str, Any]) -> ScoreParts | None:
    parts = item.get("score_parts")
    if not isinstance(parts, dict):
        return None
    desc, coord = parts.get("desc"), parts.get("coord")
    return ScoreParts(float(desc), float(coord)) if _is_share(desc) and _is_share(coord) else None


def _is_share(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 <= value <= 1


def _fitter(method: Method, judged: JudgedScores) -> Callable[[Bools], _Curve]:
    """Fits on the rows of a mask. Raises BackendError without scikit-learn."""
    try:
        from sklearn.isotonic import IsotonicRegression
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError as error:
        raise BackendError("fitting needs scikit-learn, which is not installed", where="calibrate", fix="pip install 'coordexp[calibrate]'") from error
    targets = judged.is_right.astype(np.float64)

    def isotonic(rows: Bools) -> IsotonicCurve:
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(judged.scores[rows], targets[rows])
        return IsotonicCurve(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))

    inputs, columns = _inputs(judged)
    logits = np.array([[logit(value) for value in row] for row in columns])

    def platt(rows: Bools) -> PlattCurve:
        share = float(targets[rows].mean())
        if share in (0.0, 1.0):  # all other images agree: a constant
            return PlattCurve(inputs, (0.0,) * len(inputs), logit(share))
        fitted = LogisticRegression().fit(logits[rows], judged.is_right[rows])
        return PlattCurve(inputs, tuple(fitted.coef_[0].tolist()), float(fitted.intercept_[0]))

    return isotonic if method == "isotonic" else platt


def _inputs(judged: JudgedScores) -> tuple[Any, Sequence[tuple[float, ...]]]:
    """The parts when every prediction has them, else the score."""
    parts = [(item.desc, item.coord) for item in judged.parts if item is not None]
    if len(parts) == len(judged.scores):
        return ("desc", "coord"), parts
    return ("score",), [(score,) for score in judged.scores.tolist()]


def _cross_validated(judged: JudgedScores, fit: Callable[[Bools], _Curve]) -> Floats:
    """[P] probabilities, each by a curve that has not seen the image."""
    found = np.empty(len(judged.scores))
    columns = _inputs(judged)[1]
    for held_out in _folds(judged.image):
        curve = fit(~held_out)
        for row in np.flatnonzero(held_out).tolist():
            found[row] = curve.probability(float(judged.scores[row])) if isinstance(curve, IsotonicCurve) else curve.probability(columns[row])
    return found


def _folds(image: Ints) -> Iterator[Bools]:
    """Masks of the rows that are held out; images with predictions are dealt out at random, always in the same way."""
    images, place = np.unique(image, return_inverse=True)
    order = np.random.default_rng(_SEED).permutation(len(images))
    for fold in range(NUM_FOLDS):
        held_out = order[place] % NUM_FOLDS == fold
        if held_out.any():
            yield held_out
