"""From a response to its target in one call, as the tests of rollout targets use it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from coordexp.codec.coord_tokens import CoordVocabulary, coord_tokens
from coordexp.codec.serialize import END_TEXT, serialize_objects
from coordexp.codec.strict import parse_rollout
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.matching.assign import match_objects
from coordexp.models.assets import tiny_checkpoint
from coordexp.targets.prefix import PrefixMode, keep_entries
from coordexp.targets.rollout import RolloutTarget, RolloutTargetOptions, rollout_target
from coordexp.targets.supervision import SupervisionTable, stage2_ab_table
from coordexp.targets.weights import DescGate
from coordexp.types.records import DetObject
from coordexp.types.rollouts import ParsedRollout

FUSIONS = {
    "bytes": (),
    "glue": ('": {"desc": "', '", "bbox_2d": ["', '", "', '"]}', ', "object_'),
    "braces": ("}}", '", "', "]}"),
    "quote to the end": ('"]}}', '"]}', '": {"desc": "'),
    "list to the end": ("]}}", "]]}}", '"]]}}'),
    "into the next object": ('"]}, "object_', '", "', "}}"),
    "brace and comma": ("}, ", '"]', '"}}', '"}'),
    "first brace": ("{}", '{"object_1', '": {"desc": "', "]}}"),
    "name to the end": ('t"}}', 't", "bbox_2d": ["', 't"}, "', 'é"}}'),
}
"""Texts that are one token each; all but the first two hold borders between objects, or the end of the answer."""


@dataclass(frozen=True)
class Workbench:
    """A tokenizer, and everything between a response and its target."""

    backend: Tokenizer
    table: SupervisionTable = field(default_factory=stage2_ab_table)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        return TextTokenizer.of(self.backend)

    @cached_property
    def coord_vocab(self) -> CoordVocabulary:
        return CoordVocabulary.from_tokenizer(self.backend)

    def encode(self, text: str) -> tuple[int, ...]:
        return self.tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.tokenizer.pieces([int(token_id) for token_id in ids])).decode()

    def parse(self, response: str | Sequence[int]) -> ParsedRollout:
        ids = self.encode(response) if isinstance(response, str) else response
        return parse_rollout(ids, tokenizer=self.tokenizer, coord_vocab=self.coord_vocab, allow_poly=True)

    def target(
        self,
        response: str | Sequence[int] | ParsedRollout,
        objects: Sequence[DetObject],
        *,
        prefix: PrefixMode = "raw",
        cut_keys: bool = False,
        options: RolloutTargetOptions | None = None,
        table: SupervisionTable | None = None,
        desc_gate: DescGate | None = None,
    ) -> RolloutTarget:
        parsed = response if isinstance(response, ParsedRollout) else self.parse(response)
        kept = keep_entries(parsed, prefix=prefix, cut_out_of_sequence_keys=cut_keys)
        match = match_objects([item.to_object() for item in kept.objects], objects)
        return rollout_target(
            parsed,
            kept,
            match,
            objects,
            tokenizer=self.tokenizer,
            coord_vocab=self.coord_vocab,
            table=table or self.table,
            options=options,
            desc_gate=desc_gate,
        )


@cache
def qwen_like() -> Tokenizer:
    """Normalization and pre-tokenization of Qwen, merges learned from answers: runs of punctuation such as `"]},` become one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(words), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    objects = [DetObject(name, "bbox_2d", (1, 2, 3, 4)) for name in ("black cat", "dog", "café", "🙂")] + [DetObject("leaf", "poly", (1, 2, 3, 4, 5, 6))]
    texts = [serialize_objects(objects[start:] + objects[:start]).text.replace(coord, "\n") for start in range(5) for coord in coord_tokens()[1:7]]
    trainer = trainers.BpeTrainer(vocab_size=420, min_frequency=1, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(re.split(r"<\|coord_[0-9]+\|>|\n", "\n".join(texts)), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (END_TEXT, *coord_tokens())])
    return tokenizer


@pytest.fixture(scope="module", params=["qwen", *FUSIONS])
def bench(request: pytest.FixtureRequest, make_bpe) -> Workbench:
    return Workbench(qwen_like() if request.param == "qwen" else make_bpe(*FUSIONS[request.param]))


@pytest.fixture(scope="module")
def plain(make_bpe) -> Workbench:
    """Borders between objects are borders between tokens."""
    return Workbench(make_bpe(*FUSIONS["glue"]))


@pytest.fixture(scope="module")
def benches(make_bpe) -> list[Workbench]:
    return [Workbench(qwen_like()), *(Workbench(make_bpe(*fused)) for fused in FUSIONS.values())]


@pytest.fixture(scope="session")
def make_bench(make_bpe) -> Callable[..., Workbench]:
    """A workbench whose tokenizer merges the given texts."""
    return lambda *fused: Workbench(make_bpe(*fused))


@pytest.fixture(scope="session")
def qwen_bench() -> Workbench:
    return Workbench(qwen_like())


@pytest.fixture(scope="session")
def tiny_bench() -> Workbench:
    """The tokenizer of the shipped checkpoint."""
    return Workbench(Tokenizer.from_file(str(tiny_checkpoint() / "tokenizer.json")))
