"""The next token: the transformers rules, with random numbers that belong to a row."""

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from coordexp.generation.sampling import TokenPicker
from coordexp.types.rollouts import GenerationSettings

VOCAB = 50


def pick_many(logits: torch.Tensor, settings: GenerationSettings, *, num: int) -> torch.Tensor:
    """`num` draws from one distribution, one row each."""
    picker = TokenPicker(settings, seeds=range(num), prompt_ids=[[]] * num, vocab_size=VOCAB, device=torch.device("cpu"))
    return picker.pick(logits.expand(num, -1), rows=torch.arange(num), steps=torch.zeros(num, dtype=torch.long))


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0)) * 2


@pytest.mark.parametrize(("top_k", "top_p"), [(-1, 1.0), (5, 1.0), (-1, 0.6), (20, 0.8)])
def test_frequencies_are_those_of_the_transformers_warpers(logits: torch.Tensor, top_k: int, top_p: float) -> None:
    tokens = pick_many(logits, GenerationSettings(max_new_tokens=1, temperature=0.7, top_k=top_k, top_p=top_p), num=20_000)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(0.7), TopKLogitsWarper(top_k if top_k > 0 else VOCAB), TopPLogitsWarper(top_p)])
    expected = warpers(torch.zeros(1, 1, dtype=torch.long), logits).softmax(dim=-1)[0]
    frequencies = torch.bincount(tokens, minlength=VOCAB) / len(tokens)
    assert set(tokens.tolist()) <= set(expected.nonzero().flatten().tolist())
    assert torch.allclose(frequencies, expected, atol=0.015)


@pytest.mark.parametrize(
    "settings", [GenerationSettings(1), GenerationSettings(1, temperature=1.0, top_p=0.0), GenerationSettings(1, temperature=1.0, top_k=1)]
)
def test_what_leaves_one_token_picks_the_best(logits: torch.Tensor, settings: GenerationSettings) -> None:
    assert set(pick_many(logits, settings, num=50).tolist()) == {int(logits.argmax())}


def test_a_token_of_the_prompt_is_penalized_and_so_is_a_generated_one() -> None:
    settings = GenerationSettings(max_new_tokens=3, repetition_penalty=2.0)
    picker = TokenPicker(settings, seeds=[0], prompt_ids=[[4]], vocab_size=VOCAB, device=torch.device("cpu"))
    logits = torch.full((1, VOCAB), -5.0)
    logits[0, 4], logits[0, 5], logits[0, 6] = 3.0, 2.0, 1.8
    picked = [int(picker.pick(logits, rows=torch.arange(1), steps=torch.tensor([step]))) for step in range(2)]
    assert picked == [5, 6]


def test_a_rows_draws_do_not_depend_on_who_is_left_in_the_batch(logits: torch.Tensor) -> None:
    settings = GenerationSettings(max_new_tokens=2, temperature=2.0)
    seeds, prompts = range(8), [[]] * 8
    all_rows, some = (TokenPicker(settings, seeds=seeds, prompt_ids=prompts, vocab_size=VOCAB, device=torch.device("cpu")) for _ in range(2))
    kept = torch.tensor([1, 6])
    expected = all_rows.pick(logits.expand(8, -1), rows=torch.arange(8), steps=torch.ones(8, dtype=torch.long))[kept]
    assert torch.equal(some.pick(logits.expand(2, -1), rows=kept, steps=torch.ones(2, dtype=torch.long)), expected)
