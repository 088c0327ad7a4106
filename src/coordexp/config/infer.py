"""Schema of an inference pipeline: one file without `extends`, for infer, eval and vis. Flags of the command line win."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from coordexp.config.evaluation import EvalSettings, threshold_problems
from coordexp.config.rollout import RepeatTerminateSection
from coordexp.config.sections import (
    Count,
    FilePath,
    FileSection,
    GeometryKinds,
    KeyProblem,
    NonNegative,
    Positive,
    PositiveNumber,
    Section,
    Share,
    Switch,
    Text,
)
from coordexp.types.constraint import MIN_DESC_TOKENS


class RunSection(Section):
    name: Text
    """Last part of the run's folder. No default."""
    output_dir: FilePath
    """Artifacts land in `<output_dir>/<name>/`. No default."""
    root_image_dir: FilePath | None = None
    """Folder that image paths count from; absent: the folder of the data file. The environment variable ROOT_IMAGE_DIR wins."""


class StagesSection(Section):
    infer: Switch
    """Generate predictions."""
    eval: Switch
    """Measure them."""
    vis: Switch
    """Draw them."""


class BackendSection(Section):
    type: Literal["hf", "vllm"] = "hf"
    """transformers in process, or vLLM."""
    mode: Literal["server", "local"] = "server"
    """vllm only: an OpenAI-compatible server, or in process."""
    base_url: Text | None = None
    """vllm server only: its address with the port; several with commas between them."""
    model: Text | None = None
    """Name that the server gives the model; absent: the checkpoint."""
    auto_launch: Switch = False
    """vllm server only: start it on this machine and stop it with the run."""
    timeout_s: PositiveNumber = 240.0
    """vllm server only: waiting for the one that is started, in seconds."""
    client_concurrency: Positive = 32
    """vllm only: requests under way, on each server."""
    server_options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """vllm only, when it is started by us: arguments of vLLM by its own names, such as `max_model_len: 8192`."""
    top_logprobs: Positive = 20
    """vllm only: most probable tokens that scores and expectations are read from; more than 20 only where the server allows it (`--max-logprobs`)."""
    attn_impl: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "sdpa"
    """Preferred attention implementation; one that is missing falls back with a notice."""
    torch_dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Number format of the weights."""

    def vllm_problems(self) -> Iterator[KeyProblem]:
        """What a vllm backend needs beside its type."""
        if self.mode == "server" and not self.auto_launch and self.base_url is None:
            yield KeyProblem("infer.backend.base_url", "is required by a vLLM server that is not started here", "name it, or set auto_launch: true")
        if self.mode == "local" and (self.base_url is not None or self.auto_launch):
            yield KeyProblem("infer.backend.mode", "local has no server", "remove base_url and auto_launch, or set mode: server")
        if self.auto_launch and self.base_url is not None and "," in self.base_url:
            yield KeyProblem("infer.backend.base_url", "only one server is started", "name one address, or leave it out")


class GenerationSection(Section):
    temperature: NonNegative = 0.0
    """0 is greedy."""
    top_p: Share = 1.0
    """Share of probability that is sampled from."""
    max_new_tokens: Positive = 1024
    """Longest answer, in tokens."""
    repetition_penalty: PositiveNumber = 1.0
    """1: none."""
    batch_size: Positive = 8
    """Records that are generated at a time."""
    window: Positive | None = None
    """Lines that are generated, written, resumed and given to shards as one; within it, places are refilled. null: eight batches (hf), one (vllm)."""
    seed: Count = 42
    """Each record gets its own from it."""


class InferSection(Section):
    gt_jsonl: FilePath
    """Data file: images with their ground truth. No default."""
    model_checkpoint: Text
    """Folder of the checkpoint. No default."""
    mode: Literal["coord", "text", "auto", "native"] = "auto"
    """Coordinates as tokens or as integers; auto looks at the data. native: the format of stock Qwen3-VL."""
    pred_coord_mode: Literal["auto", "pixel", "norm1000"] = "auto"
    """text mode only: what the integers of predictions are; auto decides by sample."""
    backend: BackendSection = Field(default_factory=BackendSection)
    generation: GenerationSection = Field(default_factory=GenerationSection)
    device: Text = "auto"
    """`cpu`, `cuda:0`, …; auto: the first GPU, or the CPU when there is none."""
    limit: Count = 0
    """Only the first N records; 0: all."""
    detect_samples: Positive = 128
    """Records that `mode: auto` looks at."""
    coord_space: Literal["pixel", "norm1000", "token"] | None = None
    """For data files that do not say in which space their coordinates are."""
    object_ordering: Literal["sorted", "random"] = "sorted"
    """As in training: it is part of the prompt."""
    object_field_order: Literal["desc_first", "geometry_first"] = "desc_first"
    """As in training: it is part of the prompt."""
    geometry_kinds: GeometryKinds = ("bbox_2d",)
    """As in training: it is part of the prompt."""
    prompt_labels: tuple[Text, ...] | Literal["none", "all", "gt"] = "none"
    """Category list in the prompt: given names, all categories of the file, or those of the image."""
    coord_decode: Literal["argmax", "expectation"] = "argmax"
    """The bin that was written, or the expectation around the most probable one, unrounded in `points_exact`; mode coord only."""
    coord_decode_window: Positive = 24
    """Expectation only: bins on each side of the mode."""
    calibration: FilePath | None = None
    """What `coordexp calibrate` wrote: scores become probabilities. Absent: raw scores."""
    constrain: Literal["off", "json"] = "off"
    """json: the model can write nothing but complete documents of our format, at any temperature and also at the limit of tokens."""
    labels: tuple[Text, ...] | Literal["all"] | None = None
    """With `constrain: json`: names that a desc must be one of: given ones, or all categories of the data file; absent: any text."""
    max_objects: Positive | None = None
    """With `constrain: json`: most objects of an answer; absent: as many as fit."""
    max_desc_tokens: Annotated[int, Strict(), Field(ge=MIN_DESC_TOKENS)] = 64
    """With `constrain: json`: longest desc, in tokens. Not for `labels`."""
    repeat_terminate: RepeatTerminateSection = Field(default_factory=RepeatTerminateSection)
    shard: Text | None = None
    """`i/n`, i from 1: only the i-th of n parts, into `shards/i-of-n`; `coordexp merge` puts them together."""
    num_workers: Positive = 1
    """Threads that read and prepare images while the model generates."""


class ArtifactsSection(Section):
    """Explicit paths in place of `<run.output_dir>/<run.name>/…`."""

    gt_vs_pred_jsonl: FilePath | None = None
    """Predictions beside ground truth."""
    summary_json: FilePath | None = None
    """Counts and settings."""
    resolved_config_json: FilePath | None = None
    """The manifest."""
    eval_dir: FilePath | None = None
    """Results of the stage eval."""
    vis_dir: FilePath | None = None
    """Pictures of the stage vis."""


class VisSection(Section):
    limit: Count = 20
    """Images that are drawn; 0: all."""


class InferConfig(FileSection):
    """An inference pipeline."""

    allows_extends: ClassVar[bool] = False

    run: RunSection
    stages: StagesSection = Field(default_factory=lambda: StagesSection(infer=True, eval=False, vis=False))
    infer: InferSection | None = None
    """Required when the stage `infer` runs."""
    artifacts: ArtifactsSection = Field(default_factory=ArtifactsSection)
    eval: EvalSettings = Field(default_factory=EvalSettings)
    vis: VisSection = Field(default_factory=VisSection)

    def problems(self) -> Iterator[KeyProblem]:
        if not any((self.stages.infer, self.stages.eval, self.stages.vis)):
            yield KeyProblem("stages", "no stage is on", "set infer, eval or vis to true")
        if self.stages.infer and self.infer is None:
            yield KeyProblem("infer", "is required when stages.infer is true", "name infer.gt_jsonl and infer.model_checkpoint")
        if self.stages.infer and self.infer is not None and self.infer.backend.type == "vllm":
            yield from self.infer.backend.vllm_problems()
        if "/" in self.run.name or self.run.name in {".", ".."}:
            yield KeyProblem("run.name", "must be a plain folder name", "put folders into run.output_dir")
        if self.infer is not None:
            yield from _constraint_problems(self.infer)
        yield from threshold_problems(self.eval, "eval.")


def _constraint_problems(infer: InferSection) -> Iterator[KeyProblem]:
    if infer.constrain == "off":
        if infer.labels is not None:
            yield KeyProblem("infer.labels", "is a closed set, which only constrained decoding keeps", "set infer.constrain: json, or use infer.prompt_labels")
        if infer.max_objects is not None:
            yield KeyProblem("infer.max_objects", "is a limit of constrained decoding", "set infer.constrain: json, or remove it")
        return
    if infer.mode == "native":
        yield KeyProblem("infer.constrain", "knows our own format, not the native one", "set it to off, or use another mode")
    if infer.pred_coord_mode == "pixel":
        yield KeyProblem("infer.pred_coord_mode", "constrained answers hold bins from 0 to 999, no pixels", "set it to norm1000")
    if isinstance(infer.labels, tuple):
        blank = [label for label in infer.labels if not label.strip()]
        if blank or not infer.labels:
            yield KeyProblem("infer.labels", f"no object can be called {blank[0]!r}" if blank else "is an empty list", "give names, or remove it")
