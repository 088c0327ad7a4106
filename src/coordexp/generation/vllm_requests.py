"""What a request to vLLM holds and what is read from its answer, whether the engine is a server or lives in this process.

The prompt goes as the ids of the training encoding and the picture as the pixels of the training encoding (what its patches hold); vLLM expands the
placeholders of pictures by itself, and the ids that it generated from must be those of the training again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from coordexp.batching.pictures import PatchLayout, restore_picture
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.pieces import decode_pieces
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.constrained import AutomatonShelf
from coordexp.generation.constrained_requests import ConstraintRequest, check_answer
from coordexp.generation.loop_limits import cut_loop, server_repetition
from coordexp.generation.prompt_ids import check_prompt_ids
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.stop_tokens import stop_token_ids
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, TokenTrace
from coordexp.types.sequences import PromptInputs

if TYPE_CHECKING:
    from coordexp.models.load import LoadedModel


DEFAULT_TOP = 20
"""Most probable tokens that come with each token when probabilities are asked for: what a vLLM server allows by default."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the checkpoint decides about requests."""

    checkpoint: str
    image_token_id: int
    stop_ids: tuple[int, ...]
    layout: PatchLayout
    coord_vocab: CoordVocabulary

    @classmethod
    def of(cls, loaded: LoadedModel) -> ModelFacts:
        """Of a model in this process."""
        return cls._of(str(loaded.path), loaded.processor, loaded.model.generation_config, loaded.coord_vocab)

    @classmethod
    def of_folder(cls, folder: Path, processor: Any, *, needs_coord_tokens: bool = True) -> ModelFacts:
        """Of a checkpoint whose weights are not read here; without coordinate tokens when those are not needed.

        Raises:
            CheckpointError: it has no coordinate tokens.
        """
        from transformers import GenerationConfig

        stored = GenerationConfig.from_pretrained(folder, local_files_only=True) if (folder / "generation_config.json").is_file() else None
        coord_vocab = CoordVocabulary.from_tokenizer(processor.tokenizer, where=str(folder)) if needs_coord_tokens else CoordVocabulary(())
        return cls._of(str(folder), processor, stored, coord_vocab)

    @classmethod
    def _of(cls, checkpoint: str, processor: Any, generation_config: Any, coord_vocab: CoordVocabulary) -> ModelFacts:
        return cls(
            checkpoint=checkpoint,
            image_token_id=int(processor.image_token_id),
            stop_ids=tuple(stop_token_ids(generation_config, processor.tokenizer)),
            layout=PatchLayout.of(processor.image_processor),
            coord_vocab=coord_vocab,
        )


@dataclass(frozen=True, slots=True)
class TopTokens:
    """What an engine says of one generated token: its log-probability, and those of the most probable tokens by id."""

    logprob: float
    others: tuple[tuple[int, float], ...]


def check_settings(settings: GenerationSettings) -> None:
    """Raises BackendError when vLLM cannot do it."""
    if settings.num_beams > 1:
        raise BackendError("vLLM has no beam search", fix="set decode_mode: greedy, or rollout_backend: hf")


def sampling_parameters(request: GenerationRequest, settings: GenerationSettings, *, facts: ModelFacts, top_tokens: int | None = None) -> dict[str, Any]:
    """By vLLM's names. `top_tokens`: how many of the most probable tokens come with each; None: no probabilities."""
    sampling: dict[str, Any] = {
        "max_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "repetition_penalty": settings.repetition_penalty,
        "stop_token_ids": list(facts.stop_ids),
        "skip_special_tokens": False,
        "detokenize": False,
    }
    if settings.temperature > 0:
        sampling["seed"] = request.seed
    if top_tokens is not None:
        sampling["logprobs"] = top_tokens
    constraint = ConstraintRequest.of(settings)
    if constraint is not None:
        sampling["extra_args"] = constraint.as_extra_args()
    elif settings.repeat is not None:
        sampling["repetition_detection"] = server_repetition(settings.repeat)
    return sampling


def unexpanded_ids(prompt: PromptInputs, *, facts: ModelFacts) -> list[int]:
    """The ids with one placeholder for each picture."""
    ids = prompt.token_ids
    is_repeated = np.zeros(len(ids), dtype=bool)
    is_repeated[1:] = (ids[1:] == facts.image_token_id) & (ids[:-1] == facts.image_token_id)
    return ids[~is_repeated].tolist()


def pictures_of(prompt: PromptInputs, *, facts: ModelFacts) -> list[Image.Image]:
    """The pictures as the training sees them, at sizes that the image processor leaves alone."""
    return [restore_picture(image, facts.layout) for image in prompt.images]


def read_sample(
    request: GenerationRequest,
    settings: GenerationSettings,
    *,
    prompt_ids: Sequence[int],
    token_ids: tuple[int, ...],
    top_tokens: Sequence[TopTokens] | None = None,
    version: int,
    engine: str,
    facts: ModelFacts,
    tokenizer: TextTokenizer,
    shelf: AutomatonShelf,
) -> GenerationSample:
    """The sample of an answer.

    Args:
        request: what was asked.
        settings: how.
        prompt_ids: what the engine says it generated from.
        token_ids: what it generated, with the stop token.
        top_tokens: one for each of them, when probabilities were asked for.
        version: of the weights.
        engine: names it in errors.
        facts: of the learner's model.
        tokenizer: decodes.
        shelf: see `answer_shelf`.

    Raises:
        PromptMismatchError: it generated from another prompt.
        BackendError: the answer is against its constraint.
    """
    expected = request.prompt.token_ids.tolist()
    check_prompt_ids(prompt_ids, expected, name=f"{request.id} by {engine}")
    has_stopped = bool(token_ids) and token_ids[-1] in facts.stop_ids
    ids = token_ids[:-1] if has_stopped else token_ids
    sample = GenerationSample(
        prompt_ids=tuple(expected),
        response_ids=ids,
        text=decode_pieces(ids, tokenizer=tokenizer).text,
        finish_reason="stop" if has_stopped else "length",
        seed=request.seed,
        trace=None if top_tokens is None else tuple(_trace_of(token, top, facts.coord_vocab) for token, top in zip(ids, top_tokens, strict=False)),
        policy_version=version,
    )
    if settings.constraint is not None:
        return check_answer(sample, settings, stop_ids=facts.stop_ids, has_stopped=has_stopped, engine=engine, shelf=shelf)
    return sample if settings.repeat is None else cut_loop(sample, settings.repeat, tokenizer=tokenizer)


def answer_shelf(tokenizer: TextTokenizer, facts: ModelFacts) -> AutomatonShelf:
    """For `read_sample`: what constrained answers are checked with."""
    return AutomatonShelf(tokenizer, vocab_size=tokenizer.num_ids, coord_vocab=facts.coord_vocab, stop_ids=facts.stop_ids)


def _trace_of(token: int, top: TopTokens, coord_vocab: CoordVocabulary) -> TokenTrace:
    """At a coordinate token, the probabilities of the bins among the most probable tokens.

    They are not scaled up to 1: what lies beyond the most probable tokens is what a doubtful coordinate differs in from a certain one.
    """
    if coord_vocab.bin_of(token) is None:
        return TokenTrace(top.logprob)
    found = {k: math.exp(logprob) for other, logprob in ((token, top.logprob), *top.others) if (k := coord_vocab.bin_of(other)) is not None}
    bins = tuple(sorted(found))
    return TokenTrace(top.logprob, bins, tuple(found[k] for k in bins))
