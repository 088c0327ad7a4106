"""Which tokens may come next, so that an answer is a complete document of our format when it ends, and ends in time. No torch.

Masks are computed when a place is first seen and kept: what may follow depends on the place in the grammar, hardly ever on what was written before it. Each
allowed token comes with the number of tokens that the answer needs at least after it; near the limit those that need too many are left out. A short way to
the end (`AnswerGrammar.shortest`) is spelled with tokens of this vocabulary, so some token is always allowed as long as there was one at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordexp.codec.answer_grammar import AnswerGrammar, Place, State
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.desc_automaton import QUOTE
from coordexp.codec.piece_index import PieceIndex
from coordexp.geometry.bins import MAX_BIN
from coordexp.types.constraint import ConstraintSpec

Mask = npt.NDArray[np.bool_]

_NEVER = 2**14
"""Cost of a token that may not follow."""
_MAX_KEPT = 20_000
"""Places whose tokens are remembered."""


@dataclass(frozen=True, eq=False)
class Few:
    """The tokens that may follow where they are few."""

    ids: npt.NDArray[np.int32]
    costs: npt.NDArray[np.int16]
    """Tokens that the answer needs at least after each, the end included."""
    highest: int
    """The largest of the costs."""


@dataclass(frozen=True, eq=False)
class InDesc:
    """The tokens that stay inside an open desc."""

    mask: Mask
    """[vocabulary]"""
    costs: npt.NDArray[np.int16]
    """[vocabulary] as in `Few`; `_NEVER` for the others."""
    closing: npt.NDArray[np.int16]
    """[vocabulary] tokens that the desc alone needs at least after each, the one with the quote included."""
    highest: int
    highest_closing: int
    left: tuple[tuple[int, bytes], ...]
    """(token, what stands behind the quote) of the tokens that end the desc."""


class AnswerAutomaton:
    """The allowed tokens of every place. One for a vocabulary and a spec; it may serve any number of answers, in one thread.

    Example: `automaton.follow(automaton.start, token_id)` is the next state, or None when the token may not stand there.
    """

    def __init__(self, spec: ConstraintSpec, index: PieceIndex, *, coord_vocab: CoordVocabulary | None, stop_ids: Sequence[int]) -> None:
        """Args beside the obvious.

        coord_vocab: None for a vocabulary without coordinate tokens; with `coord_mode: text` only.
        stop_ids: what ends an answer.

        Raises:
            ValueError: coordinate tokens are asked for and there are none.
        """
        if spec.coord_mode == "coord" and coord_vocab is None:
            raise ValueError("answers with coordinate tokens need a vocabulary that has them")
        self.spec, self.index = spec, index
        self._grammar, self._coord_vocab = AnswerGrammar(spec), coord_vocab
        self._coord_ids = np.array(() if coord_vocab is None else coord_vocab.ids, dtype=np.int32)
        self._stop_ids = tuple(dict.fromkeys(stop_ids))
        self._costs: dict[State, int] = {}
        self._few: dict[tuple[State, int], Few] = {}
        self._in_desc: dict[int, InDesc] = {}
        self.start = self._grammar.start

    def is_in_desc(self, state: State) -> bool:
        """Whether the next byte belongs to a desc, or ends one."""
        return self._grammar.place(state) is Place.DESC

    def is_done(self, state: State) -> bool:
        """Whether the end token was written."""
        return self._grammar.place(state) is Place.DONE

    def follow(self, state: State, token_id: int) -> State | None:
        """The state behind a token; None: it may not follow. No mask is needed for it."""
        grammar, place = self._grammar, self._grammar.place(state)
        if place in (Place.END, Place.DONE):
            return grammar.take_end(state) if token_id in self._stop_ids else None
        if place is Place.COORD and grammar.has_tokens:
            k = None if self._coord_vocab is None else self._coord_vocab.bin_of(token_id)
            return None if k is None else grammar.take_coord(state, k)
        if token_id in self.index.special or not 0 <= token_id < self.index.vocab_size:
            return None
        piece = self.index.tokenizer.piece(token_id)
        return self._run(state, piece) if piece else None

    def cost(self, state: State) -> int:
        """Tokens that the answer needs at least from here, the end included: enough for sure, not always the fewest. Behind the end: 0."""
        if self.is_done(state):
            return 0
        known = self._costs.get(self._grammar.cost_key(state))
        return self._find_costs(state) if known is None else known

    def fill(self, state: State, allowed: Mask, *, left: int, desc_left: int) -> bool:
        """Set `allowed` [vocabulary] to what may follow.

        Args:
            state: where the answer is.
            allowed: written to.
            left: tokens that the answer may still have, the next one and the end included.
            desc_left: tokens that the desc may still have, when the answer is in one.

        Returns:
            Whether `left` took some of the choice away.
        """
        if self.spec.labels is None and self.is_in_desc(state):
            return self._fill_in_desc(state, allowed, left=left, desc_left=desc_left)
        few = self._few_at(state)
        allowed[:] = False
        return _add(few, allowed, left=left)

    def _run(self, state: State, piece: bytes) -> State | None:
        following: State | None = state
        for byte in piece:
            following = self._grammar.step(following, byte)
            if following is None:
                return None
        return following

    def _find_costs(self, state: State) -> int:
        """Spell the short way up to the next token of its own with as few tokens as possible, and remember the costs along it."""
        grammar, known = self._grammar, self.index.known
        text, keys = bytearray(), [grammar.cost_key(state)]
        byte, following = grammar.shortest(state)
        while byte is not None:
            text.append(byte)
            keys.append(grammar.cost_key(following))
            byte, following = grammar.shortest(following)
        costs = [0] * len(keys)
        costs[-1] = 1 + self.cost(following)
        for start in range(len(text) - 1, -1, -1):
            ends = range(start + 1, min(len(text), start + self.index.longest) + 1)
            costs[start] = 1 + min(costs[end] for end in ends if bytes(text[start:end]) in known)
        self._costs.update(zip(keys, costs, strict=True))
        return costs[0]

    def _few_at(self, state: State) -> Few:
        grammar = self._grammar
        if not grammar.has_tokens:
            return self._kept(State(state.node, state.sub, 0, state.x1, state.y1), state, self._walk)
        if grammar.place(state) is Place.COORD:
            return self._kept(State(state.node, grammar.lowest(state)), state, self._coords)
        return self._kept(State(state.node, state.sub), state, self._walk)

    def _kept(self, key: State, state: State, find: Callable[[State], list[tuple[int, State]]]) -> Few:
        """What was found at this place before, for any N or for this one."""
        few = self._few.get((key, 0)) or self._few.get((key, state.number))
        if few is None:
            self._grammar.depends_on_number = False
            pairs = find(state)
            costs = [self.cost(after) for _, after in pairs]
            few = Few(np.array([token_id for token_id, _ in pairs], dtype=np.int32), np.array(costs, dtype=np.int16), max(costs, default=0))
            depends = self._grammar.depends_on_number or any(self._grammar.is_before_number(after) for _, after in pairs)
            if len(self._few) >= _MAX_KEPT:
                self._few.clear()
            self._few[key, state.number if depends else 0] = few
        return few

    def _walk(self, state: State) -> list[tuple[int, State]]:
        if self._grammar.place(state) in (Place.END, Place.DONE):
            done = self._grammar.take_end(state)
            assert done is not None
            return [(token_id, done) for token_id in self._stop_ids]
        return [(int(self.index.ids[place]), after) for place, after in self.index.walk(state, self._grammar.step)]

    def _coords(self, state: State) -> list[tuple[int, State]]:
        after = self._grammar.take_coord(state, MAX_BIN)
        assert after is not None
        return [(int(token_id), after) for token_id in self._coord_ids[self._grammar.lowest(state) :]]

    def _fill_in_desc(self, state: State, allowed: Mask, *, left: int, desc_left: int) -> bool:
        inside = self._in_desc.get(state.sub)
        if inside is None:
            inside = self._in_desc[state.sub] = self._run_desc(state)
        allowed[:] = inside.mask
        is_short = inside.highest >= left
        if is_short:
            allowed &= inside.costs < left
        if inside.highest_closing >= desc_left:
            allowed &= inside.closing < desc_left
        if inside.left:
            leaving = self._kept(State(state.node, -1 - state.sub), state, lambda state: self._leave_desc(state, inside))
            is_short = _add(leaving, allowed, left=left) or is_short
        return is_short

    def _leave_desc(self, state: State, inside: InDesc) -> list[tuple[int, State]]:
        behind = self._grammar.leave_desc(state)
        found = ((token_id, self._run(behind, rest)) for token_id, rest in inside.left)
        return [(token_id, after) for token_id, after in found if after is not None]

    def _run_desc(self, state: State) -> InDesc:
        """Drive the whole vocabulary through the desc."""
        desc, ids = self._grammar.desc, self.index.ids
        distance = np.array(desc.distance, dtype=np.int16)
        run = self.index.run_table(desc.table, state.sub, exits=distance == 0, exit_byte=QUOTE)
        stays = np.flatnonzero(run.states >= 0)
        after, token_ids = run.states[stays], ids[stays]
        cost_of = np.array([self.cost(State(state.node, sub)) for sub in range(len(distance))], dtype=np.int16)
        mask = np.zeros(self.index.vocab_size, dtype=bool)
        costs, closing = np.full(len(mask), _NEVER, dtype=np.int16), np.zeros(len(mask), dtype=np.int16)
        mask[token_ids], costs[token_ids], closing[token_ids] = True, cost_of[after], distance[after] + 1
        ends = zip(map(int, run.left), map(int, run.left_at), strict=True)
        left = tuple((int(ids[place]), self.index.pieces[place][at:]) for place, at in ends)
        return InDesc(mask, costs, closing, int(cost_of[after].max()), int(closing.max()), left)


class AnswerRow:
    """One answer under way: where it is and how many tokens it may still have.

    Example:
        row = AnswerRow(automaton, max_new_tokens=512)
        row.fill(allowed)
        row.push(token_id)
    """

    __slots__ = ("_automaton", "_desc_left", "_left", "is_hurried", "is_short", "state")

    def __init__(self, automaton: AnswerAutomaton, *, max_new_tokens: int) -> None:
        """`max_new_tokens` counts the end token. Raises ValueError when not even the empty answer fits."""
        self._automaton, self._left = automaton, max_new_tokens
        self.state, self._desc_left = automaton.start, 0
        self.is_short = False
        """Whether the limit ever took some of the choice away: the answer might have been longer."""
        self.is_hurried = False
        """Whether it was told to end."""
        if automaton.cost(self.state) > max_new_tokens:
            raise ValueError(f"the empty answer has {automaton.cost(self.state)} tokens, and {max_new_tokens} are allowed")

    def fill(self, allowed: Mask) -> None:
        """Set `allowed` [vocabulary] to the tokens that may come next; at least one may."""
        if self._automaton.fill(self.state, allowed, left=self._left, desc_left=self._desc_left):
            self.is_short = True

    def push(self, token_id: int) -> bool:
        """Take the next token; False, and nothing changes, when it may not stand here. Limits of length are a matter of `fill`."""
        automaton = self._automaton
        following = automaton.follow(self.state, token_id)
        if following is None:
            return False
        if automaton.is_in_desc(following):
            self._desc_left = self._desc_left - 1 if automaton.is_in_desc(self.state) else automaton.spec.max_desc_tokens
        self.state = following
        self._left -= 1
        return True

    def close_soon(self) -> None:
        """From now on only what leads to the end soonest."""
        self.is_hurried = True
        self._left = min(self._left, self._automaton.cost(self.state))

    @property
    def is_done(self) -> bool:
        """Whether the end token was written."""
        return self._automaton.is_done(self.state)

    def copy(self) -> AnswerRow:
        """An answer with the same beginning that goes its own way."""
        twin = AnswerRow.__new__(AnswerRow)
        for name in AnswerRow.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin


def _add(few: Few, allowed: Mask, *, left: int) -> bool:
    if few.highest < left:
        allowed[few.ids] = True
        return False
    allowed[few.ids[few.costs < left]] = True
    return True
