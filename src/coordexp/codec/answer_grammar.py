"""The assistant language as a machine that takes one byte or one coordinate at a time. It accepts what the serializer writes for a `ConstraintSpec`, and
nothing else but other ways to spell a desc.

A state is a plain tuple, so it can be kept, compared and looked up. It never has to be known in advance how an answer is cut into tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from coordexp.codec.desc_automaton import QUOTE, DescAutomaton, closed_desc, open_desc
from coordexp.geometry.bins import MAX_BIN
from coordexp.types.constraint import ConstraintSpec


class Place(Enum):
    LITERAL = "literal"
    KEY = "key"
    """The digits of N in `object_N`."""
    DESC = "desc"
    COORD = "coord"
    END = "end"
    """The document is complete: only the end token may follow."""
    DONE = "done"
    """Behind the end token."""


class State(NamedTuple):
    """Where an answer is. Example: `State(node=0, sub=0, number=0, x1=0, y1=0)` is the start."""

    node: int
    sub: int = 0
    """KEY: digits so far. DESC: state of its automaton. COORD in text mode: 0, or 1 + the value of the digits so far."""
    number: int = 0
    """Objects that were begun: N of the last key."""
    x1: int = 0
    """Of a box whose x2 is still to come, else 0."""
    y1: int = 0


Move: TypeAlias = "int | None"
"""A byte; None: a token of its own (a coordinate, or the end)."""


@dataclass(slots=True)
class _Node:
    place: Place = Place.LITERAL
    steps: dict[int, int] = field(default_factory=dict[int, int])
    """LITERAL: the next node, by byte."""
    then: int = -1
    """Other places: the node behind it."""
    shortest: int = -1
    """LITERAL: the byte that ends the answer soonest."""
    slot: str = ""
    """COORD: `x1`, `y1`, `x2`, `y2` of a box; empty in a polygon."""
    begins_object: bool = False
    """The comma behind an object, and the first key: where `max_objects` counts."""
    knows_number: bool = False
    """What may follow depends on N until the key is written."""


class AnswerGrammar:
    """Example: `grammar.step(grammar.start, ord("{"))` is the state after the first brace; `grammar.step(grammar.start, ord(" "))` is None."""

    def __init__(self, spec: ConstraintSpec) -> None:
        self.spec = spec
        self.has_tokens = spec.coord_mode == "coord"
        """Coordinates are tokens of their own."""
        self.desc: DescAutomaton = open_desc() if spec.labels is None else closed_desc(spec.labels)
        self._nodes = _Builder(spec).nodes
        self.start = State(0)
        self.depends_on_number = False
        """Set by `step` when N decided something; whoever wants to know clears it before."""

    def place(self, state: State) -> Place:
        return self._nodes[state.node].place

    def step(self, state: State, byte: int) -> State | None:
        """The state after one more byte; None: it may not follow."""
        node = self._nodes[state.node]
        if node.place is Place.LITERAL:
            return self._step_literal(state, node, byte)
        if node.place is Place.DESC:
            return self._step_desc(state, node, byte)
        if node.place is Place.KEY:
            return self._step_key(state, node, byte)
        return self._step_digit(state, node, byte) if node.place is Place.COORD and not self.has_tokens else None

    def leave_desc(self, state: State) -> State:
        """The state behind the quote that ends the desc."""
        return State(self._nodes[state.node].then, 0, state.number)

    def is_before_number(self, state: State) -> bool:
        """Whether a key is begun and its N still to be written."""
        return self._nodes[state.node].knows_number

    def take_coord(self, state: State, k: int) -> State | None:
        """The state after the coordinate token of bin k; None: it may not follow."""
        node = self._nodes[state.node]
        if node.place is not Place.COORD or not self.has_tokens or k < self.lowest(state):
            return None
        return self._behind_coord(state, node, k)

    def take_end(self, state: State) -> State | None:
        """The state after the end token; None: the document is not complete."""
        node = self._nodes[state.node]
        return State(node.then, 0, state.number) if node.place in (Place.END, Place.DONE) else None

    def lowest(self, state: State) -> int:
        """The lowest coordinate that may stand here: a box has x1 <= x2 and y1 <= y2."""
        slot = self._nodes[state.node].slot
        return state.x1 if slot == "x2" else state.y1 if slot == "y2" else 0

    def shortest(self, state: State) -> tuple[Move, State]:
        """One step of a short way to the end: an answer that always goes on like this is complete after few tokens.

        It closes what is open, ends a desc as soon as it can, and writes the highest coordinates, since these may stand anywhere.
        """
        node = self._nodes[state.node]
        if node.place is Place.END:
            return None, State(node.then, 0, state.number)
        if node.place is Place.COORD and self.has_tokens:
            return None, self._behind_coord(state, node, MAX_BIN)
        byte = self._shortest_byte(state, node)
        following = self.step(state, byte)
        assert following is not None, (state, byte)
        return byte, following

    def cost_key(self, state: State) -> State:
        """States with the same key have the same ways of `shortest`."""
        node = self._nodes[state.node]
        number = state.number if node.knows_number else 0
        if node.place is Place.COORD and not self.has_tokens and state.sub:
            # it is the number of digits that matters; a zero is as long as it can be
            return State(state.node, 1 if state.sub == 1 or state.sub > 100 else 2 if state.sub > 10 else 3, number)
        return State(state.node, state.sub, number)

    def _shortest_byte(self, state: State, node: _Node) -> int:
        if node.place is Place.DESC:
            return self.desc.closing[state.sub]
        if node.place is Place.KEY:
            return ord(str(state.number)[state.sub])
        if node.place is Place.COORD:
            is_whole = state.sub == 1 or state.sub > 100
            return self._nodes[node.then].shortest if is_whole else ord("9")
        return node.shortest

    def _step_literal(self, state: State, node: _Node, byte: int) -> State | None:
        target = node.steps.get(byte)
        if target is None:
            return None
        if node.begins_object and self.spec.max_objects is not None and target != node.then:
            self.depends_on_number = True
            if state.number >= self.spec.max_objects:
                return None
        is_key = self._nodes[target].place is Place.KEY
        return State(target, 0, state.number + is_key, state.x1, state.y1)

    def _step_desc(self, state: State, node: _Node, byte: int) -> State | None:
        if byte == QUOTE and self.desc.distance[state.sub] == 0:
            return self.leave_desc(state)
        following = self.desc.steps[state.sub].get(byte)
        return None if following is None else State(state.node, following, state.number)

    def _step_key(self, state: State, node: _Node, byte: int) -> State | None:
        self.depends_on_number = True
        digits = str(state.number)
        if ord(digits[state.sub]) != byte:
            return None
        return State(node.then, 0, state.number) if state.sub + 1 == len(digits) else State(state.node, state.sub + 1, state.number)

    def _step_digit(self, state: State, node: _Node, byte: int) -> State | None:
        """A digit of a number without leading zeros, or what follows the number."""
        lowest = self.lowest(state)
        if not ord("0") <= byte <= ord("9"):
            if state.sub == 0 or state.sub - 1 < lowest:
                return None
            return self.step(self._behind_coord(state, node, state.sub - 1), byte)
        if state.sub == 1:
            return None
        value = 10 * max(state.sub - 1, 0) + byte - ord("0")
        if value > MAX_BIN or _highest(value) < lowest:
            return None
        return State(state.node, 1 + value, state.number, state.x1, state.y1)

    def _behind_coord(self, state: State, node: _Node, k: int) -> State:
        x1 = k if node.slot == "x1" else state.x1 if node.slot == "y1" else 0
        y1 = k if node.slot == "y1" else state.y1 if node.slot == "x2" else 0
        return State(node.then, 0, state.number, x1, y1)


def _highest(value: int) -> int:
    """The highest bin whose digits begin with these."""
    if value == 0 or value > MAX_BIN // 10:
        return value
    return 10 * value + 9 if value > MAX_BIN // 100 else 100 * value + 99


class _Builder:
    """Lays out the nodes of the grammar. Of several ways on from a node the one that is written first counts as the shortest."""

    def __init__(self, spec: ConstraintSpec) -> None:
        self._quote = '"' if spec.coord_mode == "coord" else ""
        self.nodes: list[_Node] = [_Node()]
        opened, after, done = self._add(), self._add(), self._add(Place.DONE)
        end, key = self._add(Place.END, then=done), self._add(Place.KEY, then=self._add())
        self.nodes[done].then = done
        self._write(0, "{", opened)
        for node, text in ((opened, '"object_'), (after, ', "object_')):
            self._write(node, "}", end)
            self._write(node, text, key)
            self.nodes[node].then, self.nodes[node].begins_object = end, True
        self._write_fields(self.nodes[key].then, after, spec)
        for node in self.nodes:
            node.knows_number = self._place_ahead(node) is Place.KEY

    def _write_fields(self, node: int, after: int, spec: ConstraintSpec) -> None:
        """What stands behind the digits of a key, up to the brace that ends the object."""
        behind_geometry, desc = self._add(), self._add(Place.DESC, then=self._add())
        behind_desc = self.nodes[desc].then
        if spec.field_order == "desc_first":
            self._write(node, '": {"desc": "', desc)
            self._write_geometry(behind_desc, ", ", behind_geometry, spec)
            self._write(behind_geometry, "}", after)
        else:
            self._write_geometry(node, '": {', behind_geometry, spec)
            self._write(behind_geometry, ', "desc": "', desc)
            self._write(behind_desc, "}", after)

    def _write_geometry(self, node: int, before: str, behind: int, spec: ConstraintSpec) -> None:
        quote = self._quote
        if "bbox_2d" in spec.kinds:
            behind_slot = self._coord(node, f'{before}"bbox_2d": [{quote}', "x1")
            for slot in ("y1", "x2", "y2"):
                behind_slot = self._coord(behind_slot, f"{quote}, {quote}", slot)
            self._write(behind_slot, f"{quote}]", behind)
        if "poly" in spec.kinds:
            self._write_polygon(self._coord(node, f'{before}"poly": [[{quote}'), behind)

    def _write_polygon(self, behind_x: int, behind: int) -> None:
        quote, behind_y = self._quote, -1
        for number in range(3):
            if number:
                behind_x = self._coord(behind_y, f"{quote}], [{quote}")
            behind_y = self._coord(behind_x, f"{quote}, {quote}")
        self._write(behind_y, f"{quote}]]", behind)
        third = next(place for place, node in enumerate(self.nodes) if node.place is Place.COORD and node.then == behind_x)
        self._write(behind_y, f"{quote}], [{quote}", third)

    def _coord(self, node: int, before: str, slot: str = "") -> int:
        """Text, then a coordinate; returns the node behind it."""
        place = self._add(Place.COORD, then=self._add())
        self.nodes[place].slot = slot
        self._write(node, before, place)
        return self.nodes[place].then

    def _write(self, node: int, text: str, target: int) -> None:
        """From `node` by the bytes of `text` to `target`; what is written already is shared."""
        for byte in text[:-1].encode():
            steps = self.nodes[node].steps
            if byte not in steps:
                self._link(node, byte, self._add())
            node = steps[byte]
        self._link(node, ord(text[-1]), target)

    def _link(self, node: int, byte: int, target: int) -> None:
        assert byte not in self.nodes[node].steps, "two texts, one of which begins the other"
        if not self.nodes[node].steps:
            self.nodes[node].shortest = byte
        self.nodes[node].steps[byte] = target

    def _add(self, place: Place = Place.LITERAL, *, then: int = -1) -> int:
        self.nodes.append(_Node(place, then=then))
        return len(self.nodes) - 1

    def _place_ahead(self, node: _Node) -> Place:
        while node.place is Place.LITERAL:
            node = self.nodes[node.steps[node.shortest]]
        return node.place
