"""A model's own answer to a target: what it wrote, as far as it is kept, the objects that it missed, the closure; weights by the supervision table.

The answer's token ids stay what they are, but for a token that a border falls into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.pieces import decode_pieces
from coordexp.codec.prompts import FieldOrder
from coordexp.codec.scanner import Stop, scan_value
from coordexp.codec.serialize import END_TEXT
from coordexp.codec.text_tokenizer import AnyTokenizer, TextTokenizer, Tokens
from coordexp.targets.ground_truth import coord_positions
from coordexp.targets.layout import Item, Layout, MissedPosition, lay_out
from coordexp.targets.prefix import KeptEntries, cut_surplus, drop_unmatched, refuse_other_names
from coordexp.targets.splice import splice
from coordexp.targets.supervision import SupervisionTable
from coordexp.targets.transport import TransportSettings, matched_bins
from coordexp.targets.weights import DescGate, weigh_tokens
from coordexp.types.records import DetObject
from coordexp.types.rollouts import Match, ParsedRollout
from coordexp.types.sequences import CoordSlot, Provenance, TargetSequence


@dataclass(frozen=True, slots=True)
class RolloutTargetOptions:
    """How a target goes on from an answer. Example: `RolloutTargetOptions(missed_position="sorted", renumber_keys=True)`"""

    field_order: FieldOrder = "desc_first"
    """Of the missed objects."""
    missed_position: MissedPosition = "tail"
    renumber_keys: bool = False
    """Write all keys anew, from 1; else own keys stay, and missed objects take the next free ones."""
    cut_surplus: bool = False
    """End the own part where nothing matched follows and the ground truth has no more objects."""
    same_names: bool = False
    """A matched prediction that is called differently counts as unmatched, its annotation as missed."""
    drop_unmatched: bool = False
    """Unmatched predictions leave the answer: right only where every object is annotated."""
    struct_ce_multiplier: float = 1.0
    """Of the cross-entropy of structure in an answer with something invalid in it."""
    transport: TransportSettings = field(default_factory=TransportSettings)
    """Targets of matched polygons."""


@dataclass(frozen=True, slots=True)
class RolloutTarget:
    """A target with what it was made of."""

    target: TargetSequence
    text: str
    """With the end token."""
    provenance: tuple[Provenance, ...]
    """[T]: where each token came from. A token of two entries counts as the untaught one, else as the later one; one with the outermost brace as closure."""
    kept: KeptEntries
    """The own entries in it."""
    match: Match
    """Of `kept.objects` and the ground truth."""
    num_joins: int
    """Places where the model's tokens meet others."""
    num_noncanonical_joins: int
    """Those where the tokenizer would have cut the same text differently."""
    is_fallback: bool = False
    """The closing brace could not be located behind the answer: it was left out, and all ground truth counts as missed."""


def rollout_target(
    parsed: ParsedRollout,
    kept: KeptEntries,
    match: Match,
    objects: Sequence[DetObject],
    *,
    tokenizer: AnyTokenizer,
    coord_vocab: CoordVocabulary,
    table: SupervisionTable,
    options: RolloutTargetOptions | None = None,
    desc_gate: DescGate | None = None,
) -> RolloutTarget:
    """The one sequence that is trained on for a rollout: kept entries, missed objects, `}`, `<|im_end|>`. Positions count from its first token.

    Args:
        parsed: the answer.
        kept: which of its entries stay (`keep_entries`).
        match: of `kept.objects` and `objects`.
        objects: the ground truth, in bins, in the order in which it is written.
        tokenizer: a `TextTokenizer` made once is fastest.
        coord_vocab: which ids are coordinates.
        table: weights.
        options: where missed objects stand, what else is cut.
        desc_gate: names that it accepts are taught whole, with the table's weight of matched descs; without it, and where it says no, those tokens are taught
            that equal the annotated name at their place.

    Raises:
        CheckpointError: a coordinate, or the end, is not exactly one token.
        ValueError: the match is not one of these predictions and objects; a coordinate is not an integer bin.
    """
    options = options or RolloutTargetOptions()
    _check_match(match, num_predictions=len(kept.objects), num_objects=len(objects))
    if options.same_names:
        match = refuse_other_names(kept, match, objects)
    if options.drop_unmatched:
        kept, match = drop_unmatched(parsed, kept, match)
    if options.cut_surplus:
        kept, match = cut_surplus(parsed, kept, match, num_objects=len(objects))
    builder = _Builder(
        objects=objects,
        tokenizer=TextTokenizer.of(tokenizer),
        coord_vocab=coord_vocab,
        table=table,
        options=options,
        struct_ce_multiplier=options.struct_ce_multiplier if parsed.has_invalid else 1.0,
        desc_gate=desc_gate,
    )
    found = builder.build(parsed, kept, match)
    if found is not None:
        return found
    nothing = replace(parsed, objects=(), entries=(), prefix_ids=(), prefix_text="", num_retokenized=0, is_invalid=True)
    kept, match = KeptEntries(numbers=(), objects=()), Match(pairs=(), missed=tuple(range(len(objects))), unmatched=(), num_gated=match.num_gated)
    found = builder.build(nothing, kept, match)
    assert found is not None, "a target of ground truth alone is closed"
    return replace(found, is_fallback=True)


