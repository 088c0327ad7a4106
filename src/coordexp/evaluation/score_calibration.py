"""From a confidence to the probability that the prediction is right: a fitted curve as a small JSON file, and what it makes of a score. No fitting here.

isotonic    p = interpolation between knots of the raw score, never falling; p' = (1 - 0.001)·p + 0.001·score
platt       p = sigmoid(sum_i w_i · logit(input_i) + b), inputs `desc` and `coord` of `score_parts`, or `score` where a file has no parts

The steps of an isotonic curve give many scores one probability, and average precision needs a ranking: the small share of the raw score keeps its
ranking to the last prediction, so AP stays what it was. Platt's curve over two inputs ranks anew.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from coordexp.types.errors import ConfigError, DataError
from coordexp.types.files import write_text
from coordexp.types.predictions import ScoreParts

FORMAT_VERSION = 1
CALIBRATED = "calibrated"
"""`score_source` of a line whose scores are probabilities."""

Method: TypeAlias = Literal["isotonic", "platt"]

_TIE_SHARE = 0.001
_DECIMALS = 10
"""Raw scores have 6: a thousandth of their smallest step is still seen."""
_NEAREST = 1e-6
"""Logits of scores nearer to 0 or 1 are those of this distance."""


class IsotonicCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="isotonic", tag_field="method"):
    """Example: `IsotonicCurve(scores=(0.2, 0.9), probabilities=(0.1, 0.7))`"""

    scores: tuple[float, ...]
    """Rising."""
    probabilities: tuple[float, ...]
    """Never falling; one for each score."""

    def probability(self, score: float) -> float:
        """Outside of the knots that of the nearest one."""
        place = bisect_right(self.scores, score)
        if place == 0:
            found = self.probabilities[0]
        elif place == len(self.scores):
            found = self.probabilities[-1]
        else:
            low, high = self.scores[place - 1], self.scores[place]
            below, above = self.probabilities[place - 1], self.probabilities[place]
            found = below + (above - below) * (score - low) / (high - low)
        return (1 - _TIE_SHARE) * found + _TIE_SHARE * score

    def fault(self) -> str | None:
        """What is wrong with a curve from a file."""
        if not self.scores or len(self.scores) != len(self.probabilities):
            return "a curve needs as many probabilities as scores"
        if any(low >= high for low, high in zip(self.scores, self.scores[1:], strict=False)):
            return "scores must rise"
        if any(low > high for low, high in zip(self.probabilities, self.probabilities[1:], strict=False)):
            return "probabilities must not fall"
        return None if self.probabilities[0] >= 0 and self.probabilities[-1] <= 1 else "probabilities must lie in [0, 1]"


class PlattCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="platt", tag_field="method"):
    """Example: `PlattCurve(inputs=("desc", "coord"), weights=(0.4, 1.1), intercept=-0.3)`"""

    inputs: tuple[Literal["desc", "coord", "score"], ...]
    weights: tuple[float, ...]
    intercept: float

    def probability(self, values: tuple[float, ...]) -> float:
        """One value in [0, 1] for each input."""
        total = self.intercept + math.fsum(weight * logit(value) for weight, value in zip(self.weights, values, strict=True))
        return 1 / (1 + math.exp(-total)) if total >= 0 else math.exp(total) / (1 + math.exp(total))

    def fault(self) -> str | None:
        if self.inputs not in (("desc", "coord"), ("score",)) or len(self.inputs) != len(self.weights):
            return "inputs must be desc and coord, or score, with one weight each"
        return None if all(map(math.isfinite, (*self.weights, self.intercept))) else "weights must be finite"


class FittedOn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which predictions were judged, and how."""

    file: str
    sha256: str
    num_images: int
    num_pred: int
    num_right: int
    iou: float
    label_rule: str
    """`exact`: that of f1_det."""
    pixel_mode: str
    probabilities: str | None = None
    """That confidences were made from (`backend.probabilities` of a summary): `all`, or such as `top 20`. None: not known."""

    def check_scores(self, probabilities: str | None, *, where: str) -> None:
        """Raises ConfigError when the curve was fitted on confidences that were made in another way."""
        if None not in (self.probabilities, probabilities) and self.probabilities != probabilities:
            what = f"the calibration was fitted on confidences from {_kind(self.probabilities)}, and these are from {_kind(probabilities)}"
            raise ConfigError(what, where=where, fix="fit one on a run with this backend and top_logprobs: coordexp calibrate")


class Quality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far scores are from probabilities; the keys of `analysis.json`."""

    ece: float
    mce: float
    brier: float
    auroc: float | None


class ScoreCalibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted curve with its history: the content of the file.

    Example: `ScoreCalibration.read(Path("calibration.json")).probability(0.8, parts=None)`
    """

    curve: IsotonicCurve | PlattCurve
    fitted_on: FittedOn
    before: Quality
    """Of the raw scores."""
    after: Quality
    """By cross-validation over `folds` parts of the images: each prediction judged by a curve that has not seen its image."""
    folds: int
    version: int = FORMAT_VERSION

    @property
    def method(self) -> Method:
        return "isotonic" if isinstance(self.curve, IsotonicCurve) else "platt"

    def probability(self, score: float, *, parts: ScoreParts | None) -> float:
        """What a prediction's score becomes, to 10 decimals. Nothing but the arguments decides it, to the last digit.

        Raises:
            ValueError: the curve needs parts and there are none.
        """
        curve = self.curve
        if isinstance(curve, IsotonicCurve):
            return round(curve.probability(score), _DECIMALS)
        if curve.inputs == ("score",):
            return round(curve.probability((score,)), _DECIMALS)
        if parts is None:
            raise ValueError("the prediction has no score_parts, and this calibration is made of them")
        return round(curve.probability((parts.desc, parts.coord)), _DECIMALS)

    def as_dict(self) -> dict[str, Any]:
        """As in the file."""
        return msgspec.to_builtins(self)

    def write(self, path: Path) -> None:
        """Atomically, as JSON that reads well.

        Raises:
            OutputError: the file cannot be written.
        """
        write_text(path, msgspec.json.format(msgspec.json.encode(self), indent=2).decode() + "\n")

    @classmethod
    def read(cls, path: Path) -> ScoreCalibration:
        """Raises DataError when the file is not one that `write` made, or of another version."""
        fix = "give the file that 'coordexp calibrate' wrote"
        try:
            content = path.read_bytes()
            version = msgspec.json.decode(content, type=_Versioned).version
            if version != FORMAT_VERSION:
                raise DataError(f"version {version} is not {FORMAT_VERSION}", where=str(path), fix="fit it again with this version of coordexp")
            found = msgspec.json.decode(content, type=cls)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=str(path), fix=fix) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"not a calibration ({error})", where=str(path), fix=fix) from error
        fault = found.curve.fault()
        if fault is not None:
            raise DataError(f"not a calibration ({fault})", where=str(path), fix=fix)
        return found


def _kind(probabilities: str | None) -> str:
    return "the probabilities of all tokens" if probabilities == "all" else f"the {probabilities} probabilities of each token"


class _Versioned(msgspec.Struct):
    version: int


def logit(value: float) -> float:
    """log(p / (1 - p)), finite at 0 and 1."""
    inside = min(max(value, _NEAREST), 1 - _NEAREST)
    return math.log(inside / (1 - inside))
