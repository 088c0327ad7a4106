"""Constrained decoding with transformers: whatever the weights and the temperature, every answer is a complete document that is read without drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import pytest
import torch
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.strict import parse_rollout
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.data.synthetic import SceneSettings, render_scene, scale_scene
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import GenerationRequest
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, ParsedRollout, RepeatLimits

SIZES = ((96, 96), (32, 160), (128, 48), (64, 64))
FREE = GenerationSettings(max_new_tokens=96)
BOXES = replace(FREE, constraint=ConstraintSpec())
LABELS = ("cat", 'a "b" <|im_end|>', "犬")
SETTINGS = {
    "greedy": FREE,
    "temperature 2": replace(FREE, temperature=2.0),
    "temperature 100": replace(FREE, temperature=100.0, max_new_tokens=160),
    "nucleus": replace(FREE, temperature=1.5, top_p=0.8, top_k=50),
    "penalty": replace(FREE, repetition_penalty=1.3),
    "beams": replace(FREE, num_beams=3, max_new_tokens=48),
    "beams, penalty": replace(FREE, num_beams=2, max_new_tokens=48, repetition_penalty=1.2),
    "loop guard": replace(FREE, repeat=RepeatLimits(min_new_tokens=8, ngram_size=4, ngram_repeats=2)),
    "loop guard, beams": replace(FREE, num_beams=2, max_new_tokens=48, repeat=RepeatLimits(min_new_tokens=8, ngram_size=4, ngram_repeats=2)),
    "no room": replace(FREE, temperature=2.0, max_new_tokens=20),
}
SPECS = (ConstraintSpec(), ConstraintSpec(kinds=("bbox_2d", "poly"), field_order="geometry_first", max_objects=3), ConstraintSpec(labels=LABELS))


def read(samples: Sequence[GenerationSample], loaded: LoadedModel) -> list[ParsedRollout]:
    tokenizer = TextTokenizer.of(loaded.tokenizer)
    return [parse_rollout(sample.response_ids, tokenizer=tokenizer, coord_vocab=loaded.coord_vocab, allow_poly=True) for sample in samples]


def is_clean(parsed: ParsedRollout) -> bool:
    return not (parsed.dropped or parsed.num_ambiguous or parsed.is_invalid or parsed.is_truncated)


@pytest.mark.parametrize(("settings", "spec"), list(zip(SETTINGS.values(), cycle(SPECS), strict=False)), ids=SETTINGS.keys())
def test_every_answer_is_a_document_without_drops(tiny, make_requests, spec: ConstraintSpec, settings: GenerationSettings) -> None:
    samples = HfBackend(tiny, batch_size=3).generate(make_requests(*SIZES), replace(settings, constraint=spec), with_trace=settings.num_beams == 1)

    parsed = read(samples, tiny)
    assert all(map(is_clean, parsed))
    assert all(len(sample.response_ids) < settings.max_new_tokens for sample in samples)
    assert spec.labels is None or {item.desc for one in parsed for item in one.objects} <= set(spec.labels)
    assert all(len(one.objects) <= (spec.max_objects or 99) for one in parsed)


def test_a_rows_answer_does_not_depend_on_its_neighbours(tiny, make_requests) -> None:
    requests, settings = make_requests(*SIZES), replace(BOXES, temperature=2.0)
    together = HfBackend(tiny, batch_size=4).generate(requests, settings)
    assert [sample.response_ids for sample in together] == [HfBackend(tiny).generate([request], settings)[0].response_ids for request in requests]
    assert len({sample.response_ids for sample in together}) == len(SIZES)


def test_probabilities_are_the_models_own_before_the_constraint(tiny, make_requests) -> None:
    (request,) = make_requests((64, 64))
    (sample,) = HfBackend(tiny).generate([request], BOXES, with_trace=True)
    assert sample.trace is not None
    (free,) = HfBackend(tiny).generate([request], FREE, with_trace=True)
    assert free.trace is not None
    assert sample.response_ids[0] != free.response_ids[0]
    assert sample.trace[0].logprob < free.trace[0].logprob < 0
    first = [entry for entry in sample.trace if entry.coord_probs][2]
    assert sum(first.coord_probs) == pytest.approx(1, abs=1e-4)
    assert min(first.coord_probs) > 0, "also where the constraint forbids a bin"


def test_why_an_answer_ended_is_said(tiny, make_requests) -> None:
    def reasons(settings: GenerationSettings) -> list[tuple[str, bool]]:
        samples = HfBackend(tiny).generate(make_requests(*SIZES), replace(settings, constraint=ConstraintSpec()))
        return [(sample.finish_reason, sample.text != "{}") for sample in samples]

    no_object = RepeatLimits(min_new_tokens=0, max_object_keys=0)
    assert set(reasons(SETTINGS["no room"])) == {("length", True)}
    assert {reason for reason, _ in reasons(SETTINGS["loop guard"])} >= {"repeat"}
    for num_beams in (1, 3):
        found = reasons(GenerationSettings(max_new_tokens=200, num_beams=num_beams, repeat=no_object))
        assert set(found) <= {("repeat", True), ("stop", False)}
        assert ("repeat", True) in found


def test_a_limit_without_room_for_an_answer_is_refused(tiny, make_requests) -> None:
    with pytest.raises(BackendError, match="no constrained answer is possible: the empty answer has 3 tokens, and 2 are allowed"):
        HfBackend(tiny).generate(make_requests((64, 64)), replace(BOXES, max_new_tokens=2))


def test_a_model_that_gives_no_token_a_chance_is_an_error(make_requests, tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny.model.lm_head, "forward", lambda hidden: torch.full((*hidden.shape[:-1], tiny.model.config.text_config.vocab_size), -torch.inf))
    with pytest.raises(BackendError, match="not finite"):
        HfBackend(tiny).generate(make_requests((64, 64)), BOXES)


@dataclass(frozen=True)
class Shipped:
    """The shipped checkpoint, and scenes that it knows."""

    loaded: LoadedModel
    backend: HfBackend
    requests: list[GenerationRequest]


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    loaded = load_model(tiny_checkpoint(), dtype="float32")
    encoder, prompt = PromptEncoder(loaded.processor), build_prompt(PromptSpec())
    scenes = [
        scale_scene(render_scene(SceneSettings(name="constrained", kind="shapes", seed=5, num_scenes=64, max_objects=3), index), 96) for index in range(64)
    ]
    requests = [GenerationRequest(str(index), encoder.encode(prompt, Image.fromarray(scene.image)), seed=index) for index, scene in enumerate(scenes)]
    return Shipped(loaded, HfBackend(loaded, batch_size=32), requests)


def test_at_temperature_two_a_trained_model_writes_no_document_alone_and_always_one_with_the_constraint(shipped) -> None:
    backend, requests = shipped.backend, shipped.requests
    hot = GenerationSettings(max_new_tokens=128, temperature=2.0)

    free, constrained = (read(backend.generate(requests, settings), shipped.loaded) for settings in (hot, replace(hot, constraint=ConstraintSpec())))

    assert sum(not is_clean(parsed) for parsed in free) > 0
    assert [parsed for parsed in constrained if not is_clean(parsed)] == []
    assert sum(len(parsed.objects) for parsed in constrained) > 64


@pytest.mark.parametrize("labels", [None, "those of the answers"], ids=["open", "labels"])
def test_a_greedy_answer_that_is_a_document_stays_as_it_is(shipped, labels: str | None) -> None:
    backend, requests = shipped.backend, shipped.requests
    free = backend.generate(requests[:32], FREE)
    parsed = read(free, shipped.loaded)
    names = tuple(dict.fromkeys(item.desc for one in parsed for item in one.objects)) if labels else None

    constrained = backend.generate(requests[:32], replace(FREE, constraint=ConstraintSpec(labels=names)))

    clean = [number for number, one in enumerate(parsed) if is_clean(one) and free[number].finish_reason == "stop"]
    assert len(clean) > 24
    assert [constrained[number] for number in clean] == [free[number] for number in clean]


def test_labels_decide_what_objects_are_called(shipped) -> None:
    backend, requests = shipped.backend, shipped.requests
    names = ("animal", "red thing")
    samples = backend.generate(requests[:16], replace(FREE, constraint=ConstraintSpec(labels=names)))
    parsed = read(samples, shipped.loaded)
    assert all(map(is_clean, parsed))
    assert {item.desc for one in parsed for item in one.objects} <= set(names)
    assert sum(len(one.objects) for one in parsed) > 16
