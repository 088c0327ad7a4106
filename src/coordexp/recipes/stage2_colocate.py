"""Rollouts by vLLM in the process of the learner (experimental): start the engine, compare pixels, and hand it and the way of the weights to the trainer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.config.rollout import RolloutMatchingSection
from coordexp.generation.engine_options import EngineOptions
from coordexp.generation.pixel_check import compare_pixels
from coordexp.generation.vllm_engine import VllmEngineBackend
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.recipes.odd_prompts import odd_prompts
from coordexp.recipes.stage1_parts import Stage1Parts
from coordexp.recipes.stage2_async import RolloutEngine
from coordexp.training.engine_sync import LearnerEngine
from coordexp.types.errors import ConfigError


def build_colocated_engine(section: RolloutMatchingSection, parts: Stage1Parts, *, use_cpu: bool, say: Callable[[str], None], world_size: int) -> RolloutEngine:
    """An engine beside the model that is trained. One that can sleep does so when it is handed over.

    Raises:
        UserError: there are several processes, vLLM cannot be used here, or it sees other pixels than the training.
    """
    if world_size > 1:
        what = f"is colocate, which works with one process, and {world_size} train"
        raise ConfigError(what, where="rollout_matching.vllm.mode", fix="set mode: server, and start 'coordexp rollout-server'")
    model, vllm = parts.loaded_model, section.vllm
    # the weights go to the GPU only with the trainer
    on_gpu = torch.cuda.is_available() and not use_cpu
    options = EngineOptions(
        model=model.path,
        device="cuda" if on_gpu else "cpu",
        dtype=str(next(model.model.parameters()).dtype).removeprefix("torch."),
        gpu_memory_utilization=vllm.gpu_memory_utilization,
        max_model_len=vllm.max_model_len,
        prefix_caching=vllm.enable_prefix_caching,
        transfer="coordexp",
        sleeps=section.offload.enabled,
    )
    backend = VllmEngineBackend(options, facts=ModelFacts.of(model), tokenizer=TextTokenizer.of(model.tokenizer))  # pyright: ignore[reportArgumentType]
    prompts = odd_prompts(model)
    difference = compare_pixels(backend.look, prompts, dtype=backend.dtype, where="vLLM in this process")
    say(f"vLLM in this process (experimental): the pixels of {len(prompts)} odd pictures differ by {difference:.1g} at most")
    if backend.can_sleep:
        backend.sleep()
    elif section.offload.enabled:
        say("rollout_matching.offload: this engine cannot sleep (on a CPU none can); it keeps its memory while the model learns")
    return RolloutEngine(backend, LearnerEngine(parts.tuned.trained, backend))
