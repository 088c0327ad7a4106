"""Guesses at the next tokens save steps of the model and change no answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.data.images import load_image
from coordexp.data.synthetic import SceneSettings, write_scene_records
from coordexp.generation.drafts import Drafter
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import GenerationRequest
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.pipeline.source import iter_source
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.rollouts import GenerationSample, GenerationSettings, RepeatLimits

NUM_SCENES = 24
MOST_GUESSES = 7
GREEDY = GenerationSettings(max_new_tokens=96)
SAMPLED = replace(GREEDY, temperature=1.2, top_p=0.9, top_k=400)
SETTINGS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "penalty": replace(SAMPLED, repetition_penalty=1.05),
    "guard": replace(GREEDY, repeat=RepeatLimits(min_new_tokens=0, max_object_keys=2)),
    "constrained": replace(SAMPLED, temperature=2.0, constraint=ConstraintSpec()),
    "short": replace(GREEDY, max_new_tokens=17),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_answers_are_those_without_guesses_in_fewer_steps(trained: LoadedModel, requests: list[GenerationRequest], settings, monkeypatch) -> None:
    guessing = HfBackend(trained, batch_size=8)
    with counted_steps(trained) as steps:
        with_guesses = guessing.generate(requests, settings, with_trace=True)
    with counted_steps(trained) as steps_without, monkeypatch.context() as patch:
        patch.setattr(Drafter, "guesses", lambda *_: None)
        without = HfBackend(trained, batch_size=8).generate(requests, settings, with_trace=True)
    assert_same(with_guesses, without)
    assert len({sample.text for sample in without}) > NUM_SCENES // 2
    # at temperature 2 most tokens are a surprise even in the format
    assert len(steps) < (0.9 if settings.temperature == 2 else 0.7) * len(steps_without)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_how_many_rows_run_together_does_not_matter(trained: LoadedModel, requests: list[GenerationRequest], batch_size: int) -> None:
    """A row alone gets several guesses a step, one among many a single one."""
    some = requests[:6]
    assert_same(HfBackend(trained, batch_size=batch_size).generate(some, GREEDY, with_trace=True), HfBackend(trained).generate(some, GREEDY, with_trace=True))


def test_wrong_guesses_take_no_memory_of_a_row_alone(trained: LoadedModel, requests: list[GenerationRequest]) -> None:
    widths: list[int] = []
    hook = trained.model.register_forward_pre_hook(lambda _model, _args, inputs: widths.append(inputs["attention_mask"].shape[-1]), with_kwargs=True)
    (sample,) = HfBackend(trained).generate(requests[:1], replace(GREEDY, temperature=1.5, max_new_tokens=90))
    hook.remove()
    assert len(sample.response_ids) > 20
    assert len(sample.prompt_ids) < max(widths) <= len(sample.prompt_ids) + len(sample.response_ids) + MOST_GUESSES


def test_a_guess_follows_the_longest_context_that_was_seen() -> None:
    drafter = Drafter(2, coord_ids=range(1000, 2000))
    box = (1, 1001, 2, 1002, 2, 1003, 2, 1004, 3)
    for token in (*box, *box):
        drafter.push(0, token)
    for token in (1, 1500, 2, 1501, 2, 1502):
        drafter.push(1, token)
    assert drafter.guess(1, count=4) == [2]  # behind it comes a coordinate, which is not guessed
    drafter.push(1, 2)
    assert drafter.guess(1) == []
    drafter.push(1, 1999)
    assert drafter.guess(1, count=4) == [3, 1]


def test_nothing_is_guessed_where_nothing_was_seen() -> None:
    drafter = Drafter(3, coord_ids=())
    for token in (5, 6, 5):
        drafter.push(0, token)
    for row, token in ((1, 7), (2, 8)):
        drafter.push(row, token)
    assert drafter.guesses([0, 1, 2], [True, True, True]) is None, "one of three rows has a guess"
    assert drafter.guesses([0, 1, 2], [True, True, False]) == [[6, 5, 6, 5, 6, 5, 6], [0] * 7, [0] * 7]


@pytest.mark.parametrize(("most", "guess"), [(10_000, [1]), (50, [])])
def test_what_was_seen_is_forgotten_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch, most: int, guess: list[int]) -> None:
    monkeypatch.setattr("coordexp.generation.drafts._MAX_CONTEXTS", most)
    drafter = Drafter(2, coord_ids=())
    for token in range(1000):
        drafter.push(0, token)
    drafter.push(1, 0)
    assert drafter.guess(1) == guess


@pytest.fixture(scope="module")
def trained() -> LoadedModel:
    return load_model(tiny_checkpoint(), dtype="float32")


@pytest.fixture(scope="module")
def requests(trained: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> list[GenerationRequest]:
    folder: Path = tmp_path_factory.mktemp("scenes")
    scenes = SceneSettings(name="drafts", kind="shapes", seed=5, num_scenes=NUM_SCENES, width=96, height=96, min_side=14, max_side=36)
    data = write_scene_records(scenes, folder / "val.jsonl", side=96)
    encoder, prompt = PromptEncoder(trained.processor), build_prompt(PromptSpec())
    records = [line.record for line in iter_source(data)]
    return [GenerationRequest(r.id, encoder.encode(prompt, load_image(folder / r.image)), seed=n) for n, r in enumerate(records) if r is not None]


@contextmanager
def counted_steps(loaded: LoadedModel) -> Iterator[list[int]]:
    """One entry for each forward of the model meanwhile."""
    calls: list[int] = []
    hook = loaded.model.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def assert_same(some: list[GenerationSample], others: list[GenerationSample]) -> None:
    for a, b in zip(some, others, strict=True):
        assert (a.response_ids, a.finish_reason, a.text) == (b.response_ids, b.finish_reason, b.text)
        assert a.trace is not None
        assert b.trace is not None
        for x, y in zip(a.trace, b.trace, strict=True):
            assert x.logprob == pytest.approx(y.logprob, abs=1e-4)
            assert x.coord_bins == y.coord_bins
            if x.coord_bins:
                assert list(x.coord_probs) == pytest.approx(list(y.coord_probs), abs=1e-4)
