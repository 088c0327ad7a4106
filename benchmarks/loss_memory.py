"""Memory and time of the loss from last hidden states: `loss_impl: lean` against `plain`, forward and backward, each in a process of its own.

python benchmarks/loss_memory.py [--quick] [--json PATH] [--tokens 8192 ...] [--dtype float32 ...] [--mix stage1 ...] [--device cuda]

Token mix `stage1`: 35 % supervised text, 20 % coordinate slots, 45 % unsupervised; `text`: all of it supervised text. Both ways get the supervised
columns only, as the model's `logits_to_keep` gives them in training. The head is trained; losses are those of the default configuration.
"Extra" memory: the peak above model, inputs and gradients of the parameters. Time: CPU seconds of one thread, which other work on the machine
disturbs least; on a GPU wall seconds between synchronizations.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from suite.command import benchmark_parser, show_figures, write_figures
from torch import Tensor, nn

from coordexp.losses.coordinates import CoordLossWeights, coordinate_terms
from coordexp.losses.lean import lean_rows
from coordexp.losses.rows import RowQuery, plain_rows
from coordexp.models.head import Head

VOCAB, WIDTH, BINS = 152_670, 2_560, 1_000
MIXES = {"stage1": (0.35, 0.20), "text": (1.0, 0.0)}
"""Shares of supervised text and of coordinate slots."""
MIB = 2**20


@dataclass(frozen=True)
class Setting:
    impl: str
    """plain, lean; on a GPU also compiled (plain through torch.compile) and liger (text only)."""
    tokens: int
    vocab: int = VOCAB
    width: int = WIDTH
    dtype: str = "float32"
    mix: str = "stage1"
    device: str = "cpu"
    repeats: int = 1
    is_later: bool = False
    """A later pack of an optimizer step: a gradient is there already, and the new one is added to it."""


def make_step(setting: Setting) -> tuple[Callable[[], Tensor], nn.Linear]:
    """One forward of the loss on given hidden states, and the head."""
    torch.manual_seed(0)
    dtype, device = getattr(torch, setting.dtype), torch.device(setting.device)
    head = nn.Linear(setting.width, setting.vocab, bias=False, dtype=dtype, device=device)
    num_text, num_coord = (round(share * setting.tokens) for share in MIXES[setting.mix])
    hidden = torch.randn(1, num_text + num_coord, setting.width, dtype=dtype, device=device).requires_grad_()
    places = torch.randperm(num_text + num_coord, device=device)
    coord_ids = torch.arange(setting.vocab - BINS - 5, setting.vocab - 5, device=device)
    bins = torch.rand(num_coord, device=device) * (BINS - 1)
    query = RowQuery(
        text_rows=places[:num_text].sort().values,
        text_targets=torch.randint(setting.vocab - BINS - 5, (num_text,), device=device),
        text_weight=torch.ones(num_text, device=device),
        coord_rows=places[num_text:].sort().values,
        coord_targets=coord_ids[bins.round().long()],
    )
    ones = torch.ones(num_coord, device=device)
    # as the objective tells it: both means over the whole step
    query = replace(query, lse_share=ones * num_text / max(1, num_coord))

    def step(rows: Any) -> Tensor:
        found = rows(hidden, Head(head), query, coord_ids=coord_ids)
        terms = coordinate_terms(found.coord_logits, found.coord_lse, bins, ones, weights=CoordLossWeights())
        return found.text_sum / num_text + terms.total / max(1, num_coord)

    def liger() -> Tensor:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore[reportMissingImports]

        return LigerFusedLinearCrossEntropyLoss()(head.weight, hidden[0].index_select(0, query.text_rows), query.text_targets)

    compiled = torch.compile(plain_rows) if setting.impl == "compiled" else None
    ways = {"plain": lambda: step(plain_rows), "lean": lambda: step(lean_rows), "compiled": lambda: step(compiled), "liger": liger}
    return ways[setting.impl], head


def measure(setting: Setting) -> dict[str, float]:
    """Extra MiB and seconds of forward and backward; run in a fresh process."""
    torch.set_num_threads(1)
    # libraries load and allocate their buffers before anything is counted
    warm, _ = make_step(replace(setting, tokens=64, vocab=2 * BINS, width=64, device="cpu" if setting.device == "cpu" else setting.device))
    warm().backward()
    step, head = make_step(setting)
    seconds, extra, there = [], [], head.weight.numel() * head.weight.element_size()
    for _ in range(setting.repeats):
        head.weight.grad = torch.zeros_like(head.weight).add_(1e-8) if setting.is_later else None
        base, start = _memory(setting, reset=True), _clock(setting)
        loss = step()
        loss.backward()
        seconds.append(_clock(setting) - start)
        extra.append(_memory(setting, reset=False) - base - (0 if setting.is_later else there))
    return {"loss": loss.item(), "extra_mib": max(extra) / MIB, "seconds": statistics.median(seconds)}


def _memory(setting: Setting, *, reset: bool) -> int:
    """Bytes in use now, with the peak reset; or the peak since."""
    if setting.device != "cpu":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmRSS:" if reset else "VmHWM:"
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def _clock(setting: Setting) -> float:
    if setting.device != "cpu":
        torch.cuda.synchronize()
        return time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run(setting: Setting) -> dict[str, float] | None:
    """`measure` in a process of its own; None when it needs more memory than there is."""
    if setting.device == "cpu" and needed_mib(setting) > free_mib():
        return None
    command = [sys.executable, __file__, "--one", json.dumps(asdict(setting))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        if "out of memory" in done.stderr:
            return None
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def needed_mib(setting: Setting) -> float:
    """What was seen, rounded up: plain holds 11 bytes for each row and vocabulary entry, with the gradient of the weight counted in."""
    num_rows, entries = sum(MIXES[setting.mix]) * setting.tokens, setting.vocab * setting.width
    size = getattr(torch, setting.dtype).itemsize
    return (entries * size + (12 * num_rows * setting.vocab if setting.impl == "plain" else 4 * entries)) / MIB + 1500


def free_mib() -> float:
    (line,) = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(line.split()[1]) / 1024


def compare(setting: Setting, *, others: tuple[str, ...]) -> dict[str, float | None]:
    """Rows of one table: every way at one size, printed; ratios of lean to plain, None where one did not run."""
    found: dict[str, dict[str, float] | None] = {}
    for impl in ("plain", "lean", *others):
        figures = found[impl] = run(replace(setting, impl=impl))
        text = (
            "did not run: not enough memory"
            if figures is None
            else f"{figures['extra_mib']:9.0f} MiB extra {figures['seconds']:9.2f} s   loss {figures['loss']:.6f}"
        )
        print(f"{setting.mix:7} {setting.dtype:9} {setting.tokens:6} tokens  {impl:9} {text}", flush=True)
    plain, lean = found["plain"], found["lean"]
    if plain is None or lean is None:
        return {"extra_memory_ratio": None, "time_ratio": None}
    return {"extra_memory_ratio": lean["extra_mib"] / plain["extra_mib"], "time_ratio": lean["seconds"] / plain["seconds"]}


def figures_of(args: argparse.Namespace) -> dict[str, float | None]:
    """By key. Without a suffix for format and mix: the larger of both formats, in the mix of Stage-1."""
    if args.quick:
        ratios = compare(Setting("", tokens=1024, vocab=32_000, width=512, repeats=3), others=())
        return {f"{name}_quick": value for name, value in ratios.items()}
    others = () if args.device == "cpu" else (*(("liger",) if importlib.util.find_spec("liger_kernel") else ()), "compiled")
    figures: dict[str, float | None] = {}
    for tokens in args.tokens:
        for mix in args.mix:
            for dtype in args.dtype:
                setting = Setting("", tokens=tokens, dtype=dtype, mix=mix, device=args.device, repeats=args.repeats, is_later=args.later)
                for name, value in compare(setting, others=others).items():
                    figures[f"{name}_{tokens // 1024}k_{mix}_{dtype}"] = value
        for name in ("extra_memory_ratio", "time_ratio"):
            values = [figures.get(f"{name}_{tokens // 1024}k_stage1_{dtype}") for dtype in args.dtype]
            known = [value for value in values if value is not None]
            figures[f"{name}_{tokens // 1024}k"] = max(known) if len(known) == len(values) and known else None
    return figures


def main() -> None:
    parser = benchmark_parser(__doc__, quick="1k tokens x 32k vocabulary x 512 wide, float32")
    parser.add_argument("--tokens", type=int, nargs="+", help="default 2048 8192 16384; on a GPU 8192 32768")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--mix", nargs="+", default=list(MIXES), choices=list(MIXES))
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--later", action="store_true", help="measure a later pack of an optimizer step: a gradient is there already")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(Setting(**json.loads(args.one)))))
        return
    if args.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no GPU here")
    args.tokens = args.tokens or ([2048, 8192, 16384] if args.device == "cpu" else [8192, 32768])
    figures = figures_of(args)
    show_figures("loss_memory", figures)
    write_figures(figures, args.json)


if __name__ == "__main__":
    main()