def _check_match(match: Match, *, num_predictions: int, num_objects: int) -> None:
    preds = sorted([*(pair.pred for pair in match.pairs), *match.unmatched])
    gts = sorted([*(pair.gt for pair in match.pairs), *match.missed])
    if preds != list(range(num_predictions)) or gts != list(range(num_objects)):
        raise ValueError(f"the match is not one of {num_predictions} kept predictions and {num_objects} objects")


def _closes(layout: Layout) -> bool:
    """Whether the brace in front of the end token is the outermost one, by depth."""
    scan = scan_value(layout.whole.text)
    return scan.stop is Stop.COMPLETE and scan.position == len(layout.whole.text) - len(END_TEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Builder:
    """What stays the same while a target is made."""

    objects: Sequence[DetObject]
    tokenizer: TextTokenizer
    coord_vocab: CoordVocabulary
    table: SupervisionTable
    options: RolloutTargetOptions
    struct_ce_multiplier: float
    desc_gate: DescGate | None

    def build(self, parsed: ParsedRollout, kept: KeptEntries, match: Match) -> RolloutTarget | None:
        """None when the closing brace is not the outermost one."""
        pieces = decode_pieces(parsed.prefix_ids, tokenizer=self.tokenizer)
        if pieces.text != parsed.prefix_text:
            raise ValueError("prefix_ids do not spell prefix_text")
        layout = lay_out(
            parsed,
            kept,
            match,
            self.objects,
            pieces=pieces,
            missed_position=self.options.missed_position,
            renumber_keys=self.options.renumber_keys,
            field_order=self.options.field_order,
        )
        if not _closes(layout):
            return None
        num_own = len(parsed.prefix_ids) - parsed.num_retokenized
        spliced = splice(layout, pieces=pieces, num_own=num_own, tokenizer=self.tokenizer, coord_vocab=self.coord_vocab)
        weighed = weigh_tokens(
            layout,
            spliced.tokens,
            self.objects,
            table=self.table,
            coord_vocab=self.coord_vocab,
            struct_ce_multiplier=self.struct_ce_multiplier,
            desc_gate=self.desc_gate,
        )
        target = TargetSequence(
            token_ids=np.asarray(spliced.tokens.ids, dtype=np.int32),
            ce_weight=weighed.ce_weight,
            roles=weighed.roles,
            slots=tuple(self._slots(layout, spliced.tokens)),
        )
        return RolloutTarget(
            target=target,
            text=layout.whole.text,
            provenance=weighed.provenance,
            kept=kept,
            match=match,
            num_joins=spliced.num_joins,
            num_noncanonical_joins=spliced.num_noncanonical_joins,
        )

    def _slots(self, layout: Layout, tokens: Tokens) -> Iterator[CoordSlot]:
        """One for each object that is taught where it is."""
        positions = coord_positions(layout.whole, tokens, coord_vocab=self.coord_vocab)
        for number, item in enumerate(layout.items):
            weight = self.table.geometry_weight(item.provenance)
            if item.gt is not None and weight > 0:
                yield self._slot(item, positions[number], weight=weight)

    def _slot(self, item: Item, positions: tuple[int, ...], *, weight: float) -> CoordSlot:
        assert item.gt is not None
        truth, own = self.objects[item.gt], item.prediction
        if own is None:
            bins = tuple(float(value) for value in truth.points)
            return CoordSlot(kind=truth.kind, positions=positions, target_bins=bins, weight=weight, provenance=Provenance.APPENDED)
        bins = matched_bins(own.kind, own.bins, truth, settings=self.options.transport)
        return CoordSlot(kind=own.kind, positions=positions, target_bins=bins, weight=weight, provenance=Provenance.MATCHED)
