"""A vLLM server as a child process: its command line, its start, the wait for its health, its end. Nothing of it outlives this process."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from coordexp.generation.engine_options import EngineOptions, as_flags, engine_arguments, engine_environment
from coordexp.generation.http import TOKEN_VARIABLE, is_healthy
from coordexp.generation.server_pool import ServerAddress
from coordexp.types.errors import BackendError, ConfigError
from coordexp.types.processes import Child, start_process

MIDDLEWARE = "coordexp.generation.server_guard.RequireToken"
POLICY_NAME = "policy"
"""What the server calls the model."""

_EVERYWHERE = ("0.0.0.0", "::")  # compared with, not bound  # nosec B104
"""Addresses to listen on that nobody can call."""
_BY_ID = ("GPU-", "MIG-")
"""How CUDA_VISIBLE_DEVICES names GPUs, and parts of them, that it does not number."""
_STOP_S = 8.0
_POLL_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions(EngineOptions):
    """Example: `ServerOptions(model=Path("ckpt/tiny"), port=8000, device="cpu")`"""

    port: int
    host: str = "127.0.0.1"
    data_parallel: int = 1
    lora: bool = False
    token: str | None = None
    extra: tuple[str, ...] = field(default=())
    """More arguments for vLLM."""

    @property
    def address(self) -> ServerAddress:
        """Where a client on this machine finds it."""
        host = "127.0.0.1" if self.host in _EVERYWHERE else self.host
        return ServerAddress(f"http://{host}:{self.port}")


def check_options(options: ServerOptions) -> None:
    """Look at what can be wrong before a server starts.

    Raises:
        ConfigError: the model is no folder with safetensors, others could reach the server without a token, the GPUs do not fit tp x dp, or the port is taken.
    """
    if not (options.model / "config.json").is_file():
        raise ConfigError(f"{options.model} is no checkpoint folder", where="--model", fix="give a local folder with config.json and model.safetensors")
    if not any(options.model.glob("*.safetensors")):
        raise ConfigError(f"{options.model} holds no safetensors", where="--model", fix="use a checkpoint saved as safetensors; pickled weights are not read")
    if options.token is None and not _is_loopback(options.host):
        what = f"other machines can reach {options.host}, and without a token whoever does can change the weights"
        raise ConfigError(what, where="--host", fix=f"put a token into the environment variable {TOKEN_VARIABLE}, or listen on 127.0.0.1")
    if not options.is_cpu:
        gpus = options.device.split(",")
        if not all(gpu.isdigit() or gpu.startswith(_BY_ID) for gpu in gpus) or len(set(gpus)) != len(gpus):
            raise ConfigError(f"{options.device!r} is neither cpu nor a list of GPU numbers", where="--device", fix="write cpu, 0 or 0,1")
        if options.tensor_parallel * options.data_parallel != len(gpus):
            what = f"{options.tensor_parallel} x {options.data_parallel} engines' GPUs, and {len(gpus)} are named"
            raise ConfigError(what, where="--tp x --dp", fix="make the product of tp and dp the number of GPUs")
    check_port(options.host, options.port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def check_port(host: str, port: int, *, where: str = "--port") -> None:
    """Raises ConfigError when nothing can listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"port {port} of {host} is taken ({error.strerror})", where=where, fix="choose another port") from error


def build_command(python: Path, options: ServerOptions) -> list[str]:
    """VLLM's own server with our worker extension."""
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", *as_flags(engine_arguments(options)), "--served-model-name", POLICY_NAME]
    command += ["--host", options.host, "--port", str(options.port), "--disable-uvicorn-access-log", "--enable-scale-out"]
    if not options.is_cpu:
        command += ["--data-parallel-size", str(options.data_parallel)]
    if options.lora:
        command += ["--enable-lora", "--max-lora-rank", "128"]
    if options.token is not None:
        command += ["--middleware", MIDDLEWARE]
    return [*command, *options.extra]


def build_environment(options: ServerOptions) -> dict[str, str]:
    """What vLLM reads from the environment; what the user has set stands."""
    own = {**engine_environment(is_cpu=options.is_cpu, constrained=options.constrained), "VLLM_SERVER_DEV_MODE": "1"}  # the control routes
    if options.is_cpu:
        # one core for the HTTP server and the clients: an engine on all of them waits at every operation for the thread that shares its core
        own["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) - 1))
    if options.lora:
        own["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    own["CUDA_VISIBLE_DEVICES"] = "" if options.is_cpu else options.device
    forced = {"VLLM_SERVER_DEV_MODE", "CUDA_VISIBLE_DEVICES"}
    result = {**own, **os.environ} | {name: own[name] for name in forced & own.keys()}
    clone = Path(__file__).resolve().parents[3]
    if (clone / "pyproject.toml").is_file():
        # the engine's environment may know another clone of this package, or none
        result["PYTHONPATH"] = os.pathsep.join([str(clone / "src"), *filter(None, [result.get("PYTHONPATH")])])
    result.pop("COORDEXP_REQUIRED_TOKEN", None)
    if options.token is not None:
        result["COORDEXP_REQUIRED_TOKEN"] = options.token
    return result


class ServerProcess:
    """Start it, wait for it, stop it. `stop` may be called in any state, more than once, from any thread.

    Example:
        with ServerProcess(python, options, log=Path("server.log")) as server:
            server.wait_ready(timeout_s=240)
    """

    def __init__(self, python: Path, options: ServerOptions, *, log: Path | None = None) -> None:
        """`log` takes what the server prints; None: it prints where we print."""
        check_options(options)
        self.options = options
        self._child = start_process(options.address.base_url, build_command(python, options), env=build_environment(options), log=log)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Also the number of its process group."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child.exit_code is None

    def wait(self) -> int:
        """Until it ends by itself; its exit code."""
        return self._child.wait()

    def wait_ready(self, timeout_s: float) -> float:
        """Seconds until it was healthy.

        Raises:
            BackendError: it ended, or was not healthy in time; it is stopped then.
        """
        start = time.monotonic()
        try:
            wait_healthy(self._child, self.options.address, timeout_s=timeout_s)
        except BackendError:
            self.stop()
            raise
        return time.monotonic() - start

    def kill(self) -> None:
        """End it as a crash would."""
        self._child.end(first=signal.SIGKILL)

    def stop(self) -> None:
        """End it and all of its workers: asked first, after some seconds no longer asked."""
        self._child.end(grace_s=_STOP_S)


def wait_healthy(server: Child, address: ServerAddress, *, timeout_s: float) -> None:
    """Return when the server of a process takes requests.

    Raises:
        BackendError: it ended, or was not healthy in time; with its last words. It is left as it is.
    """
    start = time.monotonic()
    while not is_healthy(address):
        problem = None
        if server.exit_code is not None:
            problem = f"the server ended with code {server.exit_code} before it was ready"
        elif time.monotonic() - start > timeout_s:
            problem = f"the server was not ready after {timeout_s:.0f} s"
        if problem is not None:
            fix = "read its log; 'coordexp doctor engine' checks the engine"
            raise BackendError(problem + _last_words(server), where=address.base_url, fix=fix)
        time.sleep(_POLL_S)


def _last_words(server: Child) -> str:
    if server.log is None:
        return ""
    words = server.last_words()
    return f" (log {server.log}):\n  " + words.replace("\n", "\n  ") if words else f" (log {server.log} is empty)"
