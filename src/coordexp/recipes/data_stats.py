"""`coordexp data stats`: the numbers of a record file, as JSON and as one HTML page, with the tokens of its samples for a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.serialize import order_objects
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.codec.token_count import AnswerLengths
from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import iter_records
from coordexp.data.paths import refuse_replacing
from coordexp.data.stats import DataStats, TokenLengths, collect_stats, stats_paths
from coordexp.types.errors import DataError
from coordexp.types.files import write_text
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import CoordSpace, GeometryKind, Record
from coordexp.viz.stats_page import render_stats


def run_stats(
    source: Path,
    *,
    model: Path | None = None,
    max_length: int | None = None,
    output: Path | None = None,
    coord_space: CoordSpace | None = None,
    progress: Progress | None = None,
) -> tuple[DataStats, Path]:
    """Write the page, and the JSON beside it.

    Args:
        source: a record file.
        model: a checkpoint, whose prompt, image and answer tokens are counted as Stage-1 training has them without a category list.
        max_length: `global_max_length` of the training.
        output: the page; by default beside the source. The JSON has the same name.
        coord_space: space of records that do not name theirs.
        progress: shows the loop.

    Raises:
        DataError: a broken record, or none at all.
        CheckpointError: a checkpoint that cannot be used.
        BackendError: jinja2 is not installed.
        OutputError: the page cannot be written.
    """
    page = output or stats_paths(source)[0]
    if page.suffix == ".json":
        raise DataError("the page would have the name of the JSON beside it", where=str(page), fix="name the page .html")
    for target in (page, page.with_suffix(".json")):
        refuse_replacing(target, [source])
    records: Iterator[Record] = (progress or NoProgress()).track(iter_records(source, coord_space=coord_space), "read")
    lengths = None
    if model is not None:
        lengths = TokenLengths(max_length)
        records = _measured(records, model, lengths)
    stats = collect_stats(records, name=source.name)
    stats.lengths = lengths
    write_text(page, render_stats(stats))
    write_text(page.with_suffix(".json"), json.dumps(stats.to_json(), indent=1, ensure_ascii=False) + "\n")
    return stats, page


def _measured(records: Iterator[Record], model: Path, lengths: TokenLengths) -> Iterator[Record]:
    """The records as they come; what a sample of each has in tokens goes to `lengths`."""
    from coordexp.models.processor import load_processor

    processor = load_processor(model)
    vocab = CoordVocabulary.from_tokenizer(processor.tokenizer, where=str(model))
    encoder = PromptEncoder(processor)
    answers = AnswerLengths(TextTokenizer.of(processor.tokenizer), coord_vocab=vocab)  # pyright: ignore[reportArgumentType]
    for record in records:
        kinds: tuple[GeometryKind, ...] = tuple(sorted({item.kind for item in record.objects})) or ("bbox_2d",)
        prompt = build_prompt(PromptSpec(kinds=kinds))
        objects = order_objects(to_norm1000(record).objects, ordering="sorted")
        num_prompt = encoder.num_prompt_tokens(prompt, width=record.width, height=record.height)
        lengths.add(num_prompt + answers.count(objects), record.id)
        yield record
