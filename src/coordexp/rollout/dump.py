"""A produced rollout as a person reads it: tokens as text, with what became of each and what is taught in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coordexp.codec.pieces import TextPieces, decode_pieces
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.rollout.samples import ProducedRollout, ReadRollout
from coordexp.types.dumps import (
    DumpedAnswerToken,
    DumpedDrop,
    DumpedObject,
    DumpedRollout,
    DumpedTargetToken,
    Fate,
    Supervision,
)
from coordexp.types.sequences import Role


def describe_rollout(rollout: ProducedRollout, *, tokenizer: TextTokenizer) -> DumpedRollout:
    """Everything that a dump shows of a rollout."""
    read = rollout.read
    task, sample, parsed = read.task, read.sample, read.parsed
    predictions, annotations = _objects(read)
    return DumpedRollout(
        sample_id=task.sample_id,
        dataset=task.dataset,
        prompt=task.prompt.text,
        num_prompt_tokens=len(task.prompt.token_ids),
        answer=tuple(_answer_tokens(rollout, decode_pieces(sample.response_ids, tokenizer=tokenizer))),
        finish_reason=sample.finish_reason,
        seed=sample.seed,
        policy_version=sample.policy_version,
        is_truncated=parsed.is_truncated,
        is_invalid=parsed.is_invalid,
        num_ambiguous=parsed.num_ambiguous,
        predictions=predictions,
        annotations=annotations,
        drops=tuple(DumpedDrop(key=item.key, reason=item.reason, is_in_prefix=item.is_in_prefix) for item in parsed.dropped),
        target=tuple(_target_tokens(rollout, tokenizer)),
        is_fallback=rollout.target.is_fallback,
        num_joins=rollout.target.num_joins,
        num_noncanonical_joins=rollout.target.num_noncanonical_joins,
    )


def _objects(read: ReadRollout) -> tuple[tuple[DumpedObject, ...], tuple[DumpedObject, ...]]:
    """(predicted, annotated)"""
    of_pred, of_gt = {pair.pred: pair for pair in read.match.pairs}, {pair.gt: pair for pair in read.match.pairs}
    predictions = tuple(
        DumpedObject(item.desc, item.kind, item.bins, partner=pair.gt if pair else None, iou=pair.iou if pair else None, key=item.key)
        for item, pair in ((item, of_pred.get(place)) for place, item in enumerate(read.parsed.objects))
    )
    annotations = tuple(
        DumpedObject(item.desc, item.kind, item.points, partner=pair.pred if pair else None, iou=pair.iou if pair else None)
        for item, pair in ((item, of_gt.get(place)) for place, item in enumerate(read.task.objects))
    )
    return predictions, annotations


def _answer_tokens(rollout: ProducedRollout, pieces: TextPieces) -> Iterator[DumpedAnswerToken]:
    read, parsed = rollout.read, rollout.read.parsed
    matched = {pair.pred for pair in read.match.pairs}
    kept = set(rollout.target.kept.numbers)
    end = 0 if parsed.is_invalid else len(parsed.prefix_text)
    if end and pieces.text[end:].strip() == "}":  # the answer closed by itself, as the target does
        end = len(pieces.text)
    fates = [(Fate.CUT, False) if start >= end else (Fate.GLUE, True) for start in pieces.starts]
    for number, entry in enumerate(parsed.entries):
        read_as = entry.object_number
        fate = Fate.DROPPED if read_as is None else Fate.MATCHED if read_as in matched else Fate.UNMATCHED
        for position in range(*pieces.token_span(*entry.chars)):
            fates[position] = (fate, number in kept)
    for token_id, piece, (fate, is_kept) in zip(pieces.token_ids, pieces.pieces, fates, strict=True):
        yield DumpedAnswerToken(id=token_id, text=_spell(piece), fate=fate, is_kept=is_kept)


def _target_tokens(rollout: ProducedRollout, tokenizer: TextTokenizer) -> Iterator[DumpedTargetToken]:
    made, target = rollout.target, rollout.target.target
    slots = {position: (slot.weight, goal) for slot in target.slots for position, goal in zip(slot.positions, slot.target_bins, strict=True)}
    columns: Sequence[Sequence[float]] = (target.token_ids.tolist(), target.roles.tolist(), target.ce_weight.tolist())
    for place, (token_id, role, ce_weight) in enumerate(zip(*columns, strict=True)):
        slot_weight, goal = slots.get(place, (0.0, None))
        if slot_weight > 0:
            supervision, weight = Supervision.GEOMETRY, slot_weight
        elif ce_weight > 0:
            supervision, weight = Supervision.DESC if role == Role.DESC else Supervision.STRUCTURE, ce_weight
        else:
            supervision, weight = Supervision.NONE, 0.0
        yield DumpedTargetToken(
            id=int(token_id),
            text=_spell(tokenizer.piece(int(token_id))),
            role=Role(int(role)).name.lower(),
            provenance=made.provenance[place],
            supervision=supervision,
            weight=weight,
            target_bin=goal,
        )


def _spell(piece: bytes) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 0x80 else f"\\x{byte:02x}" for byte in piece)
