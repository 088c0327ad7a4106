"""Draw records of a file: at random, or the same share of every stratum. The draw is a function of the file, the settings and the seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from coordexp.data.jsonl import iter_records, write_records
from coordexp.data.paths import refuse_other_folder
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, Record

Strata: TypeAlias = Literal["none", "label", "num_objects"]
"""`label`: by the label of an image that is rarest in the file; `num_objects`: 0, 1, 2–3, 4–7, 8–15, …"""

_EMPTY = "(no object)"


@dataclass(slots=True)
class SampleSummary:
    """What was drawn."""

    output: Path
    num_records: int = 0
    num_source: int = 0
    drawn: Counter[str] = field(default_factory=Counter[str])
    """Records by stratum."""

    def sentence(self) -> str:
        """The counts as one phrase."""
        strata = f" of {len(self.drawn)} strata" if len(self.drawn) > 1 else ""
        return f"{self.num_records} of {self.num_source} records{strata}"


def sample_file(
    source: Path,
    output: Path,
    *,
    num: int,
    strata: Strata = "none",
    seed: int = 0,
    rest: Path | None = None,
    coord_space: CoordSpace | None = None,
    progress: Progress | None = None,
) -> SampleSummary:
    """Write `num` records of `source`, in their order, to a file in the same folder.

    With strata, each gets its share of `num` by largest remainder, and at least one record where `num` is enough for all.

    Args:
        source: a record file.
        output: the record file to write.
        num: records to draw.
        strata: draw from the whole file, or from each stratum.
        seed: another one gives another draw.
        rest: a record file for what was not drawn.
        coord_space: space of records that do not name theirs.
        progress: shows the loop.

    Raises:
        DataError: a broken record, fewer than `num` records, an output elsewhere or on top of the source.
        OutputError: an output cannot be written.
    """
    for target in [output, *([rest] if rest else [])]:
        refuse_other_folder(source, target)
    if rest is not None and rest.resolve() == output.resolve():
        raise DataError("the sample and the rest would be one file", where=str(rest), fix="choose another name with --rest")
    members = _read_strata(source, strata, coord_space)
    num_source = sum(map(len, members.values()))
    if not 1 <= num <= num_source:
        raise DataError(f"{num} records are asked for, but there are {num_source}", where=str(source), fix="ask for fewer" if num else "ask for at least one")
    summary = SampleSummary(output, num, num_source)
    chosen: set[int] = set()
    generator = random.Random(seed)
    for (name, own), count in zip(members.items(), allot(num, [len(own) for own in members.values()]), strict=True):
        chosen.update(generator.sample(own, count))
        summary.drawn[name] = count
    progress = progress or NoProgress()
    for target, is_wanted in [(output, True), *([(rest, False)] if rest else [])]:
        records = progress.track(iter_records(source, coord_space=coord_space), f"write {target.name}", total=num_source)
        write_records(target, (record for place, record in enumerate(records) if (place in chosen) == is_wanted))
    return summary


def allot(num: int, sizes: Sequence[int]) -> list[int]:
    """How many of each stratum: its share, at least one where `num` is enough for all, never more than there are; `num` altogether.

    Example: `allot(10, [70, 25, 4, 1]) == [6, 2, 1, 1]`
    """
    floor = 1 if num >= len(sizes) else 0
    total = sum(sizes)
    shares = [num * size / total for size in sizes]
    counts = [min(size, max(floor, int(share))) for size, share in zip(sizes, shares, strict=True)]
    by_need = sorted(range(len(sizes)), key=lambda i: (counts[i] - shares[i], i))
    while (missing := num - sum(counts)) > 0:
        for i in [i for i in by_need if counts[i] < sizes[i]][:missing]:
            counts[i] += 1
    while (surplus := sum(counts) - num) > 0:
        for i in sorted((i for i in by_need if counts[i] > floor), key=lambda i: (shares[i] - counts[i], -counts[i]))[:surplus]:
            counts[i] -= 1
    return counts


def _read_strata(source: Path, strata: Strata, coord_space: CoordSpace | None) -> dict[str, list[int]]:
    """Positions of records by stratum, the strata in alphabetical order."""
    frequency: Counter[str] = Counter()
    if strata == "label":
        for record in iter_records(source, coord_space=coord_space):
            frequency.update({item.desc for item in record.objects})
    members: dict[str, list[int]] = {}
    for place, record in enumerate(iter_records(source, coord_space=coord_space)):
        members.setdefault(_stratum(record, strata, frequency), []).append(place)
    return dict(sorted(members.items()))


def _stratum(record: Record, strata: Strata, frequency: Counter[str]) -> str:
    if strata == "none":
        return ""
    if strata == "num_objects":
        return f"{len(record.objects).bit_length():02d}"
    return min((item.desc for item in record.objects), key=lambda label: (frequency[label], label), default=_EMPTY)
