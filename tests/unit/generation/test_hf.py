"""A row of a batch is what it would be alone, and what plain transformers writes."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.repeat import loop_end
from coordexp.models.load import LoadedModel
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, RepeatLimits

GREEDY = GenerationSettings(max_new_tokens=24)
SAMPLED = GenerationSettings(max_new_tokens=24, temperature=0.9, top_p=0.95, top_k=200, repetition_penalty=1.1)
SIZES = ((96, 96), (32, 160), (128, 48), (64, 64))
LABELS = ("cat", "dog", "a very long name of a category", "bird")


def ids_of(samples: list[GenerationSample]) -> list[tuple[int, ...]]:
    return [sample.response_ids for sample in samples]


def model_inputs(tiny: LoadedModel, request: GenerationRequest) -> dict[str, Tensor]:
    ids = torch.tensor(request.prompt.token_ids[None]).long()
    image = request.prompt.images[0]
    is_image = (ids == tiny.model.config.image_token_id).int()
    pixels, grid = torch.tensor(image.pixel_values), torch.tensor([image.grid_thw])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": is_image}


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_of_different_sizes_gives_what_each_gives_alone(tiny, make_requests, settings) -> None:
    requests = make_requests(*SIZES, labels=LABELS)
    together = HfBackend(tiny, batch_size=8).generate(requests, settings, with_trace=True)
    alone = [HfBackend(tiny).generate([request], settings, with_trace=True)[0] for request in requests]
    assert ids_of(together) == ids_of(alone)
    assert len({token for ids in ids_of(alone) for token in ids}) > 10
    for a, b in zip(together, alone, strict=True):
        assert [entry.logprob for entry in a.trace] == pytest.approx([entry.logprob for entry in b.trace], abs=1e-4)


def test_order_and_batch_size_do_not_matter(tiny, make_requests) -> None:
    requests = make_requests(*SIZES)
    expected = ids_of(HfBackend(tiny, batch_size=4).generate(requests, SAMPLED))
    assert ids_of(HfBackend(tiny, batch_size=3).generate(requests[::-1], SAMPLED))[::-1] == expected


def test_a_seed_decides_what_is_sampled(tiny, make_requests) -> None:
    (request,) = make_requests((64, 64))
    other = replace(request, seed=7)
    first, again, different = HfBackend(tiny).generate([request, request, other], SAMPLED)
    assert first.response_ids == again.response_ids != different.response_ids
    assert different.seed == 7


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_plain_transformers(tiny, make_requests, penalty: float) -> None:
    requests = make_requests(*SIZES[:2], labels=LABELS)
    ours = HfBackend(tiny).generate(requests, replace(GREEDY, repetition_penalty=penalty))
    for request, sample in zip(requests, ours, strict=True):
        inputs = model_inputs(tiny, request)
        ids = tiny.model.generate(**inputs, max_new_tokens=GREEDY.max_new_tokens, do_sample=False, repetition_penalty=penalty)
        theirs = tuple(ids[0, inputs["input_ids"].shape[1] :].tolist())
        assert (theirs if sample.finish_reason == "length" else theirs[:-1]) == sample.response_ids


def test_a_row_ends_before_its_stop_token_and_the_others_go_on(tiny, make_requests, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = make_requests(*SIZES, labels=LABELS)
    whole = ids_of(HfBackend(tiny).generate(requests, GREEDY))
    stop = next(token for ids in whole for token in ids[3:] if sum(token in other for other in whole) < len(whole))
    monkeypatch.setattr(tiny.model.generation_config, "eos_token_id", stop)
    samples = HfBackend(tiny).generate(requests, GREEDY, with_trace=True)
    for ids, sample in zip(whole, samples, strict=True):
        assert sample.response_ids == (ids[: ids.index(stop)] if stop in ids else ids)
        is_whole = stop not in ids and len(ids) == GREEDY.max_new_tokens
        assert sample.finish_reason == ("length" if is_whole else "stop")
        assert len(sample.trace) == len(sample.response_ids)
    assert {sample.finish_reason for sample in samples} == {"length", "stop"}


def test_the_trace_is_the_models_own_distribution(tiny, make_requests) -> None:
    (request,) = make_requests((64, 96))
    (sample,) = HfBackend(tiny).generate([request], SAMPLED, with_trace=True)
    inputs = model_inputs(tiny, request)
    full = torch.cat((inputs["input_ids"], torch.tensor([sample.response_ids])), dim=1)
    is_image = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(sample.response_ids)))
    with torch.no_grad():
        logits = tiny.model(**{**inputs, "input_ids": full, "attention_mask": torch.ones_like(full), "mm_token_type_ids": is_image}).logits
    logprobs = logits[0, inputs["input_ids"].shape[1] - 1 : -1].log_softmax(dim=-1)
    expected = [float(row[token]) for row, token in zip(logprobs, sample.response_ids, strict=True)]
    assert [entry.logprob for entry in sample.trace] == pytest.approx(expected, abs=1e-4)


def test_a_coordinate_token_comes_with_the_distribution_over_all_bins(tiny, make_requests) -> None:
    favour = torch.zeros(tiny.model.lm_head.out_features)
    favour[list(tiny.coord_vocab.ids)] = 1e4
    hook = tiny.model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + favour)
    (sample,) = HfBackend(tiny).generate(make_requests((64, 64)), GenerationSettings(max_new_tokens=3), with_trace=True)
    hook.remove()
    for token, entry in zip(sample.response_ids, sample.trace, strict=True):
        emitted = tiny.coord_vocab.bin_of(token)
        assert entry.coord_bins[emitted] == emitted == max(range(1000), key=entry.coord_probs.__getitem__)
        assert sum(entry.coord_probs) == pytest.approx(1.0, abs=1e-5)


def test_the_text_keeps_special_tokens_and_prompt_ids_are_those_of_the_request(tiny, make_requests) -> None:
    (request,) = make_requests((64, 64))
    (sample,) = HfBackend(tiny).generate([request], GREEDY)
    assert sample.text == tiny.tokenizer.decode(sample.response_ids, skip_special_tokens=False)
    assert sample.prompt_ids == tuple(request.prompt.token_ids.tolist())
    assert sample.trace is None


def test_generation_leaves_a_training_model_in_training_mode(tiny, make_requests) -> None:
    tiny.model.train()
    HfBackend(tiny).generate(make_requests((64, 64)), GenerationSettings(max_new_tokens=1))
    assert tiny.model.training
    tiny.model.eval()


def test_only_the_looping_row_is_ended(tiny, make_requests) -> None:
    requests = make_requests(*SIZES, labels=LABELS)
    free = HfBackend(tiny).generate(requests, GREEDY)
    limits = RepeatLimits(min_new_tokens=2, max_consecutive_token_repeats=5, ngram_size=4, ngram_repeats=2)
    ends = [loop_end(sample.response_ids, limits) for sample in free]
    assert None in ends
    assert any(end is not None and end < GREEDY.max_new_tokens for end in ends)
    guarded = HfBackend(tiny).generate(requests, replace(GREEDY, repeat=limits), with_trace=True)
    for end, before, after in zip(ends, free, guarded, strict=True):
        assert after.response_ids == before.response_ids[:end]
        assert after.finish_reason == (before.finish_reason if end is None else "repeat")
        assert len(after.trace) == len(after.response_ids)


def test_a_model_that_writes_nothing_but_keys_is_ended_by_their_number(tiny, make_requests) -> None:
    key = tiny.tokenizer.encode('"object_1":', add_special_tokens=False)
    hook = tiny.model.register_forward_hook(partial(write_in_circles, key), with_kwargs=True)
    limits = RepeatLimits(min_new_tokens=0, max_object_keys=2)
    (sample,) = HfBackend(tiny).generate(make_requests((64, 64)), replace(GREEDY, max_new_tokens=4 * len(key), repeat=limits))
    hook.remove()
    assert sample.text == '"object_1":' * 3
    assert sample.finish_reason == "repeat"


def write_in_circles(ids: list[int], _model: Any, _args: Any, inputs: dict[str, Any], output: Any) -> Any:
    """Logits by which each of these tokens follows the one before it, and the first one any other."""
    next_of = dict(zip(ids, ids[1:] + ids[:1], strict=True))
    num_places = output.logits.shape[1]
    tokens = torch.tensor([[next_of.get(token, ids[0]) for token in row] for row in inputs["input_ids"][:, -num_places:].tolist()])
    output.logits = torch.zeros_like(output.logits).scatter(-1, tokens[:, :, None], 9.0)
    return output


def with_stop_tokens(tiny, monkeypatch: pytest.MonkeyPatch, *more: int) -> list[int]:
    """Make the model end at further tokens, in plain transformers too; returns all that it ends at."""
    stop_ids = [int(tiny.tokenizer.convert_tokens_to_ids("<|im_end|>")), *more]
    monkeypatch.setattr(tiny.model.generation_config, "eos_token_id", stop_ids)
    return stop_ids


@pytest.mark.parametrize(("num_beams", "penalty", "ends"), [(2, 1.3, False), (3, 1.0, True), (5, 1.3, True)])
def test_the_best_beam_is_that_of_plain_transformers(tiny, make_requests, monkeypatch, num_beams: int, penalty: float, ends: bool) -> None:
    requests = make_requests(*SIZES, labels=LABELS)
    settings = replace(GREEDY, num_beams=num_beams, repetition_penalty=penalty)
    with_stop_tokens(tiny, monkeypatch)
    free = HfBackend(tiny).generate(requests, settings)
    # tokens that some beams end at early, some late
    more = {sample.response_ids[place] for sample, place in zip(free, (3, 9, 15, 21), strict=True)} if ends else set()
    stop_ids = with_stop_tokens(tiny, monkeypatch, *more)
    samples = HfBackend(tiny).generate(requests, settings)
    for request, sample in zip(requests, samples, strict=True):
        inputs = model_inputs(tiny, request)
        ids = tiny.model.generate(**inputs, max_new_tokens=settings.max_new_tokens, do_sample=False, num_beams=num_beams, repetition_penalty=penalty)
        theirs = tuple(ids[0, inputs["input_ids"].shape[1] :].tolist())
        assert sample.response_ids == (theirs[:-1] if theirs[-1] in stop_ids else theirs)
        assert sample.finish_reason == ("stop" if theirs[-1] in stop_ids else "length")
    assert any(sample.finish_reason == "stop" for sample in samples) == ends


def test_requests_that_are_searched_together_do_not_see_each_other(tiny, make_requests, monkeypatch) -> None:
    requests = make_requests(*SIZES, labels=LABELS)
    settings = replace(GREEDY, num_beams=3)
    free = HfBackend(tiny).generate(requests, settings)
    with_stop_tokens(tiny, monkeypatch, *(sample.response_ids[place] for sample, place in zip(free, (3, 9, 15, 21), strict=True)))
    together = HfBackend(tiny).generate(requests, settings)
    assert together == [HfBackend(tiny).generate([request], settings)[0] for request in requests]
    assert {len(sample.response_ids) for sample in together} != {GREEDY.max_new_tokens}


def test_more_beams_find_an_answer_that_is_at_least_as_likely(tiny, make_requests, monkeypatch) -> None:
    requests = make_requests(*SIZES, labels=LABELS)

    def mean_logprob(request: GenerationRequest, ids: tuple[int, ...]) -> float:
        inputs = model_inputs(tiny, request)
        full = torch.cat((inputs["input_ids"], torch.tensor([ids])), dim=1)
        is_image = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(ids)))
        with torch.no_grad():
            logits = tiny.model(**{**inputs, "input_ids": full, "attention_mask": torch.ones_like(full), "mm_token_type_ids": is_image}).logits
        rows = logits[0, inputs["input_ids"].shape[1] - 1 : -1].log_softmax(dim=-1)
        return float(rows.gather(-1, torch.tensor(ids)[:, None]).mean())

    with_stop_tokens(tiny, monkeypatch)
    greedy, searched = (HfBackend(tiny).generate(requests, replace(GREEDY, num_beams=n)) for n in (1, 6))
    gains = [mean_logprob(request, b.response_ids) - mean_logprob(request, a.response_ids) for request, a, b in zip(requests, greedy, searched, strict=True)]
    assert sum(gains) > 0.01


def test_a_guard_ends_a_looping_beam_as_it_ends_a_row(tiny, make_requests, monkeypatch) -> None:
    with_stop_tokens(tiny, monkeypatch)
    favour = torch.zeros(tiny.model.lm_head.out_features)
    favour[17] = 1e4
    hook = tiny.model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + favour)
    settings = replace(GREEDY, num_beams=3, repeat=RepeatLimits(min_new_tokens=0, max_consecutive_token_repeats=5))
    (sample,) = HfBackend(tiny).generate(make_requests((64, 64)), settings)
    hook.remove()
    assert (sample.response_ids, sample.finish_reason) == ((17,) * 5, "repeat")


def test_beams_are_not_sampled(tiny, make_requests) -> None:
    with pytest.raises(BackendError, match=r"beam search does not sample \(num_beams=2, temperature=0.9\); set the temperature to 0"):
        HfBackend(tiny).generate(make_requests((64, 64)), replace(SAMPLED, num_beams=2))
