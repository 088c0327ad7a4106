"""A vLLM server as a child process: its command line, its start, the wait for its health, its end. Nothing of it outlives this process."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from coordexp.generation.server_pool import ServerAddress
from coordexp.types.errors import BackendError, ConfigError
from coordexp.types.processes import Child, start_process

EXTENSION = "coordexp.generation.worker_extension.WorkerExtension"
MIDDLEWARE = "coordexp.generation.server_guard.RequireToken"
POLICY_NAME = "policy"
"""What the server calls the model."""

_STOP_S = 8.0
_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Example: `ServerOptions(model=Path("ckpt/tiny"), port=8000, device="cpu")`"""

    model: Path
    port: int
    host: str = "127.0.0.1"
    device: str = "cpu"
    """`cpu`, or GPU numbers: `0,1`."""
    dtype: str = "auto"
    tensor_parallel: int = 1
    data_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    max_model_len: int | None = None
    max_num_seqs: int = 64
    enforce_eager: bool = False
    prefix_caching: bool = True
    lora: bool = False
    kv_cache_mb: int = 128
    """Of the key and value memory on a CPU."""
    transfer: str | None = None
    """Weight-transfer engine; None: `nccl` on GPUs, ours on a CPU."""
    token: str | None = None
    extra: tuple[str, ...] = field(default=())
    """More arguments for vLLM."""

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def address(self) -> ServerAddress:
        """Where a client on this machine finds it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return ServerAddress(f"http://{host}:{self.port}")


def check_options(options: ServerOptions) -> None:
    """Look at what can be wrong before a server starts.

    Raises:
        ConfigError: the model is no folder, the GPUs do not fit tp x dp, or the port is taken.
    """
    if not (options.model / "config.json").is_file():
        raise ConfigError(f"{options.model} is no checkpoint folder", where="--model", fix="give a local folder with config.json and model.safetensors")
    if not options.is_cpu:
        gpus = options.device.split(",")
        if not all(gpu.isdigit() for gpu in gpus) or len(set(gpus)) != len(gpus):
            raise ConfigError(f"{options.device!r} is neither cpu nor a list of GPU numbers", where="--device", fix="write cpu, 0 or 0,1")
        if options.tensor_parallel * options.data_parallel != len(gpus):
            what = f"{options.tensor_parallel} x {options.data_parallel} engines' GPUs, and {len(gpus)} are named"
            raise ConfigError(what, where="--tp x --dp", fix="make the product of tp and dp the number of GPUs")
    check_port(options.host, options.port)


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
    backend = options.transfer or ("coordexp" if options.is_cpu else "nccl")
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(options.model), "--served-model-name", POLICY_NAME]
    command += ["--host", options.host, "--port", str(options.port), "--dtype", options.dtype, "--generation-config", "vllm"]
    command += ["--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0}), "--max-num-seqs", str(options.max_num_seqs)]
    command += [
        "--worker-extension-cls",
        EXTENSION,
        "--weight-transfer-config",
        json.dumps({"backend": backend}),
        "--disable-uvicorn-access-log",
        "--enable-scale-out",
    ]
    command += ["--enable-prefix-caching" if options.prefix_caching else "--no-enable-prefix-caching"]
    if options.is_cpu:
        # the default share of the memory refuses to start on a busy machine; the cache is sized by itself
        command += ["--enforce-eager", "--kv-cache-memory-bytes", str(options.kv_cache_mb * 1024**2), "--gpu-memory-utilization", "0.2"]
    else:
        command += ["--tensor-parallel-size", str(options.tensor_parallel), "--data-parallel-size", str(options.data_parallel)]
        command += ["--gpu-memory-utilization", str(options.gpu_memory_utilization), *(["--enforce-eager"] if options.enforce_eager else [])]
    if options.max_model_len is not None:
        command += ["--max-model-len", str(options.max_model_len)]
    if options.lora:
        command += ["--enable-lora", "--max-lora-rank", "128"]
    if options.token is not None:
        command += ["--middleware", MIDDLEWARE]
    return [*command, *options.extra]


def build_environment(options: ServerOptions) -> dict[str, str]:
    """What vLLM reads from the environment; what the user has set stands."""
    own = {
        "VLLM_SERVER_DEV_MODE": "1",  # the control routes
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    if options.lora:
        own["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if options.is_cpu:
        # bound threads would all sit on the first processor beside whatever else runs there
        own |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "CUDA_VISIBLE_DEVICES": ""}
    else:
        own["CUDA_VISIBLE_DEVICES"] = options.device
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


def is_healthy(address: ServerAddress) -> bool:
    """Whether a server answers there; a proxy of the environment is not asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address.base_url}/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _last_words(server: Child) -> str:
    if server.log is None:
        return ""
    words = server.last_words()
    return f" (log {server.log}):\n  " + words.replace("\n", "\n  ") if words else f" (log {server.log} is empty)"
