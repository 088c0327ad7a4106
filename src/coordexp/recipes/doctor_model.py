"""What a checkpoint makes of a data file: its tokens for coordinates, its chat template, the prompt of training and of inference, image sizes, lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.coord_tokens import CoordVocabulary, coord_tokens
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.serialize import END_TEXT, order_objects
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.codec.token_count import AnswerLengths
from coordexp.data.convert import to_norm1000
from coordexp.data.diagnosis.findings import Check, Finding, Place, Severity, first_places
from coordexp.data.diagnosis.survey import Survey
from coordexp.models.processor import load_processor
from coordexp.types.errors import CheckpointError
from coordexp.types.records import GeometryKind, Record
from coordexp.types.sequences import ImageInputs

_MOST_TRIED = 16_000_000
"""Pixels of the largest size that the processor is asked about with a picture; a record may claim any."""


@dataclass(frozen=True, slots=True)
class ModelSide:
    """The parts of a checkpoint that meet the data; no weights."""

    folder: Path
    processor: Any
    tokenizer: TextTokenizer
    encoder: PromptEncoder
    coord_vocab: CoordVocabulary | None
    spec: PromptSpec

    @classmethod
    def load(cls, folder: Path, *, kinds: tuple[GeometryKind, ...]) -> ModelSide:
        """Raises CheckpointError: the folder has no usable processor."""
        processor = load_processor(folder)
        try:
            vocab = CoordVocabulary.from_tokenizer(processor.tokenizer, where=str(folder))
        except CheckpointError:  # said by a finding
            vocab = None
        tokenizer = TextTokenizer.of(processor.tokenizer)  # pyright: ignore[reportArgumentType]
        return cls(folder, processor, tokenizer, PromptEncoder(processor), vocab, PromptSpec(kinds=kinds))


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of samples, prompt and image included."""

    tokens: np.ndarray
    """[records that break no rule]"""
    lines: np.ndarray


def check_coord_tokens(side: ModelSide) -> list[Finding]:
    """Each coordinate is one token, also between the quotes of an answer."""
    if side.coord_vocab is None:
        found = side.processor.tokenizer.get_vocab().keys() & set(coord_tokens())
        what = f"the tokenizer has {len(found)} of the {len(coord_tokens())} coordinate tokens"
        return [Finding(Check.COORD_TOKENS, Severity.ERROR, what, f"coordexp model expand-vocab --src {side.folder} --dst <folder>")]
    text = '["' + '", "'.join(coord_tokens()) + '"]'
    encoded = side.tokenizer.encode(text)
    at = dict(zip(encoded.offsets, encoded.ids, strict=True))
    start, broken = 2, []
    for k, token in enumerate(coord_tokens()):
        if at.get((start, start + len(token))) != side.coord_vocab.id_of(k):
            broken.append(token)
        start += len(token) + len('", "')
    if not broken:
        return []
    what = f"{len(broken)} of the {len(coord_tokens())} coordinate tokens are cut into several tokens inside an answer, first {broken[0]}"
    return [Finding(Check.COORD_TOKENS, Severity.ERROR, what, "add them to the tokenizer as special tokens ('coordexp model expand-vocab')")]


