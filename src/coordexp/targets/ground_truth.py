"""Ground truth to a target: the assistant text in one tokenization, roles by character offsets, weights by the supervision table, coordinate slots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.prompts import CoordMode, FieldOrder
from coordexp.codec.roles import token_roles
from coordexp.codec.serialize import END_TEXT, AssistantText, serialize_objects, with_end
from coordexp.codec.text_tokenizer import AnyTokenizer, TextTokenizer, Tokens
from coordexp.targets.supervision import SupervisionTable, ground_truth_table
from coordexp.types.errors import CheckpointError
from coordexp.types.records import DetObject
from coordexp.types.sequences import CoordSlot, Provenance, Role, TargetSequence


def ground_truth_target(
    objects: Sequence[DetObject],
    *,
    tokenizer: AnyTokenizer,
    coord_vocab: CoordVocabulary | None,
    field_order: FieldOrder = "desc_first",
    coord_mode: CoordMode = "coord",
    table: SupervisionTable | None = None,
) -> TargetSequence:
    """What the model should answer for these objects, which hold bins and are in the order in which they are to be written.

    Args:
        objects: may be empty: the answer is `{}`.
        tokenizer: a `TextTokenizer` made once is fastest; a fast tokenizer of transformers is wrapped.
        coord_vocab: needed in mode `coord`.
        field_order: which field of an object comes first.
        coord_mode: `coord` gives slots and no cross-entropy at coordinates; `text` writes plain digits and gives no slots.
        table: the row `ground_truth` is used; default: everything is on.

    Raises:
        CheckpointError: a coordinate is not exactly one token, or the text does not end with the one end token.
        ValueError: a coordinate is not an integer bin.
    """
    table = table or ground_truth_table(coord_digits=coord_mode == "text")
    text = with_end(serialize_objects(objects, field_order=field_order, coord_mode=coord_mode))
    tokens = TextTokenizer.of(tokenizer).encode(text.text)
    if not tokens.offsets or tokens.offsets[-1] != (len(text.text) - len(END_TEXT), len(text.text)):
        raise CheckpointError(f"{END_TEXT} is not one token", where="tokenizer", fix="use a checkpoint with the chat tokens of Qwen3-VL")
    roles = token_roles(text.spans, tokens.offsets)
    weight_of = {role: table.ce_weight(Provenance.GROUND_TRUTH, role) for role in Role}
    return TargetSequence(
        token_ids=np.asarray(tokens.ids, dtype=np.int32),
        ce_weight=np.asarray([weight_of[role] for role in roles], dtype=np.float32),
        roles=np.asarray(roles, dtype=np.int8),
        slots=_slots(objects, text, tokens, coord_vocab, weight=table.ground_truth.geometry) if coord_mode == "coord" else (),
    )


def _slots(objects: Sequence[DetObject], text: AssistantText, tokens: Tokens, coord_vocab: CoordVocabulary | None, *, weight: float) -> tuple[CoordSlot, ...]:
    """One slot for each object, its positions found by the offsets of its coordinates."""
    if coord_vocab is None:
        raise ValueError("mode coord needs a coordinate vocabulary")
    positions = coord_positions(text, tokens, coord_vocab=coord_vocab)
    return tuple(
        CoordSlot(kind=item.kind, positions=positions[number], target_bins=tuple(float(k) for k in item.points), weight=weight)
        for number, item in enumerate(objects)
    )


def coord_positions(text: AssistantText, tokens: Tokens, *, coord_vocab: CoordVocabulary) -> dict[int, tuple[int, ...]]:
    """The tokens of the coordinates of each object, by `object_index`.

    Raises:
        CheckpointError: a coordinate is not exactly one token.
    """
    token_at = {span: position for position, span in enumerate(tokens.offsets)}
    positions: dict[int, list[int]] = {}
    for span in text.spans:
        if span.role is Role.COORD and span.object_index is not None:
            position = token_at.get((span.start, span.end))
            if position is None or coord_vocab.bin_of(tokens.ids[position]) is None:
                what = f"the coordinate {text.text[span.start : span.end]} is not exactly one token"
                raise CheckpointError(what, where="tokenizer", fix="add the coordinate tokens to the checkpoint's vocabulary as special tokens")
            positions.setdefault(span.object_index, []).append(position)
    return {number: tuple(found) for number, found in positions.items()}
