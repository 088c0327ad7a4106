"""Inference in images and tokens a second: our transformers path against a plain `generate` loop of the same batch size, and in the full form our vLLM path
against vLLM's own offline batch of the same requests.

Everything from image files to the finished text counts on both sides; ours also makes token probabilities, scores and pixels. Answers are compared.

With `--device cuda` transformers alone: the checkpoint of the package, and a model of the shape of Qwen3-VL-4B with random weights and the checkpoint's
vocabulary (its answers all have the full length, so that it shows the cost of a step and nothing of the refilling).

python benchmarks/infer_throughput.py [--quick] [--json PATH] [--device cuda]
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from suite.command import benchmark_parser, write_figures

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.data.images import load_image
from coordexp.data.synthetic import SceneSettings, write_scene_records
from coordexp.generation.engine import find_python
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import NUM_BATCHES, GenerationBackend
from coordexp.generation.server_pool import ServerPool
from coordexp.generation.server_process import ServerOptions, ServerProcess
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.generation.vllm_server import VllmServerBackend
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.pipeline.infer import Inference, InferenceSettings, windows_under_way
from coordexp.pipeline.prompting import PromptPlan
from coordexp.pipeline.source import iter_source
from coordexp.recipes.doctor import free_port
from coordexp.types.rollouts import GenerationSettings

MAX_NEW_TOKENS = 192
CONCURRENCY = 32
OFFLINE = Path(__file__).parent / "throughput" / "offline_batch.py"


@dataclass(frozen=True)
class Speed:
    """Of one pass over all images."""

    seconds: float
    num_tokens: int
    texts: list[str]

    def describe(self) -> dict[str, float]:
        return {"images_per_s": round(len(self.texts) / self.seconds, 2), "tokens_per_s": round(self.num_tokens / self.seconds, 1)}


def write_data(folder: Path, *, count: int) -> Path:
    """Drawn scenes with none to six objects: answers of 3 to 190 tokens."""
    settings = SceneSettings(name="throughput", kind="shapes", seed=8, num_scenes=count, width=96, height=96, min_side=14, max_side=36)
    folder.mkdir()
    return write_scene_records(settings, folder / "val.jsonl", side=96)


def ours(backend: GenerationBackend, loaded: LoadedModel, data: Path, *, window: int, num_windows: int = 1) -> Speed:
    """`coordexp infer` without the files it writes."""
    settings = InferenceSettings(
        mode="coord",
        pred_coord_mode="auto",
        generation=GenerationSettings(max_new_tokens=MAX_NEW_TOKENS),
        window=window,
        prompts=PromptPlan(PromptSpec()),
        image_root=data.parent,
        num_windows=num_windows,
    )
    inference = Inference(backend, PromptEncoder(loaded.processor), tokenizer=HfBackend(loaded).text_tokenizer, settings=settings)
    start = time.perf_counter()
    texts = [result.raw_output for window in inference.run(iter_source(data)) for result in window.results]
    return Speed(time.perf_counter() - start, inference.counts.num_tokens, texts)


def plain(loaded: LoadedModel, data: Path, *, batch_size: int) -> Speed:
    """What a user writes by hand: processor, padding, `generate`, `batch_decode`."""
    processor, model, prompt = loaded.processor, loaded.model, build_prompt(PromptSpec())
    any_processor: Any = processor
    tokenizer: Any = loaded.tokenizer
    tokenizer.padding_side = "left"
    messages = [
        {"role": "system", "content": [{"type": "text", "text": prompt.system}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.user}]},
    ]
    paths = [data.parent / json.loads(line)["images"][0] for line in data.read_text().splitlines()]
    texts: list[str] = []
    num_tokens = 0
    start = time.perf_counter()
    for first in range(0, len(paths), batch_size):
        images = [load_image(path) for path in paths[first : first + batch_size]]
        chat = any_processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        inputs = any_processor(text=[chat] * len(images), images=images, padding=True, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            output: Any = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        answers = output[:, inputs["input_ids"].shape[1] :]
        num_tokens += int((answers != tokenizer.pad_token_id).sum()) - len(images)  # the end of a turn is not counted, as in ours
        texts += [text.partition("<|im_end|>")[0] for text in tokenizer.batch_decode(answers, skip_special_tokens=False)]
    return Speed(time.perf_counter() - start, num_tokens, texts)


def compare(first: Callable[[], Speed], second: Callable[[], Speed], *, repeats: int) -> tuple[list[float], Speed, Speed]:
    """Seconds of `second` over seconds of `first`, in turns, and the last pass of each."""
    passes = [(first(), second()) for _ in range(repeats)]
    return [b.seconds / a.seconds for a, b in passes], *passes[-1]


def measure_hf(loaded: LoadedModel, data: Path, warm: Path, *, batch_size: int, repeats: int) -> dict[str, Any]:
    backend = HfBackend(loaded, batch_size=batch_size, has_fixed_weights=True)
    ours(backend, loaded, warm, window=batch_size)
    plain(loaded, warm, batch_size=batch_size)
    ratios, mine, theirs = compare(
        lambda: ours(backend, loaded, data, window=NUM_BATCHES * batch_size), lambda: plain(loaded, data, batch_size=batch_size), repeats=repeats
    )
    same = sum(a == b for a, b in zip(mine.texts, theirs.texts, strict=True))
    return {
        "batch_size": batch_size,
        "hf_speedup": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "ours": mine.describe(),
        "plain": theirs.describe(),
        "same_answers": f"{same}/{len(mine.texts)}",
    }


def run_offline(data: Path, *, repeats: int, with_ours: bool) -> dict[str, Any]:
    """In the environment of vLLM. With ours: one engine in that process for both; without: vLLM's default, engine and worker in processes of their own."""
    command = [str(find_python()), str(OFFLINE), str(data), str(MAX_NEW_TOKENS), str(CONCURRENCY), str(repeats), str(int(with_ours))]
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if with_ours else "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure_vllm(loaded: LoadedModel, data: Path, *, repeats: int) -> dict[str, Any]:
    """By a server against the offline batch as vLLM starts it by default, and on an engine in the process against the offline batch on the same engine."""
    same_engine = run_offline(data, repeats=repeats, with_ours=True)
    ratios = [theirs / mine for theirs, mine in zip(same_engine["seconds"], same_engine["ours"], strict=True)]
    default = run_offline(data, repeats=repeats, with_ours=False)
    options = ServerOptions(model=tiny_checkpoint(), port=free_port(), dtype="float32", max_model_len=2048, max_num_seqs=CONCURRENCY, prefix_caching=False)
    with tempfile.TemporaryDirectory() as folder, ServerProcess(find_python(), options, log=Path(folder) / "server.log") as server:
        server.wait_ready(300)
        tokenizer = HfBackend(loaded).text_tokenizer
        backend = VllmServerBackend(ServerPool([options.address]), facts=ModelFacts.of(loaded), tokenizer=tokenizer, concurrency=2 * CONCURRENCY)
        passes = [ours(backend, loaded, data, window=8, num_windows=windows_under_way(concurrency=2 * CONCURRENCY, window=8)) for _ in range(repeats + 1)]
        backend.close()
    server_speed = sorted(passes[1:], key=lambda speed: speed.seconds)[len(passes[1:]) // 2]
    offline_speed = Speed(statistics.median(default["seconds"]), default["num_tokens"], default["texts"])
    return {
        "vllm_ratio": round(offline_speed.seconds / server_speed.seconds, 3),
        "vllm_server": server_speed.describe(),
        "vllm_offline": offline_speed.describe(),
        "vllm_local_ratio": round(statistics.median(ratios), 3),
        "vllm_local_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "vllm_local_images_per_s": round(len(passes[0].texts) / statistics.median(same_engine["ours"]), 2),
        "vllm_same_answers": f"{sum(a == b for a, b in zip(server_speed.texts, offline_speed.texts, strict=True))}/{len(server_speed.texts)}",
    }


def large_model(small: LoadedModel) -> LoadedModel:
    """Qwen3-VL-4B's depth and width in bfloat16, with random weights and the picture patches and vocabulary of `small`."""
    config: Any = copy.deepcopy(small.model.config)
    model_class: Any = type(small.model)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 2560, 9728, 36
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = 32, 8, 128
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [24, 20, 20], "rope_theta": 5_000_000}
    vision.hidden_size, vision.intermediate_size, vision.depth, vision.num_heads, vision.out_hidden_size = 1024, 4096, 24, 16, 2560
    vision.deepstack_visual_indexes = [5, 11, 17]
    torch.manual_seed(0)
    with torch.device(small.model.device):
        model = model_class._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.generation_config = copy.deepcopy(small.model.generation_config)
    return replace(small, model=model.eval())


