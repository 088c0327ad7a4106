"""Schema of the section `rollout_matching`: how the model's own outputs are made, matched and supervised."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from coordexp.config.sections import Count, NonNegative, Positive, PositiveNumber, Section, Share, Switch, Text, Whole


class DecodingSection(Section):
    temperature: NonNegative = 0.0
    """0 is greedy."""
    top_p: Share = 1.0
    top_k: Whole = -1
    """-1: all."""


class RepeatTerminateSection(Section):
    """The loop guard: ends a sequence that repeats itself."""

    enabled: Switch = False
    min_new_tokens: Count = 256
    max_consecutive_token_repeats: Positive = 64
    ngram_size: Positive = 64
    ngram_repeats: Positive = 2
    max_object_keys: Positive | None = None


class VllmServerSection(Section):
    base_url: Text
    group_port: Positive | None = None


class VllmServersSection(Section):
    servers: tuple[VllmServerSection, ...] = Field(min_length=1)
    timeout_s: PositiveNumber = 240.0
    infer_timeout_s: PositiveNumber | None = None


class VllmSyncSection(Section):
    mode: Literal["full", "adapter", "auto"] = "full"
    fallback_to_full: Switch = True


class VllmSection(Section):
    mode: Literal["server", "colocate"] = "colocate"
    server: VllmServersSection | None = None
    sync: VllmSyncSection = Field(default_factory=VllmSyncSection)
    tensor_parallel_size: Positive = 1
    gpu_memory_utilization: Share = 0.45
    max_model_len: Positive | None = None
    enable_prefix_caching: Switch = True
    enable_lora: Switch = False


class OffloadSection(Section):
    enabled: Switch = False
    offload_model: Switch = False
    offload_optimizer: Switch = False


class RolloutMatchingSection(Section):
    replaced: ClassVar[dict[str, str]] = {
        "rollout_buffer": "remove it: stage2_ab.channel_b.mode: async keeps a queue of ready packs",
        "temperature": "write decoding.temperature",
        "top_p": "write decoding.top_p",
        "top_k": "write decoding.top_k",
    }

    rollout_backend: Literal["hf", "vllm"] = "hf"
    vllm: VllmSection = Field(default_factory=VllmSection)
    offload: OffloadSection = Field(default_factory=OffloadSection)
    max_new_tokens: Positive = 1024
    decode_mode: Literal["greedy", "beam"] = "greedy"
    num_beams: Positive = 1
    decoding: DecodingSection = Field(default_factory=DecodingSection)
    repetition_penalty: PositiveNumber = 1.0
    rollout_infer_batch_size: Positive = 1
    repeat_terminate: RepeatTerminateSection = Field(default_factory=RepeatTerminateSection)
    candidate_top_k: Positive = 5
    """Ground-truth boxes that are looked at for each predicted one."""
    maskiou_gate: Share = 0.3
    """Pairs below it are never matched."""
    maskiou_resolution: Positive = 256
    fp_cost: NonNegative = 1.0
    fn_cost: NonNegative = 1.0
    ot_cost: Literal["l1", "l2"] = "l2"
    ot_epsilon: PositiveNumber = 10.0
    ot_iters: Positive = 30
