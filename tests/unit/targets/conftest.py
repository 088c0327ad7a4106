"""From a response to its target in one call, as the tests of rollout targets use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pytest
from tokenizers import Tokenizer

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.strict import parse_rollout
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.matching.assign import match_objects
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


@pytest.fixture(scope="module", params=FUSIONS.values(), ids=FUSIONS.keys())
def bench(request: pytest.FixtureRequest, make_bpe) -> Workbench:
    return Workbench(make_bpe(*request.param))


@pytest.fixture(scope="module")
def plain(make_bpe) -> Workbench:
    """Borders between objects are borders between tokens."""
    return Workbench(make_bpe(*FUSIONS["glue"]))


@pytest.fixture(scope="module")
def benches(make_bpe) -> list[Workbench]:
    return [Workbench(make_bpe(*fused)) for fused in FUSIONS.values()]


@pytest.fixture(scope="session")
def make_bench(make_bpe) -> Callable[..., Workbench]:
    """A workbench whose tokenizer merges the given texts."""
    return lambda *fused: Workbench(make_bpe(*fused))
