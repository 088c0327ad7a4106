"""`coordexp rollout-server`: a vLLM server that answers rollouts and takes weights, in the foreground until it is stopped."""

from __future__ import annotations

from pathlib import Path

from coordexp.generation.engine import find_python, probe_engine
from coordexp.generation.http import TOKEN_VARIABLE
from coordexp.generation.server_process import ServerOptions, ServerProcess, check_options
from coordexp.types.errors import BackendError
from coordexp.types.processes import signals_as_exit
from coordexp.types.progress import Progress


def run_server(options: ServerOptions, *, wait_timeout_s: float, progress: Progress, log: Path | None = None) -> None:
    """Start the server, say when it is ready, and stay until it ends or this process is asked to.

    Raises:
        ConfigError: model, GPUs or port cannot be used; nothing was started.
        BackendError: there is no engine, or the server ended.
    """
    check_options(options)
    python = find_python()
    engine = probe_engine(python, imports=False)
    if engine.missing:
        raise BackendError(f"vLLM {engine.vllm} has no {engine.missing[0]}", where=str(python), fix="use vLLM 0.32 or newer")
    if not options.is_cpu and not engine.has_cuda:
        raise BackendError("vLLM finds no GPU", where=str(python), fix="use --device cpu, or an environment with vLLM for your GPU")
    progress.say(f"starting vLLM {engine.vllm} ({python}) with {options.model} on {options.device}")
    with signals_as_exit(), ServerProcess(python, options, log=log) as server:
        seconds = server.wait_ready(wait_timeout_s)
        guard = "" if options.token is None else f", with the token of {TOKEN_VARIABLE}"
        progress.say(f"rollout server ready at {options.address.base_url} after {seconds:.0f} s{guard}; Ctrl-C ends it")
        code = server.wait()
    raise BackendError(f"the server ended with code {code}", where=options.address.base_url, fix="read what it printed before")