def check_chat_template(side: ModelSide) -> list[Finding]:
    """The template writes an answer behind the prompt exactly as training does, on every day."""
    findings: list[Finding] = []
    prompt, answer = build_prompt(side.spec), '{"object_1": {"desc": "cat", "bbox_2d": []}}'
    nothing = ImageInputs(pixel_values=np.zeros((0, 0), dtype=np.float32), grid_thw=(1, side.encoder.merge_size, side.encoder.merge_size))
    text = side.encoder.assemble(prompt, nothing).text
    messages = [
        {"role": "system", "content": [{"type": "text", "text": prompt.system}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.user}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    whole = side.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    expected = text + answer + END_TEXT
    if not whole.startswith(expected):
        at = next((place for place, (a, b) in enumerate(zip(whole, expected, strict=False)) if a != b), min(len(whole), len(expected)))
        what = f"the chat template writes an answer differently: {whole[at : at + 40]!r} where training has {expected[at : at + 40]!r}"
        fix = "use the Instruct checkpoint, or check its chat_template.jinja: training continues the generation prompt"
        findings.append(Finding(Check.CHAT_TEMPLATE, Severity.WARNING, what, fix))
    template = str(getattr(side.processor, "chat_template", None) or side.processor.tokenizer.chat_template)
    if "strftime_now" in template:
        what = "the chat template writes the date of the day into the prompt: training and inference get different ids"
        findings.append(Finding(Check.CHAT_TEMPLATE, Severity.WARNING, what, "write a fixed date into chat_template.jinja"))
    return findings


def check_sizes(side: ModelSide, survey: Survey) -> list[Finding]:
    """The processor leaves images as they are."""
    lines: dict[tuple[int, int], list[int]] = {}
    for record in survey.records:
        lines.setdefault((record.width, record.height), []).append(record.line)
    resized = {size: reason for size in lines if (reason := _resize_reason(side, *size)) is not None}
    if not resized:
        return []
    counts = Counter({reason: sum(len(lines[size]) for size, other in resized.items() if other == reason) for reason in set(resized.values())})
    beyond = "outside of its pixel limits"
    said = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    places = first_places(Place(lines[size][0], None, _describe_resize(side, *size)) for size in resized)
    what = f"the processor resizes {counts.total()} of {len(survey.records)} images once more ({said})"
    fix = f"rescale the data set: coordexp data rescale <jsonl> --into <folder> --preset rescale_{side.encoder.side_multiple}_768"
    return [Finding(Check.PROCESSOR_RESIZES, Severity.ERROR if beyond in counts else Severity.WARNING, what, fix, places)]


def _resize_reason(side: ModelSide, width: int, height: int) -> str | None:
    multiple, patch = side.encoder.side_multiple, side.encoder.patch_size
    if width % multiple or height % multiple:
        return f"with sides that are no multiples of {multiple}"
    if max(width, height) >= 200 * min(width, height):  # the processor refuses these; said by another finding
        return None
    patches = int(side.processor.image_processor.get_number_of_image_patches(height, width))
    return None if patches == (width // patch) * (height // patch) else "outside of its pixel limits"


def _describe_resize(side: ModelSide, width: int, height: int) -> str:
    if max(width, height) >= 200 * min(width, height):
        return f"{width}x{height} is refused"
    if width * height > _MOST_TRIED:
        return f"{width}x{height} is scaled down"
    features = side.processor.image_processor(images=[Image.new("RGB", (width, height))], return_tensors="np")
    _, rows, columns = (int(side_) for side_ in np.asarray(features["image_grid_thw"])[0])
    return f"{width}x{height} becomes {columns * side.encoder.patch_size}x{rows * side.encoder.patch_size}"


def measure_lengths(side: ModelSide, records: Iterable[tuple[int, Record]]) -> Lengths:
    """Tokens of every (line, record), as training counts them."""
    answers = AnswerLengths(side.tokenizer, coord_vocab=side.coord_vocab, coord_mode="text" if side.coord_vocab is None else "coord")
    prompt, known = build_prompt(side.spec), dict[tuple[int, int], int]()
    tokens: list[int] = []
    lines: list[int] = []
    for line, record in records:
        size = (record.width, record.height)
        if max(size) >= 200 * min(size):
            continue
        if size not in known:
            known[size] = side.encoder.num_prompt_tokens(prompt, width=record.width, height=record.height)
        tokens.append(known[size] + answers.count(order_objects(to_norm1000(record).objects, ordering="sorted")))
        lines.append(line)
    return Lengths(np.array(tokens, dtype=np.int64), np.array(lines, dtype=np.int64))


def check_lengths(lengths: Lengths, limit: int | None) -> list[Finding]:
    """No sample is longer than `global_max_length`."""
    over = np.flatnonzero(lengths.tokens > limit) if limit is not None else np.zeros(0, dtype=np.int64)
    if not len(over):
        return []
    worst = over[np.argsort(-lengths.tokens[over], kind="stable")]
    places = first_places(Place(int(lengths.lines[row]), None, f"{int(lengths.tokens[row])} tokens") for row in worst)
    what = f"{len(over)} of {len(lengths.tokens)} samples are longer than global_max_length {limit}; the longest has {int(lengths.tokens.max())} tokens"
    fix = f"raise global_max_length to {int(lengths.tokens.max())}, use smaller images, or fewer objects to an image"
    return [Finding(Check.MAX_LENGTH, Severity.ERROR, what, fix, places)]


MODEL_CHECKS: tuple[Callable[[ModelSide], list[Finding]], ...] = (check_coord_tokens, check_chat_template)
