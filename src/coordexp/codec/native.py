"""Stock Qwen3-VL's own grounding format: how it is asked, and how its answer is read.

    [{"bbox_2d": [x1, y1, x2, y2], "label": "name"}, …]        corners in 0..1000 of the image's width and height, often in a code fence

Reading salvages: entries that are complete count, whatever stands around them; those that are not are counted by reason.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from coordexp.codec.prompts import Prompt
from coordexp.codec.salvage import Broken
from coordexp.codec.scanner import Kind, Node, Stop, read_string, scan_value
from coordexp.codec.serialize import END_TEXT
from coordexp.types.rollouts import SalvagedObject, SalvagedText

NATIVE_SCALE = 1000
"""Right and lower edge of the image in the model's own coordinates."""

_NAMES = ("label", "desc")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def native_prompt(labels: Sequence[str] | None) -> Prompt:
    """The question that the model was trained on; without a system text. `labels` None: everything."""
    if labels is None:
        return Prompt(system="", user="Locate every object in the image. Report bbox coordinates in JSON format.")
    names = ", ".join(labels).replace("<|", "< |")  # no name can smuggle a special token in
    return Prompt(system="", user=f'Locate every instance that belongs to the following categories: "{names}". Report bbox coordinates in JSON format.')


def read_native(text: str) -> SalvagedText:
    """Read a model's text; never fails. Order of corners and range are judged later, in pixels."""
    answer = text.partition(END_TEXT)[0]
    objects: list[SalvagedObject] = []
    broken: Counter[Broken] = Counter()
    position, is_truncated = 0, False
    while (start := answer.find("{", position)) >= 0:
        scan = scan_value(answer, start, allow_trailing_commas=True)
        position = max(scan.position, start + 1)
        is_truncated = scan.stop is Stop.TRUNCATED
        if scan.stop is not Stop.COMPLETE or scan.root is None:
            broken[Broken.INVALID_JSON] += 1
            continue
        for node in scan.root.walk():
            if node.kind is Kind.OBJECT and "bbox_2d" in _members(answer, node):
                read = _read_entry(answer, node)
                if isinstance(read, Broken):
                    broken[read] += 1
                else:
                    objects.append(read)
    counts = tuple((str(reason), broken[reason]) for reason in Broken if broken[reason])
    return SalvagedText(objects=tuple(objects), broken=counts, is_truncated=is_truncated)


def _read_entry(text: str, entry: Node) -> SalvagedObject | Broken:
    members = _members(text, entry)
    box = members["bbox_2d"]
    name = next((members[key] for key in _NAMES if key in members), None)
    if name is not None and name.kind is not Kind.STRING:
        return Broken.DESC_NOT_TEXT
    if box.kind is not Kind.ARRAY or not box.children:
        return Broken.GEOMETRY_POINTS
    spelled = [text[leaf.start : leaf.end] for leaf in box.children]
    values = [float(word) if _NUMBER.fullmatch(word) else math.nan for word in spelled]
    if not all(map(math.isfinite, values)):
        return Broken.COORD_PARSE
    return SalvagedObject(
        desc="" if name is None else read_string(text, (name.start, name.end)),
        kind="bbox_2d",
        values=tuple(values),
        is_tokens=False,
        char_span=(entry.start, entry.end),
        desc_chars=(entry.start, entry.start) if name is None else (name.start + 1, name.end - 1),
        coord_chars=tuple((leaf.start, leaf.end) for leaf in box.children),
    )


def _members(text: str, node: Node) -> dict[str, Node]:
    return {read_string(text, child.key): child for child in node.children if child.key is not None}
