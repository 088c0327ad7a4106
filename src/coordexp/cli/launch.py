"""`coordexp launch`: rollout servers and a learner on one machine. `scripts/stage2_ab_server_train.sh` has the same arguments as key=value."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def launch(
    server_gpus: Annotated[str, typer.Option("--server-gpus", help="GPUs of the rollout servers: 0,1,2 or cpu.")],
    train_gpus: Annotated[str, typer.Option("--train-gpus", help="GPUs of the learner: 3 or cpu.")],
    config: Annotated[Path, typer.Option("--config", help="Training file (YAML) with rollout_matching.vllm.mode: server.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings that win over the file.")] = None,
    gpu_memory_utilization: Annotated[float | None, typer.Option("--vllm-gpu-memory-utilization", help="Share of GPU memory for each engine.")] = None,
    server_tp: Annotated[int | None, typer.Option("--server-tp", min=1, help="GPUs that share one engine.")] = None,
    server_dp: Annotated[int | None, typer.Option("--server-dp", min=1, help="Engines of a server.")] = None,
    server_torch_dtype: Annotated[str | None, typer.Option("--server-torch-dtype", help="Of the weights in the servers; the learner's by default.")] = None,
    enforce_eager: Annotated[bool, typer.Option("--server-vllm-enforce-eager/--no-server-vllm-enforce-eager", help="No CUDA graphs.")] = False,
    wait_timeout: Annotated[float, typer.Option("--wait-timeout", min=0, help="Seconds until all servers answer.")] = 1200.0,
) -> None:
    """Start rollout servers, wait for them, train beside them, end everything.

    Everything is checked before anything starts. On any exit, Ctrl-C included, nothing stays behind.
    """
    from coordexp.recipes.launch import LaunchArguments, plan_launch, run_launch

    plan = plan_launch(
        LaunchArguments(
            config,
            server_gpus=server_gpus,
            train_gpus=train_gpus,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=server_tp,
            data_parallel_size=server_dp,
            dtype=server_torch_dtype,
            enforce_eager=enforce_eager,
            wait_timeout_s=wait_timeout,
            overrides=tuple(overrides or ()),
        )
    )
    raise typer.Exit(run_launch(plan, say=typer.echo))
