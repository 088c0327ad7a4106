"""A confidence for each predicted object, from the probabilities of the tokens that wrote it.

    desc  = exp(mean over the tokens of the name of log p)                     length-normalized
    slot  = mass of the coordinate distribution within ±w bins of the emitted bin (a coordinate token)
          = exp(sum over the digits' tokens of log p)                          (a plain number)
    coord = geometric mean of the slots
    score = desc · coord

p is the model's own distribution, before temperature, top-p and penalties. The name and the place are taken as independent. Everything is rounded to
6 decimals, so that files do not depend on the last bits of a sum.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from coordexp.codec.pieces import TextPieces, decode_pieces
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.types.predictions import ScoreParts
from coordexp.types.rollouts import GenerationSample, SalvagedObject, TokenTrace

DEFAULT_WINDOW = 24
"""Bins on each side of the emitted one. Of 2, 5, 10 and 24 it told right from wrong boxes best (IoU 0.5, drawn shapes and digits)."""

ScoreSource: TypeAlias = Literal["token_probs", "constant"]

_DECIMALS = 6
_LOWEST_LOG = -100.0
"""A probability that underflows to 0 must not make the logarithm infinite."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """Example: `Confidence(score=0.81, parts=ScoreParts(desc=0.9, coord=0.9), source="token_probs")`"""

    score: float
    parts: ScoreParts | None
    source: ScoreSource


CONSTANT = Confidence(score=1.0, parts=None, source="constant")
"""What a prediction gets when the backend gave no probabilities."""


def score_object(item: SalvagedObject, *, pieces: TextPieces, trace: Sequence[TokenTrace] | None, window: int = DEFAULT_WINDOW) -> Confidence:
    """The confidence of one object that was read from a response.

    Args:
        item: the object with the characters of its name and coordinates.
        pieces: the response, to find the tokens behind the characters.
        trace: one entry for each token; None gives `CONSTANT`.
        window: bins on each side of the emitted bin that count as "here".
    """
    if trace is None:
        return CONSTANT
    assert len(trace) == len(pieces.token_ids), (len(trace), len(pieces.token_ids))
    desc_logs = [trace[position].logprob for position in range(*pieces.token_span(*item.desc_chars))]
    slot_logs = [
        _slot_log(trace[slice(*pieces.token_span(*chars))], emitted=value, window=window) for chars, value in zip(item.coord_chars, item.values, strict=True)
    ]
    desc, coord = _geometric_mean(desc_logs), _geometric_mean(slot_logs)
    return Confidence(score=round(desc * coord, _DECIMALS), parts=ScoreParts(round(desc, _DECIMALS), round(coord, _DECIMALS)), source="token_probs")


def score_objects(answer: GenerationSample, objects: Sequence[SalvagedObject], *, tokenizer: TextTokenizer) -> list[Confidence]:
    """The confidences of the objects that were read from one answer."""
    pieces = decode_pieces(answer.response_ids, tokenizer=tokenizer)
    return [score_object(item, pieces=pieces, trace=answer.trace) for item in objects]


def _slot_log(entries: Sequence[TokenTrace], *, emitted: float, window: int) -> float:
    """Logarithm of a slot's probability."""
    if len(entries) == 1 and entries[0].coord_probs:
        return _log(_mass_near(entries[0], emitted=emitted, window=window))
    return sum(entry.logprob for entry in entries)


def _mass_near(entry: TokenTrace, *, emitted: float, window: int) -> float:
    """Probability of the bins in [emitted - window, emitted + window]; bins ascend."""
    first = bisect_left(entry.coord_bins, emitted - window)
    end = bisect_left(entry.coord_bins, emitted + window + 1)
    return min(1.0, math.fsum(entry.coord_probs[first:end]))


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else _LOWEST_LOG


def _geometric_mean(logs: Sequence[float]) -> float:
    """1 for nothing: an empty name has no token that could be doubted."""
    return math.exp(math.fsum(logs) / len(logs)) if logs else 1.0
