"""Roles, provenance and cross-entropy weights of a rollout target's tokens.

A token gets the weight of its role and provenance, and 0 as soon as one of its characters is not to be taught: an unmatched or dropped object has weight
exactly 0, and so have own keys and names that disagree, whatever a tokenizer merges with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.roles import token_roles
from coordexp.codec.serialize import TextSpan, escape_desc
from coordexp.codec.text_tokenizer import Tokens
from coordexp.targets.layout import UNTAUGHT, Layout
from coordexp.targets.supervision import SupervisionTable
from coordexp.types.records import DetObject
from coordexp.types.sequences import FloatArray, Provenance, Role

DescGate: TypeAlias = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
"""Which (predicted, annotated) names mean the same."""

_Bools: TypeAlias = npt.NDArray[np.bool_]
_Ints: TypeAlias = npt.NDArray[np.int64]

_PROVENANCES = tuple(Provenance)
_CODE = {provenance: code for code, provenance in enumerate(_PROVENANCES)}


@dataclass(frozen=True, slots=True)
class WeighedTokens:
    """What each token is and how much it is taught."""

    ce_weight: FloatArray
    """[T]"""
    roles: npt.NDArray[np.int8]
    """[T] of `Role`."""
    provenance: tuple[Provenance, ...]
    """[T]; of a token of two entries the untaught one, else the later one; closure for a token with the outermost brace."""


def weigh_tokens(
    layout: Layout,
    tokens: Tokens,
    objects: Sequence[DetObject],
    *,
    table: SupervisionTable,
    coord_vocab: CoordVocabulary,
    struct_ce_multiplier: float = 1.0,
    desc_gate: DescGate | None = None,
) -> WeighedTokens:
    """Weights of a target's tokens.

    Args:
        layout: the target's text and items.
        tokens: the same as tokens.
        objects: the ground truth.
        table: weights.
        coord_vocab: which ids are coordinates.
        struct_ce_multiplier: of the weight of structure.
        desc_gate: accepts names as a whole; without it, and where it says no, characters are compared.
    """
    offsets: _Ints = np.asarray(tokens.offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0], offsets[:, 1]
    roles = np.asarray(token_roles(layout.whole.spans, tokens.offsets), dtype=np.int8)
    provenance = _provenance_of(layout, starts, ends)
    is_closing = (roles == Role.CLOSE) | (roles == Role.END)
    is_untaught = np.isin(provenance, [_CODE[kind] for kind in UNTAUGHT])
    provenance[is_closing & ~is_untaught] = _CODE[Provenance.CLOSURE]
    is_coord = np.array([coord_vocab.bin_of(token_id) is not None for token_id in tokens.ids], dtype=bool)
    roles[is_coord & (provenance == _CODE[Provenance.DROPPED])] = Role.COORD
    num_silent = np.concatenate(([0], np.cumsum(_silent_chars(layout, objects, table=table, desc_gate=desc_gate))))
    has_silent = num_silent[ends] > num_silent[starts]
    weight = _weights(table, struct_ce_multiplier)[provenance, roles]
    # ids that the tokenizer does not know cover nothing: nothing is to be learned from them
    weight[(has_silent & (~is_closing | is_untaught)) | (starts == ends)] = 0.0
    codes: list[int] = provenance.tolist()
    return WeighedTokens(ce_weight=weight, roles=roles, provenance=tuple(_PROVENANCES[code] for code in codes))


def _weights(table: SupervisionTable, struct_ce_multiplier: float) -> FloatArray:
    """[provenance, role]"""
    weights = np.array([[table.ce_weight(provenance, role) for role in Role] for provenance in _PROVENANCES], dtype=np.float32)
    weights[:, Role.FORMAT] *= struct_ce_multiplier
    weights[_CODE[Provenance.CLOSURE], Role.FORMAT] = table.closure
    return weights


def _provenance_of(layout: Layout, starts: _Ints, ends: _Ints) -> _Ints:
    """[T] codes."""
    codes: _Ints = np.array([_CODE[item.provenance] for item in layout.items], dtype=np.int64)
    item_ends: _Ints = np.zeros(len(codes), dtype=np.int64)
    for span in layout.whole.spans:
        item_ends[_item_of(span)] = span.end
    last_item = len(codes) - 1
    first = np.minimum(np.searchsorted(item_ends, starts, side="right"), last_item)
    last = np.minimum(np.searchsorted(item_ends, np.maximum(ends - 1, starts), side="right"), last_item)
    numbers = np.arange(len(codes))
    is_untaught = np.isin(codes, [_CODE[kind] for kind in UNTAUGHT])
    next_untaught = np.minimum.accumulate(np.where(is_untaught, numbers, len(codes))[::-1])[::-1]
    return codes[np.where(next_untaught[first] <= last, np.minimum(next_untaught[first], last_item), last)]


def _silent_chars(layout: Layout, objects: Sequence[DetObject], *, table: SupervisionTable, desc_gate: DescGate | None) -> _Bools:
    """[characters] True where nothing is taught."""
    is_silent = np.zeros(len(layout.whole.text), dtype=bool)
    silent_kinds = {(kind, role) for kind in Provenance for role in Role if table.ce_weight(kind, role) == 0}
    accepted = _accepted_descs(layout, objects, desc_gate=desc_gate) if table.matched.desc > 0 else frozenset[int]()
    for span in layout.whole.spans:
        number = _item_of(span)
        item = layout.items[number]
        if (item.provenance, span.role) in silent_kinds or (span.role is Role.KEY and item.is_key_out_of_turn):
            is_silent[span.start : span.end] = True
        elif span.role is Role.DESC and item.provenance is Provenance.MATCHED and item.gt is not None and number not in accepted:
            is_silent[span.start : span.end] = _disagreement(layout.whole.text[span.start : span.end], escape_desc(objects[item.gt].desc))
    return is_silent


def _accepted_descs(layout: Layout, objects: Sequence[DetObject], *, desc_gate: DescGate | None) -> frozenset[int]:
    """The matched items whose name is the annotated one, or means the same."""
    matched = [(number, item.prediction.desc, objects[item.gt].desc) for number, item in enumerate(layout.items) if item.prediction and item.gt is not None]
    same = {number for number, said, annotated in matched if said == annotated}
    others = [(number, (said, annotated)) for number, said, annotated in matched if number not in same]
    if desc_gate is not None and others:
        verdicts = desc_gate([names for _, names in others])
        same.update(number for (number, _), is_same in zip(others, verdicts, strict=True) if is_same)
    return frozenset(same)


def _disagreement(said: str, annotated: str) -> _Bools:
    """[characters of `said`] True where the annotation has another character, and at the end of a name that stops short.

    Example: of `black cat` against `black dog`, the last three; of `cat` against `cats`, the last one.
    """
    differs = np.array([char != other for char, other in zip(said, annotated.ljust(len(said), "\0"), strict=False)], dtype=bool)
    differs[-1:] |= len(said) < len(annotated)
    return differs


def _item_of(span: TextSpan) -> int:
    assert span.object_index is not None
    return span.object_index
