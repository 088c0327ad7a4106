"""How long a learner's weights take to a real vLLM server on this machine, by way of transfer, and how far that is from copying the same bytes in memory.

A push is the whole cycle: pause, transfer, layerwise reload, clearing of every cache, checksums of 8 tensors, resume. Learner and server share the cores.

python benchmarks/weight_sync.py [--quick] [--json PATH]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from suite.command import benchmark_parser, write_figures
from transformers import Qwen3VLForConditionalGeneration

from coordexp.generation.engine import find_python
from coordexp.generation.server_pool import ServerPool
from coordexp.generation.server_process import ServerOptions, ServerProcess
from coordexp.generation.weight_transfer import TransferName, WeightPusher
from coordexp.models.merged_view import merged_tensors
from coordexp.models.tiny import tiny_config, write_tiny
from coordexp.models.tokenizer import train_tokenizer
from coordexp.recipes.doctor import free_port

TRANSFERS: tuple[TransferName, ...] = ("shared_memory", "gloo")
START_S = 300.0


@dataclass(frozen=True)
class Size:
    name: str
    text: dict[str, int]
    vision: dict[str, int]


SIZES = (
    Size("tiny", {}, {}),
    Size(
        "medium",
        {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 16},
        {"hidden_size": 288, "intermediate_size": 768, "depth": 6, "num_heads": 9, "out_hidden_size": 512},
    ),
)


def build(size: Size, folder: Path) -> Qwen3VLForConditionalGeneration:
    """An untrained model, and its folder for the server."""
    tokenizer = train_tokenizer(0)
    config = tiny_config(tokenizer)
    for part, settings in ((config.text_config, size.text), (config.vision_config, size.vision)):
        for name, value in settings.items():
            setattr(part, name, value)
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config).float().eval()
    write_tiny(folder, model, tokenizer)
    return model


def copy_bytes_per_s(num_bytes: int, *, repeats: int) -> float:
    """One thread copies a buffer of this size into another one that exists."""
    source, target = torch.ones(num_bytes // 4), torch.empty(num_bytes // 4)
    seconds: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return num_bytes / statistics.median(seconds[1:])


def measure(model: Qwen3VLForConditionalGeneration, pool: ServerPool, transfer: TransferName, *, repeats: int) -> dict[str, Any]:
    """One way of transfer; the first push, which connects, is on its own."""
    pusher = WeightPusher(pool, transfer=transfer, verify_every=1)
    try:
        start = time.perf_counter()
        first = pusher.push(merged_tensors(model), 0)
        connect_s = time.perf_counter() - start - first.seconds
        reports = [pusher.push(merged_tensors(model), version) for version in range(1, repeats + 1)]
    finally:
        pusher.close()
    median_s = statistics.median(report.seconds for report in reports)
    figures = {
        "num_bytes": first.num_bytes,
        "first_s": first.seconds + connect_s,
        "push_s": median_s,
        "slowest_s": max(report.seconds for report in reports),
        "bytes_per_s": first.num_bytes / median_s,
    }
    for part in ("pause", "transfer", "finish"):
        figures[f"{part}_s"] = statistics.median(report.parts_s[part] for report in reports)
    return figures


def main() -> None:
    parser = benchmark_parser(__doc__, quick="the tiny model alone, 3 pushes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    repeats = 3 if args.quick else 15
    python, figures = find_python(), {}
    print("model    transfer            MB  first s   push s  slowest   pause  transfer  finish    MB/s  of a copy")
    for size in SIZES[:1] if args.quick else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            model = build(size, Path(folder) / "model")
            num_parameters = sum(parameter.numel() for parameter in model.parameters())
            options = ServerOptions(model=Path(folder) / "model", port=free_port(), dtype="float32", max_model_len=1024, max_num_seqs=4)
            with ServerProcess(python, options, log=Path(folder) / "server.log") as server:
                server.wait_ready(START_S)
                found = {transfer: measure(model, ServerPool([options.address]), transfer, repeats=repeats) for transfer in TRANSFERS}
            copy = copy_bytes_per_s(found[TRANSFERS[0]]["num_bytes"], repeats=repeats)
            for transfer, row in found.items():
                row["share_of_copy"] = row["bytes_per_s"] / copy
                seconds = "".join(f"{row[f'{part}_s']:9.3f}" for part in ("first", "push", "slowest", "pause", "transfer", "finish"))
                print(f"{size.name:8} {transfer:14} {row['num_bytes'] / 1e6:7.1f}{seconds} {row['bytes_per_s'] / 1e6:7.0f} {row['share_of_copy']:10.4f}")
            figures[size.name] = {"num_parameters": num_parameters, "copy_bytes_per_s": copy, **found}
    write_figures(figures, args.json)


if __name__ == "__main__":
    main()
