"""The tiny model's tokenizer: byte-level BPE with Qwen's special tokens and the 1,000 coordinate tokens.

The pieces of glue in the assistant's JSON (`": {"desc": "`, `", "bbox_2d": ["`, …) are single tokens, and so are the sentences of the prompts:
sequences stay short.
No token reaches across the border between two objects: `"]}` and `, "object_` stay apart, and so do `{` and `"object_`, or a response could not be
continued after any of its objects with the ids that the whole text would have.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import product
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.serialize import serialize_objects
from coordexp.data.synthetic.digits import DIGIT_NAMES
from coordexp.data.synthetic.shapes import SHAPE_NAMES
from coordexp.types.records import DetObject, GeometryKind

END_OF_TEXT: Final = "<|endoftext|>"
IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
VISION_START: Final = "<|vision_start|>"
VISION_END: Final = "<|vision_end|>"
IMAGE_PAD: Final = "<|image_pad|>"
VIDEO_PAD: Final = "<|video_pad|>"
SPECIAL_TOKENS: Final = (END_OF_TEXT, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)

# Qwen's ChatML with one vision placeholder for an image; what the processor expands
CHAT_TEMPLATE: Final = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' or 'image' in part or 'image_url' in part %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif 'text' in part %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

_GLUE: Final = (
    ', "object_',
    '"object_',
    '": {"desc": "',
    '": {"bbox_2d": ["',
    '": {"bbox_2d": [',
    '": {"poly": [["',
    '": {"poly": [[',
    '", "bbox_2d": ["',
    '", "bbox_2d": [',
    '", "poly": [["',
    '", "poly": [[',
    '"]], "desc": "',
    ']], "desc": "',
    '"], "desc": "',
    '], "desc": "',
    '"]]}',
    "]]}",
    '"]}',
    "]}",
    '"], ["',
    "], [",
    '", "',
    '"}',
)
"""Longest first where one begins another; a piece that matches is never merged with its neighbours."""
# Qwen2's own splitting rule for everything else, but for the quote: punctuation at the end of a name must not swallow the border behind it
_WORDS: Final = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}"]+[\r\n]*|"|\s*[\r\n]+|\s+(?!\S)|\s+"""
_NUM_MERGED: Final = 220
_COMMON_WORDS: Final = "a an and black bottle brown bus car cat chair cup dog grey large left on person right small table the top tree truck white with"


def prompt_sentences() -> tuple[str, ...]:
    """The sentences of every prompt that has no category list, with the space before them."""
    found: set[str] = set()
    one_kind: tuple[tuple[GeometryKind, ...], ...] = (("bbox_2d",), ("poly",))
    for ordering, fields, mode, kinds in product(("sorted", "random"), ("desc_first", "geometry_first"), ("coord", "text"), one_kind):
        prompt = build_prompt(PromptSpec(ordering=ordering, field_order=fields, coord_mode=mode, kinds=kinds))
        for text in (prompt.system, prompt.user):
            found.update(piece for piece in re.split(r"(?<=[.)}])(?= [A-Z])", text) if piece)
    return tuple(sorted(found))


def train_tokenizer(seed: int, *, with_coord_tokens: bool = True) -> PreTrainedTokenizerFast:
    """Learn the merges from a seeded corpus; the ids depend on the seed alone. Without coordinate tokens it is like that of a published Qwen3-VL."""
    tokenizer = Tokenizer(models.BPE())
    pieces = "|".join(re.escape(piece) for piece in _GLUE)
    rule = Regex(f"{pieces}|[{{}}]|{_WORDS}")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(rule, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + _NUM_MERGED,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_corpus(random.Random(seed)), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    if with_coord_tokens:
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in coord_tokens()])
    tokenizer.add_tokens([AddedToken(sentence, special=False, normalized=False) for sentence in prompt_sentences()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE_PAD, "video_token": VIDEO_PAD, "vision_bos_token": VISION_START, "vision_eos_token": VISION_END},
    )


def _corpus(rng: random.Random) -> Iterator[str]:
    """Assistant texts in every spelling, with the names that the synthetic data uses; roles of the chat; a few common words."""
    names = [*SHAPE_NAMES, *DIGIT_NAMES]
    words = _COMMON_WORDS.split()
    boundary = re.compile(r"<\|coord_\d+\|>")
    for number in range(2000):
        kind = "poly" if number % 10 == 0 else "bbox_2d"
        fields = "geometry_first" if number % 7 == 0 else "desc_first"
        mode = "text" if number % 11 == 0 else "coord"
        length = 4 if kind == "bbox_2d" else 8
        objects = [DetObject(rng.choice(names), kind, tuple(rng.randrange(1000) for _ in range(length))) for _ in range(rng.randrange(7))]
        yield from boundary.split(serialize_objects(objects, field_order=fields, coord_mode=mode).text)
        yield f"{rng.choice(words)} {rng.choice(words)}"
    for _ in range(200):
        yield from ("system\n", "user\n", "assistant\n", "\n")
