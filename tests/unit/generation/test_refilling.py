"""More prompts than places: rows that end give theirs to the next, and every row stays what it would be alone. In growing and in static memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from coordexp.generation.constrained import AutomatonShelf, ConstrainedRows
from coordexp.generation.decoding import Decoding
from coordexp.generation.forward import CachedForward
from coordexp.generation.hf import HfBackend
from coordexp.generation.prompt_batch import PromptBatch, collate_prompts
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.repeat import RepeatGuard
from coordexp.generation.sampling import TokenPicker
from coordexp.generation.slots import SlotForward
from coordexp.generation.stop_tokens import stop_token_ids
from coordexp.generation.trace import TraceRecorder
from coordexp.models.load import LoadedModel
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.rollouts import GenerationSample, GenerationSettings, RepeatLimits

SIZES = ((96, 96), (32, 160), (128, 48), (64, 64), (192, 128), (32, 32), (64, 96), (160, 64), (48, 48))
SAMPLED = GenerationSettings(max_new_tokens=32, temperature=1.0, top_p=0.95, repetition_penalty=1.1)
GUARDED = replace(SAMPLED, repeat=RepeatLimits(min_new_tokens=4, ngram_size=6, ngram_repeats=2, max_object_keys=2))
CONSTRAINED = replace(SAMPLED, temperature=2.0, constraint=ConstraintSpec())
ROOM = 64
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def test_more_prompts_than_places_give_what_each_gives_alone(tiny: LoadedModel, make_requests, with_early_ends) -> None:
    requests = make_requests(*SIZES)
    for settings in (SAMPLED, GUARDED, CONSTRAINED):
        alone = [HfBackend(tiny).generate([request], settings, with_trace=True)[0] for request in requests]
        if settings.constraint is None:
            assert len({len(sample.response_ids) for sample in alone}) > 3, "rows must end at different times"
        for batch_size in (1, 2, 4):
            together = HfBackend(tiny, batch_size=batch_size).generate(requests, settings, with_trace=True)
            assert_same(together, alone)


@pytest.mark.parametrize("device", DEVICES)
def test_static_memory_gives_what_growing_memory_gives(tiny: LoadedModel, make_requests, with_early_ends, monkeypatch, device: str) -> None:
    """With little room, so that it has to grow; and twice, so that the second finds what the first has left."""
    monkeypatch.setattr("coordexp.generation.slots._ROOM", ROOM)
    requests = make_requests(*SIZES)
    model: Any = tiny.model
    model.to(device)
    slots = SlotForward(model)
    for settings in (GUARDED, CONSTRAINED):
        growing = decode(tiny, requests, settings, CachedForward(tiny.model))
        assert_same(decode(tiny, requests, settings, slots), growing)
        assert_same(decode(tiny, requests[3:], settings, slots), growing[3:])
        assert_same(decode(tiny, requests[:2], settings, slots), growing[:2])
    model.to("cpu")


def test_the_same_prompts_give_the_same_bits(tiny: LoadedModel, make_requests, with_early_ends) -> None:
    requests = make_requests(*SIZES)
    backend = HfBackend(tiny, batch_size=3)
    assert backend.generate(requests, SAMPLED, with_trace=True) == backend.generate(requests, SAMPLED, with_trace=True)


@pytest.fixture
def with_early_ends(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third piece of several letters becomes a stop token: the model of random weights ends its answers at many different steps."""
    stops = range(300, 470, 3)
    monkeypatch.setattr(tiny.model.generation_config, "eos_token_id", [*stop_token_ids(tiny.model.generation_config, tiny.tokenizer), *stops])


def decode(tiny: LoadedModel, requests: list[GenerationRequest], settings: GenerationSettings, forward: CachedForward | SlotForward) -> list[GenerationSample]:
    """What `HfBackend` does, with a forward of choice."""
    device = next(tiny.model.parameters()).device
    backend = HfBackend(tiny)
    vocab_size = tiny.model.lm_head.out_features
    stop_ids = stop_token_ids(tiny.model.generation_config, tiny.tokenizer)
    shelf = AutomatonShelf(backend.text_tokenizer, vocab_size=vocab_size, coord_vocab=tiny.coord_vocab, stop_ids=stop_ids)
    constrained = None
    if settings.constraint is not None:
        answers = [shelf.start(settings.constraint, max_new_tokens=settings.max_new_tokens) for _ in requests]
        constrained = ConstrainedRows(answers, vocab_size=vocab_size)

    def collate(rows: Sequence[int]) -> PromptBatch:
        return collate_prompts([requests[row].prompt for row in rows], model=tiny.model, pad_id=0)

    prompt_ids = [request.prompt.token_ids.tolist() for request in requests]
    size = {"vocab_size": vocab_size, "device": device}
    limits = settings.repeat
    decoding = Decoding(
        forward,
        num_rows=len(requests),
        batch_size=4,
        collate=collate,
        picker=TokenPicker(settings, seeds=[request.seed for request in requests], prompt_ids=prompt_ids, constrained=constrained, **size),
        recorder=TraceRecorder(tiny.coord_vocab, num_rows=len(requests), num_steps=settings.max_new_tokens, **size),
        stop_ids=torch.tensor(stop_ids, device=device),
        max_new_tokens=settings.max_new_tokens,
        guards=None if limits is None else [RepeatGuard(limits, piece_of=backend.text_tokenizer.piece) for _ in requests],
        constrained=constrained,
    )
    with torch.inference_mode():
        decoding.run()
    return [
        GenerationSample(prompt_ids=(), response_ids=decoding.response_ids(row), text="", finish_reason=decoding.finish_reason(row), seed=0, trace=trace)
        for row, trace in enumerate(map(decoding.trace, range(len(requests))))
    ]


def assert_same(some: list[GenerationSample], others: list[GenerationSample]) -> None:
    for a, b in zip(some, others, strict=True):
        assert (a.response_ids, a.finish_reason) == (b.response_ids, b.finish_reason)
        assert a.trace is not None
        assert b.trace is not None
        assert [entry.logprob for entry in a.trace] == pytest.approx([entry.logprob for entry in b.trace], abs=1e-4)
