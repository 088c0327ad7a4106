"""An answer of the model → objects in pixels of the image, each with its confidence: salvage, places, pixels, score. One way for all that generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coordexp.codec.native import read_native
from coordexp.codec.pieces import TextPieces, decode_pieces
from coordexp.codec.salvage import salvage_text
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.evaluation.score_calibration import CALIBRATED, ScoreCalibration
from coordexp.generation.expected_bins import expected_values
from coordexp.generation.scores import score_object
from coordexp.pipeline.standardize import Mode, ObjectError, PixelObject, PredCoordMode, standardize
from coordexp.types.predictions import Detection
from coordexp.types.rollouts import GenerationSample, SalvagedObject


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """Example: `ReadAnswer(detections=(Detection("cat", …),), num_read=2, dropped=(ObjectError.DEGENERATE,), broken=(), score_source="token_probs")`"""

    detections: tuple[Detection, ...]
    num_read: int
    """Objects that the text holds, those that cannot be used too."""
    dropped: tuple[ObjectError, ...]
    """Why the others cannot, one by one."""
    broken: tuple[tuple[str, int], ...]
    """Entries that could not be read at all, by reason."""
    score_source: str


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Example: `AnswerReader(tokenizer, mode="coord", pred_coord_mode="auto").read(sample, width=96, height=64).detections`"""

    tokenizer: TextTokenizer
    mode: Mode
    pred_coord_mode: PredCoordMode
    expectation_window: int | None = None
    """Bins on each side of the most probable one over which a coordinate is the mean; None: the bin that was written."""
    calibration: ScoreCalibration | None = None
    """Makes probabilities of scores; None: raw scores. Constant scores stay."""

    def read(self, answer: GenerationSample, *, width: int, height: int) -> ReadAnswer:
        """What can be used of an answer, in pixels of an image of this size."""
        salvaged = read_native(answer.text) if self.mode == "native" else salvage_text(answer.text)
        pieces = decode_pieces(answer.response_ids, tokenizer=self.tokenizer)
        objects, is_expected = self._values(salvaged.objects, pieces, answer)
        size = {"width": width, "height": height}
        pixels = standardize(objects, mode=self.mode, pred_coord_mode=self.pred_coord_mode, keeps_fractions=is_expected, **size)
        return ReadAnswer(
            detections=tuple(self._detection(kept, salvaged.objects[kept.index], pieces, answer) for kept in pixels.objects),
            num_read=len(salvaged.objects),
            dropped=pixels.errors,
            broken=salvaged.broken,
            score_source="constant" if answer.trace is None else "token_probs" if self.calibration is None else CALIBRATED,
        )

    def _values(self, objects: Sequence[SalvagedObject], pieces: TextPieces, answer: GenerationSample) -> tuple[Sequence[SalvagedObject], bool]:
        """The objects with the coordinates that count, and whether these are expectations."""
        window = self.expectation_window
        if window is None or answer.trace is None:
            return objects, False
        return [replace(item, values=expected_values(item, pieces=pieces, trace=answer.trace, window=window)) for item in objects], True

    def _detection(self, kept: PixelObject, item: SalvagedObject, pieces: TextPieces, answer: GenerationSample) -> Detection:
        confidence = score_object(item, pieces=pieces, trace=answer.trace)
        score, parts = confidence.score, confidence.parts
        if self.calibration is not None and answer.trace is not None:
            score = self.calibration.probability(score, parts=parts)
        return Detection(desc=item.desc, kind=kept.kind, points=kept.points, points_exact=kept.points_exact, score=score, score_parts=parts)