def measure_gpu(folder: Path, *, device: str, is_quick: bool) -> dict[str, Any]:
    """The checkpoint of the package in float32, and the large model."""
    small = load_model(tiny_checkpoint(), dtype="float32", device=device)
    data, few, warm = (write_data(folder / name, count=count) for name, count in (("all", 256), ("few", 32), ("warm", 8)))
    rows = [measure_hf(small, data, warm, batch_size=size, repeats=2) for size in ((16,) if is_quick else (8, 16, 32))]
    large = {} if is_quick else measure_hf(large_model(small), few, warm, batch_size=16, repeats=1)
    return {
        "device": torch.cuda.get_device_name(),
        "hf_speedup": next(row for row in rows if row["batch_size"] == 16)["hf_speedup"],
        "hf": rows,
        "large": large,
    }


def measure_cpu(*, is_quick: bool) -> dict[str, Any]:
    loaded = load_model(tiny_checkpoint(), dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        data, warm = (write_data(Path(folder) / name, count=count) for name, count in (("all", 128 if is_quick else 256), ("warm", 8)))
        rows = [measure_hf(loaded, data, warm, batch_size=size, repeats=3 if is_quick else 5) for size in ((16,) if is_quick else (8, 16, 32))]
        for row in rows:
            print(json.dumps(row))
        figures: dict[str, Any] = {"hf_speedup": next(row for row in rows if row["batch_size"] == 16)["hf_speedup"], "hf": rows}
        if not is_quick:
            figures |= measure_vllm(loaded, data, repeats=3)
            print(json.dumps({name: value for name, value in figures.items() if name.startswith("vllm")}))
    return figures


def main() -> int:
    parser = benchmark_parser(__doc__, quick="transformers alone, fewer images: under 50 s")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        figures = measure_cpu(is_quick=arguments.quick)
    else:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure_gpu(Path(folder), device=arguments.device, is_quick=arguments.quick)
            print(json.dumps(figures))
    write_figures(figures, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
