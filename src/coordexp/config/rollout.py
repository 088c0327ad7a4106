"""Schema of the section `rollout_matching`: how the model's own outputs are made, matched and supervised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from coordexp.config.evaluation import SENTENCE_ENCODER
from coordexp.config.sections import Count, KeyProblem, NonNegative, Positive, PositiveNumber, Section, Share, Switch, Text, Whole

Repeats = Annotated[Whole, Field(ge=2)]
"""What stands once is no repetition."""


class DecodingSection(Section):
    temperature: NonNegative = 0.0
    """0 is greedy."""
    top_p: Share = 1.0
    """Share of probability that is sampled from."""
    top_k: Whole = -1
    """-1: all."""


class RepeatTerminateSection(Section):
    """The loop guard: ends a sequence that repeats itself, and no other of its batch."""

    enabled: Switch = False
    """Whether the guard is on."""
    min_new_tokens: Count = 256
    """Never before this length."""
    max_consecutive_token_repeats: Repeats = 64
    """The same token this many times in a row."""
    ngram_size: Positive = 64
    """Longest piece whose repetition is looked for, in tokens."""
    ngram_repeats: Repeats = 2
    """The last `ngram_size * ngram_repeats` tokens are a piece of at most `ngram_size` tokens over and over again."""
    max_object_keys: Positive | None = None
    """More keys `"object_N":` than this."""


class VllmServerSection(Section):
    base_url: Text
    """http(s) with a port."""
    group_port: Positive | None = None
    """Port of the weight channel."""


class VllmServersSection(Section):
    servers: tuple[VllmServerSection, ...] = Field(min_length=1)
    """Rollout servers; requests are split over them."""
    timeout_s: PositiveNumber = 240.0
    """Waiting for a server to come up, in seconds."""
    infer_timeout_s: PositiveNumber | None = None
    """Waiting for one answer, in seconds; absent: no limit."""


class VllmSyncSection(Section):
    mode: Literal["full", "adapter", "auto"] = "full"
    """What is sent to the servers: all weights, the LoRA adapter, or what fits."""
    fallback_to_full: Switch = True
    """Send all weights when the adapter cannot be sent."""
    transfer: Literal["auto", "shared_memory", "gloo", "nccl"] = "auto"
    """How the bytes go: auto is nccl on GPUs, else shared memory on the same machine and gloo to another."""
    verify_every: Count = 10
    """Compare checksums of some tensors in the first push and every n-th one after it; 0: never."""


class VllmSection(Section):
    mode: Literal["server", "colocate"] = "colocate"
    """Servers of their own, or (experimental) an engine in the process of the learner, which has vLLM in its environment then."""
    server: VllmServersSection | None = None
    """Required by mode server."""
    sync: VllmSyncSection = Field(default_factory=VllmSyncSection)
    tensor_parallel_size: Positive = 1
    """GPUs of one engine."""
    gpu_memory_utilization: Share = 0.45
    """Share of GPU memory for the engine."""
    max_model_len: Positive | None = None
    """Longest sequence of the engine, in tokens."""
    enable_prefix_caching: Switch = True
    """Reuse the work on equal prompt beginnings."""
    enable_lora: Switch = False
    """Load LoRA adapters in the engine."""


class OffloadSection(Section):
    enabled: Switch = False
    """The learner makes room on its device while rollouts are made there, and the engine of `vllm.mode: colocate` sleeps while the model learns."""
    offload_model: Switch = False
    """Move the weights to main memory during rollouts; only with `vllm.mode: colocate`."""
    offload_optimizer: Switch = False
    """Move the optimizer state to main memory during rollouts."""


class MatchingSection(Section):
    iou: Literal["exact", "mask"] = "exact"
    """exact: boxes by their corners, polygons drawn; mask: everything drawn on the canvas."""


class DescMonitorSection(Section):
    """Compares the names of matched objects with the annotated ones, for the log alone."""

    enabled: Switch = False
    """Log `rollout/desc_*`."""
    semantic: Switch = True
    """By meaning too, where the text encoder is on this machine; without it one warning, and `rollout/desc_sem_enabled` is 0."""
    threshold: Share = 0.6
    """Cosine from which on two names agree."""
    model_name_or_path: Text = SENTENCE_ENCODER
    """Sentence encoder."""
    revision: Text | None = None
    """Of the encoder on the hub; absent: what is there."""


class DumpSection(Section):
    """Rollouts with their targets as pages to look at, and as JSON, in `rollouts/` of the run folder."""

    every_steps: Count = 0
    """Optimizer steps between dumps; a step without rollouts leaves it to the next one that has some. 0: never."""
    num_samples: Positive = 4
    """Rollouts of a dump, spread over those of its step."""


class RolloutMatchingSection(Section):
    replaced: ClassVar[dict[str, str]] = {
        "rollout_buffer": "remove it: stage2_ab.channel_b.mode: async keeps a queue of ready packs",
        "temperature": "write decoding.temperature",
        "top_p": "write decoding.top_p",
        "top_k": "write decoding.top_k",
    }

    rollout_backend: Literal["hf", "vllm"] = "hf"
    """Where rollouts are generated: in process, or by vLLM."""
    vllm: VllmSection = Field(default_factory=VllmSection)
    offload: OffloadSection = Field(default_factory=OffloadSection)
    max_new_tokens: Positive = 1024
    """Longest rollout, in tokens."""
    decode_mode: Literal["greedy", "beam"] = "greedy"
    """beam only with hf; the best beam is taken."""
    num_beams: Positive = 1
    """Beams of decode_mode beam, at least 2."""
    decoding: DecodingSection = Field(default_factory=DecodingSection)
    repetition_penalty: PositiveNumber = 1.0
    """1: none."""
    rollout_infer_batch_size: Positive = 1
    """Rollouts that transformers generate together; vLLM servers batch by themselves."""
    repeat_terminate: RepeatTerminateSection = Field(default_factory=RepeatTerminateSection)
    matching: MatchingSection = Field(default_factory=MatchingSection)
    candidate_top_k: Positive = 5
    """Ground-truth boxes that are looked at for each predicted one."""
    maskiou_gate: Share = 0.3
    """Pairs with a lower IoU are never matched."""
    maskiou_resolution: Positive = 256
    """Side of the canvas on which mask IoU is measured."""
    fp_cost: NonNegative = 1.0
    """Price of leaving a prediction unmatched."""
    fn_cost: NonNegative = 1.0
    """Price of leaving a ground truth unmatched."""
    ot_cost: Literal["l1", "l2"] = "l2"
    """Distance between polygon vertices."""
    ot_epsilon: PositiveNumber = 10.0
    """Smoothing of the optimal transport."""
    ot_iters: Positive = 30
    """Iterations of the optimal transport."""
    desc_monitor: DescMonitorSection = Field(default_factory=DescMonitorSection)
    dump: DumpSection = Field(default_factory=DumpSection)

    def problems(self, section: str) -> Iterator[KeyProblem]:
        """What is wrong between settings of this section, which stands under the key `section`."""
        if self.decode_mode == "beam":
            if self.rollout_backend != "hf":
                yield KeyProblem(f"{section}.decode_mode", "beam search works only with rollout_backend: hf", "set decode_mode: greedy, or rollout_backend: hf")
            if self.num_beams < 2:
                yield KeyProblem(f"{section}.num_beams", "is 1, and decode_mode is beam", "set num_beams: 4, or decode_mode: greedy")
            if self.decoding.temperature > 0:
                yield KeyProblem(f"{section}.decoding.temperature", "is above 0, and beam search does not sample", "set it to 0, or decode_mode: greedy")
        elif self.num_beams > 1:
            yield KeyProblem(f"{section}.num_beams", f"is {self.num_beams}, and decode_mode is greedy", "set decode_mode: beam, or remove num_beams")
        if self.offload.enabled:
            yield from self._offload_problems(f"{section}.offload")
        if self.rollout_backend == "vllm":
            yield from self._vllm_problems(section)

    def _offload_problems(self, offload: str) -> Iterator[KeyProblem]:
        if self.rollout_backend == "vllm":
            if self.vllm.mode == "server":
                what = "makes room on the learner's device, and rollout servers have devices of their own"
                yield KeyProblem(f"{offload}.enabled", what, "set it to false, or vllm.mode: colocate")
        elif self.offload.offload_model:
            what = "moves the weights away, and with rollout_backend: hf rollouts are made by them"
            yield KeyProblem(f"{offload}.offload_model", what, "set it to false, or rollout_backend: vllm with vllm.mode: colocate")
        elif not self.offload.offload_optimizer:
            yield KeyProblem(f"{offload}.enabled", "moves nothing with rollout_backend: hf", "set offload_optimizer: true, or enabled: false")

    def _vllm_problems(self, section: str) -> Iterator[KeyProblem]:
        if self.vllm.mode == "colocate":
            yield from self._colocate_problems(f"{section}.vllm")
        elif self.vllm.server is None:
            yield KeyProblem(f"{section}.vllm.server", "is required by vllm.mode: server", "give servers: [{base_url: 'http://127.0.0.1:8000'}]")
        if self.decoding.temperature > 2:
            yield KeyProblem(f"{section}.decoding.temperature", "is above 2, the most that vLLM takes", "lower it, or set rollout_backend: hf")

    def _colocate_problems(self, vllm: str) -> Iterator[KeyProblem]:
        if self.vllm.server is not None:
            yield KeyProblem(f"{vllm}.server", "has no effect with mode: colocate, which is the default", "set mode: server, or remove it")
        if self.vllm.tensor_parallel_size > 1:
            yield KeyProblem(f"{vllm}.tensor_parallel_size", "is above 1, and an engine of mode: colocate has one GPU", "set it to 1, or set mode: server")
        if self.vllm.sync.mode == "adapter" or self.vllm.enable_lora:
            key = "sync.mode" if self.vllm.sync.mode == "adapter" else "enable_lora"
            yield KeyProblem(f"{vllm}.{key}", "mode: colocate hands over all weights, adapters merged", "remove it, or set mode: server")
