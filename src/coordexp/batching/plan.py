"""Which segments share a forward. Loss and gradient of an optimizer step do not depend on the answer; memory and speed do."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.types.sequences import Pack, Segment


def plan_padded(segments: Sequence[Segment], *, per_pack: int, num_packs: int | None = None, donor: Segment | None = None) -> tuple[Pack, ...]:
    """Packs of at most `per_pack` segments that will be padded to their longest.

    Neighbours in length share a pack, so that little is padded; the order inside a pack and of the packs is by length, ties by position: a function
    of the segments alone.

    Args:
        segments: the segments of one optimizer step on one rank.
        per_pack: at least 1.
        num_packs: when given, exactly this many packs: filler packs of weight 0 are added so that every rank runs equally many forwards.
        donor: what filler packs repeat; the shortest segment when not given.

    Raises:
        ValueError: more packs are needed than `num_packs`, or a filler is needed and there is nothing to repeat.
    """
    order = sorted(range(len(segments)), key=lambda i: (segments[i].length, i))
    packs = [Pack(segments=tuple(segments[i] for i in order[start : start + per_pack])) for start in range(0, len(order), per_pack)]
    if num_packs is not None and len(packs) > num_packs:
        raise ValueError(f"{len(segments)} segments make {len(packs)} packs of {per_pack}, more than {num_packs}")
    return _fill_up(packs, num_packs=num_packs, donor=donor)


def plan_single_rows(rows: Sequence[Sequence[Segment]], *, num_packs: int | None = None, donor: Segment | None = None) -> tuple[Pack, ...]:
    """Each row of segments as a pack of its own, in the order of the rows.

    Args:
        rows: what was planned for one rank.
        num_packs: when given, exactly this many packs: filler packs of weight 0, of the shortest segment, are added.
        donor: what filler packs repeat; the shortest segment when not given.

    Raises:
        ValueError: more rows than `num_packs`, or a filler is needed and there is nothing to repeat.
    """
    if num_packs is not None and len(rows) > num_packs:
        raise ValueError(f"{len(rows)} rows are more than {num_packs} packs")
    return _fill_up([Pack(segments=tuple(row)) for row in rows], num_packs=num_packs, donor=donor)


def _fill_up(packs: Sequence[Pack], *, num_packs: int | None, donor: Segment | None) -> tuple[Pack, ...]:
    missing = 0 if num_packs is None else num_packs - len(packs)
    if missing == 0:
        return tuple(packs)
    if donor is None and not packs:
        raise ValueError("a rank without segments needs a donor for its filler packs")
    shortest = donor if donor is not None else min((segment for pack in packs for segment in pack.segments), key=lambda segment: segment.length)
    return (*packs, *(Pack(segments=(shortest,), is_filler=True) for _ in range(missing)))
