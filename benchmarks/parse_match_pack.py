"""What a rollout costs besides generation and training, in processor time: strict parse, match, target, packing.

python benchmarks/parse_match_pack.py [--quick] [--json PATH]
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from suite.command import benchmark_parser, show_figures, write_figures
from tokenizers import Tokenizer

from coordexp.batching.post_rollout import pack_rollouts
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.serialize import serialize_objects
from coordexp.codec.strict import parse_rollout
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.matching.assign import match_objects
from coordexp.models.assets import tiny_checkpoint
from coordexp.targets.prefix import keep_entries
from coordexp.targets.rollout import rollout_target
from coordexp.targets.supervision import stage2_ab_table
from coordexp.types.records import DetObject
from coordexp.types.sequences import Segment

NAMES = ("black cat", "dog", "traffic light", "person", "potted plant", "wine glass")
PARSE_SIZES = (50, 100, 200, 500, 1000, 2000)
ROW_LENGTH = 16_384


def best_seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Least processor time of several runs: other processes only add."""
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def scene(rng: np.random.Generator, count: int) -> list[DetObject]:
    corners, sides = rng.integers(0, 900, (count, 2)), rng.integers(5, 99, (count, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).tolist()
    return [DetObject(NAMES[int(rng.integers(len(NAMES)))], "bbox_2d", tuple(box)) for box in boxes]


def moved(rng: np.random.Generator, objects: list[DetObject]) -> list[DetObject]:
    """What a fair detector says: shifted by a few bins, a tenth of it elsewhere."""
    found: list[DetObject] = []
    for item, fresh in zip(objects, scene(rng, len(objects)), strict=True):
        points = np.sort(np.clip(np.array(item.points) + rng.integers(-5, 6, 4), 0, 999).reshape(2, 2), axis=0).ravel()
        found.append(fresh if rng.random() < 0.1 else DetObject(item.desc, "bbox_2d", tuple(points.tolist())))
    return found


def parse_figures(tokenizer: TextTokenizer, vocab: CoordVocabulary, *, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    tokens: list[int] = []
    seconds: list[float] = []
    for size in PARSE_SIZES:
        ids = tokenizer.encode(serialize_objects(scene(rng, size)).text).ids
        assert len(parse_rollout(ids, tokenizer=tokenizer, coord_vocab=vocab, allow_poly=False).objects) == size
        tokens.append(len(ids))
        seconds.append(best_seconds(lambda ids=ids: parse_rollout(ids, tokenizer=tokenizer, coord_vocab=vocab, allow_poly=False), repeats=repeats))
    at_200 = PARSE_SIZES.index(200)
    per_token = {f"parse_us_per_token_{size}": 1e6 * cost / count for size, cost, count in zip(PARSE_SIZES, seconds, tokens, strict=True)}
    return {
        "parse_us_per_token": 1e6 * seconds[at_200] / tokens[at_200],
        "parse_linear_r2": float(np.corrcoef(tokens, seconds)[0, 1] ** 2),
        "parse_tokens_2000": tokens[-1],
        **per_token,
    }


def match_figures(*, repeats: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for size in (50, 200, 500):
        rng = np.random.default_rng(size)
        objects = scene(rng, size)
        predictions = moved(rng, objects)
        for iou, suffix in (("exact", ""), ("mask", "_mask")):
            cost = best_seconds(lambda kind=iou, p=predictions, g=objects: match_objects(p, g, iou=kind), repeats=repeats)  # type: ignore[arg-type]
            figures[f"match_ms_{size}{suffix}"] = 1e3 * cost
    return figures


def target_figures(tokenizer: TextTokenizer, vocab: CoordVocabulary, *, repeats: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    table = stage2_ab_table()
    for size in (20, 200):
        rng = np.random.default_rng(size)
        objects = scene(rng, size)
        said = moved(rng, objects)
        parsed = parse_rollout(tokenizer.encode(serialize_objects(said).text).ids, tokenizer=tokenizer, coord_vocab=vocab, allow_poly=False)
        kept = keep_entries(parsed)
        match = match_objects([item.to_object() for item in kept.objects], objects)

        def build(parsed=parsed, kept=kept, match=match, objects=objects) -> object:
            return rollout_target(parsed, kept, match, objects, tokenizer=tokenizer, coord_vocab=vocab, table=table)

        figures[f"target_ms_{size}"] = 1e3 * best_seconds(build, repeats=repeats)
    return figures


def pack_figures(*, repeats: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    ids, weights, roles = np.zeros(ROW_LENGTH, dtype=np.int32), np.zeros(ROW_LENGTH, dtype=np.float32), np.zeros(ROW_LENGTH, dtype=np.int8)
    for size in (500, 50_000):
        lengths = np.minimum(np.random.default_rng(size).lognormal(7.3, 0.6, size).astype(int) + 1, ROW_LENGTH).tolist()
        segments = [Segment(str(number), "", ids[:length], weights[:length], roles[:length], (), ()) for number, length in enumerate(lengths)]
        packs = pack_rollouts(segments, row_length=ROW_LENGTH)
        figures[f"pack_s_{size}"] = best_seconds(lambda segments=segments: pack_rollouts(segments, row_length=ROW_LENGTH), repeats=max(1, repeats // 5))
        figures[f"pack_fill_{size}"] = sum(lengths) / (len(packs) * ROW_LENGTH)
    return figures


def main() -> None:
    parser = benchmark_parser(__doc__, quick="fewer repeats")
    args = parser.parse_args()
    repeats = 5 if args.quick else 20
    backend = Tokenizer.from_file(str(tiny_checkpoint() / "tokenizer.json"))
    tokenizer, vocab = TextTokenizer.of(backend), CoordVocabulary.from_tokenizer(backend)
    figures = {
        **parse_figures(tokenizer, vocab, repeats=repeats),
        **match_figures(repeats=repeats),
        **target_figures(tokenizer, vocab, repeats=repeats),
        **pack_figures(repeats=repeats),
    }
    figures = {key: round(value, 4) for key, value in figures.items()}
    show_figures("parse_match_pack", figures)
    write_figures(figures, args.json)


if __name__ == "__main__":
    main()
