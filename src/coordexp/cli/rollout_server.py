"""`coordexp rollout-server`: vLLM as the server of a Stage-2 training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def rollout_server(
    model: Annotated[Path, typer.Option("--model", help="Checkpoint folder: the one that the training starts from.")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; the default is seen by this machine alone.")] = "127.0.0.1",
    device: Annotated[str, typer.Option("--device", help="cpu, or GPU numbers such as 0,1.")] = "cpu",
    tp: Annotated[int, typer.Option("--tp", min=1, help="GPUs of one engine.")] = 1,
    dp: Annotated[int, typer.Option("--dp", min=1, help="Engines beside each other.")] = 1,
    dtype: Annotated[str, typer.Option("--dtype", help="auto | float32 | bfloat16 | float16")] = "auto",
    gpu_memory_utilization: Annotated[float, typer.Option("--gpu-memory-utilization", min=0.05, max=1.0)] = 0.9,
    max_model_len: Annotated[int | None, typer.Option("--max-model-len", help="Longest sequence, prompt and answer, in tokens.")] = None,
    max_num_seqs: Annotated[int, typer.Option("--max-num-seqs", min=1, help="Sequences that are generated together.")] = 64,
    enforce_eager: Annotated[bool, typer.Option("--enforce-eager", help="Without CUDA graphs.")] = False,
    enable_lora: Annotated[bool, typer.Option("--enable-lora", help="Take adapters too (vllm.sync.mode: adapter).")] = False,
    constrained: Annotated[bool, typer.Option("--constrained", help="Take requests with a constraint too (infer.constrain: json).")] = False,
    wait_timeout: Annotated[float, typer.Option("--wait-timeout", help="Seconds until the server must be ready.")] = 600.0,
    log: Annotated[Path | None, typer.Option("--log", help="File for what the server prints; else it prints here.")] = None,
) -> None:
    """Start a vLLM server that answers rollouts and takes weights from a training, and stay until Ctrl-C.

    A token in the environment variable COORDEXP_SERVER_TOKEN is then asked for on every request; give the training the same.
    """
    from coordexp.cli.progress import console_progress
    from coordexp.generation.http import TOKEN_VARIABLE
    from coordexp.generation.server_process import ServerOptions
    from coordexp.recipes.serve import run_server

    options = ServerOptions(
        model=model,
        port=port,
        host=host,
        device=device,
        dtype=dtype,
        tensor_parallel=tp,
        data_parallel=dp,
        gpu_memory_utilization=gpu_memory_utilization,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        enforce_eager=enforce_eager,
        lora=enable_lora,
        constrained=constrained,
        token=os.environ.get(TOKEN_VARIABLE) or None,
    )
    run_server(options, wait_timeout_s=wait_timeout, progress=console_progress(), log=log)
