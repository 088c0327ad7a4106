"""The prompts: what the model is told about the format that it is to write. The only module that holds prompt text; a run's manifest records it.

The coordinate spelling is shown as `<|coord_N|>` and never as a real coordinate token, so that a repetition penalty over the prompt cannot touch one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias

from coordexp.geometry.bins import MAX_BIN
from coordexp.types.records import GeometryKind

Ordering: TypeAlias = Literal["sorted", "random"]
FieldOrder: TypeAlias = Literal["desc_first", "geometry_first"]
CoordMode: TypeAlias = Literal["coord", "text"]

_SHAPES: dict[GeometryKind, str] = {"bbox_2d": '"bbox_2d": [x1, y1, x2, y2]', "poly": '"poly": [[x1, y1], [x2, y2], [x3, y3], ...]'}
_KIND_NOTES: dict[tuple[GeometryKind, ...], str] = {
    ("bbox_2d",): "",
    ("poly",): " A polygon goes clockwise from its topmost vertex.",
    ("bbox_2d", "poly"): f" An object has either a box or a polygon, {_SHAPES['poly']}, clockwise from its topmost vertex.",
}
_ORDERS: dict[Ordering, str] = {"sorted": "Order the objects from top to bottom, then from left to right.", "random": "The objects may come in any order."}
_COORDS: dict[CoordMode, str] = {"coord": 'a token "<|coord_N|>" with N', "text": "an integer"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; the chat template and the image placeholder are the checkpoint's own."""

    system: str
    user: str


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """What a prompt depends on. Example: `PromptSpec(labels=("cat", "dog"))`"""

    ordering: Ordering = "sorted"
    field_order: FieldOrder = "desc_first"
    coord_mode: CoordMode = "coord"
    kinds: tuple[GeometryKind, ...] = ("bbox_2d",)
    labels: tuple[str, ...] | None = None
    """Categories to look for; None: everything."""


def build_prompt(spec: PromptSpec) -> Prompt:
    """The prompt for one image. No category name can smuggle a special token in: `<|` is written as an escape, as in a desc.

    Raises:
        ValueError: no geometry kind, or an unknown one.
    """
    kinds: tuple[GeometryKind, ...] = tuple(kind for kind in ("bbox_2d", "poly") if kind in spec.kinds)
    if not kinds or len(kinds) != len(spec.kinds):
        raise ValueError(f"geometry kinds must be out of bbox_2d and poly, each at most once, not {spec.kinds}")
    desc, shape = '"desc": "name"', _SHAPES[kinds[0]]
    fields = f"{desc}, {shape}" if spec.field_order == "desc_first" else f"{shape}, {desc}"
    system = (
        f'Detect objects. Answer with one line of JSON only: {{"object_1": {{{fields}}}, "object_2": ...}}.{_KIND_NOTES[kinds]}'
        f" Each coordinate is {_COORDS[spec.coord_mode]} from 0 (left or top edge) to {MAX_BIN} (right or bottom edge)."
        f" {_ORDERS[spec.ordering]} Answer {{}} if there is no object."
    )
    if spec.labels is None:
        return Prompt(system=system, user="Detect all objects in the image.")
    labels = json.dumps(list(spec.labels), ensure_ascii=False).replace("<|", "\\u003c|")
    return Prompt(system=system, user=f"Detect all objects of these categories in the image: {labels}")
