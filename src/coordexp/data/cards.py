"""The card beside a record file (`<name>.card.md`): what it holds, from what and by which commands it was made.

Its end is JSON, from which the card of the next step goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from coordexp import __version__
from coordexp.data.chunks import Chunk, map_chunks
from coordexp.data.jsonl import as_error
from coordexp.data.rules import RecordReader
from coordexp.data.tally import add_counts
from coordexp.types.files import file_sha256, write_text

_MARK = "<!-- history: read by the next step; do not edit -->\n```json\n"
_TOP_LABELS = 20


@dataclass(frozen=True, slots=True)
class CardStep:
    """One step of the way. Example: `CardStep("coordexp data coord train.jsonl", "20 records, 61 objects", "train.coord.jsonl", "9f8a…")`"""

    command: str
    sentence: str
    """What it counted."""
    output: str
    sha256: str
    """Of the output."""


@dataclass(slots=True)
class CardSource:
    """A file that the way began with."""

    path: str
    sha256: str
    num_bytes: int

    @classmethod
    def of(cls, path: Path) -> CardSource:
        return cls(str(path), file_sha256(path), path.stat().st_size)


@dataclass(slots=True)
class _Facts:
    num_records: int = 0
    num_objects: int = 0
    num_empty: int = 0
    spaces: Counter[str] = field(default_factory=Counter[str])
    kinds: Counter[str] = field(default_factory=Counter[str])
    labels: Counter[str] = field(default_factory=Counter[str])


def card_path(output: Path) -> Path:
    """Example: `train.coord.jsonl` has its card in `train.coord.card.md`."""
    return output.with_suffix(".card.md")


def write_card(output: Path, *, command: str, sentence: str, sources: Sequence[Path], workers: int = 1) -> Path:
    """Write the card of `output`; steps and sources of the cards beside `sources` come before its own.

    Args:
        output: a record file, whose content is counted, or a file of another format.
        command: what made it.
        sentence: what that counted.
        sources: the files that it was made from; folders are named without a digest.
        workers: processes that count; 0: one a processor.

    Raises:
        DataError: a broken record.
        OutputError: the card cannot be written.
    """
    steps, first = list[CardStep](), dict[str, CardSource]()
    for source in sources:
        history = _read_history(source)
        if history is None:
            first[str(source)] = CardSource.of(source) if source.is_file() else CardSource(str(source), "", 0)
            continue
        steps += [step for step in history[0] if step not in steps]
        first |= {item.path: item for item in history[1]}
    steps.append(CardStep(command, sentence, output.name, file_sha256(output)))
    path = card_path(output)
    facts = _count(output, workers) if output.suffix == ".jsonl" else None
    write_text(path, _render(output, facts, steps, list(first.values())))
    return path


def _count(output: Path, workers: int) -> _Facts:
    facts = _Facts()
    with closing(map_chunks(partial(_count_chunk, output), output, workers=workers)) as parts:
        for part in parts:
            add_counts(facts, part)
    return facts


def _count_chunk(output: Path, chunk: Chunk) -> _Facts:
    facts = _Facts()
    reader = RecordReader(output.stem, canonical_polygons=False)
    for record in chunk.scan(reader):
        if record is None:
            raise as_error(output, reader.violations[0])
        facts.num_records += 1
        facts.num_objects += len(record.objects)
        facts.num_empty += not record.objects
        facts.spaces[record.coord_space] += 1
        facts.kinds.update(item.kind for item in record.objects)
        facts.labels.update(item.desc for item in record.objects)
    return facts


def _read_history(source: Path) -> tuple[list[CardStep], list[CardSource]] | None:
    """Of the card beside a record file, when it is about the bytes that are there now."""
    path = card_path(source)
    if source.suffix != ".jsonl" or not path.is_file():
        return None
    _, mark, text = path.read_text(encoding="utf-8").partition(_MARK)
    if not mark:
        return None
    tree: dict[str, Any] = json.loads(text.partition("\n```")[0])
    steps = [CardStep(**step) for step in tree["steps"]]
    if not steps or steps[-1].sha256 != file_sha256(source):
        return None
    return steps, [CardSource(**item) for item in tree["sources"]]


def _render(output: Path, facts: _Facts | None, steps: Sequence[CardStep], sources: Sequence[CardSource]) -> str:
    lines = [
        f"# {output.name}",
        "",
        "| | |",
        "|---|---|",
        *(_fact_rows(facts) if facts is not None else []),
        f"| sha256 | `{steps[-1].sha256}` |",
        f"| written by | coordexp {__version__} |",
        "",
        "## How it was made",
        "",
        *(f"{number}. `{step.command}`  \n   {step.sentence}  \n   {step.output}, sha256 `{step.sha256[:16]}`" for number, step in enumerate(steps, start=1)),
        "",
        "## Sources",
        "",
        *(f"- `{item.path}`" + (f": {item.num_bytes:,} bytes, sha256 `{item.sha256}`" if item.sha256 else "") for item in sources),
        "",
        *(_label_table(facts.labels) if facts is not None else []),
    ]
    history = json.dumps({"steps": [asdict(step) for step in steps], "sources": [asdict(item) for item in sources]}, indent=1, ensure_ascii=False)
    return "\n".join(lines) + f"\n{_MARK}{history}\n```\n"


def _fact_rows(facts: _Facts) -> list[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts.kinds.most_common()) or "none"
    return [
        f"| records | {facts.num_records} ({facts.num_empty} without objects) |",
        f"| objects | {facts.num_objects} ({kinds}) |",
        f"| labels | {len(facts.labels)} |",
        f"| coordinates | {', '.join(facts.spaces)} |",
    ]


def _label_table(labels: Counter[str]) -> list[str]:
    return [
        "## Labels" + (f", the {_TOP_LABELS} most frequent" if len(labels) > _TOP_LABELS else ""),
        "",
        "| label | objects |",
        "|---|---|",
        *(f"| {_cell(label)} | {count} |" for label, count in labels.most_common(_TOP_LABELS)),
        "",
    ]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
