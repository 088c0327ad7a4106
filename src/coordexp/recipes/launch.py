"""Rollout servers and a learner beside them on one machine: everything is checked before anything starts, and everything ends together."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coordexp.config.loading import load_config
from coordexp.config.rollout import VllmSection, VllmServerSection
from coordexp.config.train import TrainConfig
from coordexp.generation.engine import find_python
from coordexp.generation.http import TOKEN_VARIABLE
from coordexp.generation.server_pool import ServerAddress
from coordexp.generation.server_process import ServerOptions, build_command, build_environment, check_port, wait_healthy
from coordexp.types.errors import ConfigError
from coordexp.types.processes import Child, Children

CPU: Final = "cpu"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_POLL_S: Final = 0.2
_SERVERS: Final = "rollout_matching.vllm.server.servers"


@dataclass(frozen=True, slots=True)
class LaunchArguments:
    """What a user writes beside the training file.

    Example: `LaunchArguments(Path("ab.yaml"), server_gpus="0,1", train_gpus="2,3", gpu_memory_utilization=0.7)`
    """

    config: Path
    server_gpus: str
    """Numbers separated by commas, or cpu."""
    train_gpus: str
    gpu_memory_utilization: float | None = None
    """Of the servers; None and the next three: as the file says."""
    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    """None: what the GPUs of a server leave beside tensor parallelism."""
    dtype: str | None = None
    """Of the weights in the servers; None: as in training."""
    enforce_eager: bool = False
    wait_timeout_s: float = 1200.0
    """Until all servers answer."""
    overrides: tuple[str, ...] = ()
    """Settings that win over the file, for learner and servers alike."""


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    """All its variables."""
    log: Path | None = None


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Checked. Each server listens at the address of the same number."""

    servers: tuple[Command, ...]
    addresses: tuple[ServerAddress, ...]
    learner: Command
    wait_timeout_s: float


def plan_launch(arguments: LaunchArguments) -> LaunchPlan:
    """Check everything that can be checked before a process starts.

    Raises:
        ConfigError: what is wrong, the first of it.
        BackendError: there is no vLLM on this machine.
    """
    server_gpus, train_gpus = _devices("server_gpus", arguments.server_gpus), _devices("train_gpus", arguments.train_gpus)
    if shared := sorted(set(server_gpus) & set(train_gpus), key=int):
        raise ConfigError(f"GPUs {', '.join(shared)} stand in server_gpus and in train_gpus", fix="give each GPU to one of them")
    config = load_config(arguments.config, TrainConfig, arguments.overrides).config
    vllm, servers = _server_section(config, where=str(arguments.config))
    model = Path(config.model.model)
    if not (model / "config.json").is_file():
        raise ConfigError(f"{model} is not a folder with a checkpoint", where="model.model", fix="the servers read it from this machine: give its folder")
    shares = _shares(server_gpus, len(servers))
    sizes = _parallel_sizes(arguments, vllm, num_gpus=len(shares[0]))
    addresses = [_address(server) for server in servers]
    _check_ports([(address.host, address.port) for address in addresses], "base_url")
    _check_ports([(address.host, address.group_port) for address in addresses if address.group_port is not None], "group_port")
    python, folder = find_python(), Path(config.training.output_dir)
    commands: list[Command] = []
    for address, gpus in zip(addresses, shares, strict=True):
        options = _options(arguments, config, vllm, address, sizes=sizes, gpus=gpus)
        log = folder / f"rollout-server-{address.port}.log"
        commands.append(Command(f"rollout server {address.base_url}", tuple(build_command(python, options)), build_environment(options), log))
    return LaunchPlan(tuple(commands), tuple(addresses), _learner(arguments, train_gpus), arguments.wait_timeout_s)


def run_launch(plan: LaunchPlan, *, say: Callable[[str], None]) -> int:
    """Start the servers, wait until they take requests, run the learner, end everything; the learner's exit code.

    That they take weights too, the learner finds out before it trains.

    Raises:
        BackendError: a server ended, or was not ready in time.
        OutputError: the log of a server cannot be written.
    """
    with Children() as children:
        servers = [children.start(server.name, server.arguments, env=server.env, log=server.log) for server in plan.servers]
        for server in servers:
            say(f"{server.name}: starting; its log is {server.log}")
        deadline = time.monotonic() + plan.wait_timeout_s
        for server, address in zip(servers, plan.addresses, strict=True):
            wait_healthy(server, address, timeout_s=max(deadline - time.monotonic(), 0.0))
            say(f"{server.name}: ready")
        learner = children.start(plan.learner.name, plan.learner.arguments, env=plan.learner.env)
        return _watch(learner, servers, say)


def _watch(learner: Child, servers: Sequence[Child], say: Callable[[str], None]) -> int:
    """What a lost server means, the learner decides: it goes on without, or ends."""
    lost: set[str] = set()
    while (code := learner.exit_code) is None:
        for server in servers:
            if server.exit_code is not None and server.name not in lost:
                lost.add(server.name)
                say(f"warning: {server.name} ended with exit code {server.exit_code}; the end of {server.log}:\n{server.last_words()}")
        time.sleep(_POLL_S)
    return code if code >= 0 else 128 - code


def _devices(name: str, text: str) -> tuple[str, ...]:
    """Numbers of GPUs; none for the CPU."""
    if text == CPU:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"{name}={text} is not a list of numbers", fix=f"write {name}=0,1 or {name}=cpu")
    if len(set(map(int, parts))) < len(parts):
        raise ConfigError(f"{name}={text} names a GPU twice", fix="name each once")
    return tuple(str(int(part)) for part in parts)


def _server_section(config: TrainConfig, *, where: str) -> tuple[VllmSection, tuple[VllmServerSection, ...]]:
    rollout = config.rollout
    if rollout is None or rollout.rollout_backend != "vllm":
        raise ConfigError("the launcher starts vLLM servers", where=f"{where}: rollout_matching.rollout_backend", fix="set it to vllm, or use scripts/train.sh")
    if rollout.vllm.mode != "server":
        raise ConfigError(f"is {rollout.vllm.mode}", where=f"{where}: rollout_matching.vllm.mode", fix="set it to server, or use scripts/train.sh")
    if rollout.vllm.server is None:
        raise ConfigError("is missing", where=f"{where}: {_SERVERS}", fix="give a base_url such as http://127.0.0.1:8003")
    return rollout.vllm, rollout.vllm.server.servers


def _shares(gpus: tuple[str, ...], num_servers: int) -> list[tuple[str, ...]]:
    """Contiguous GPUs of each server."""
    if len(gpus) % num_servers:
        raise ConfigError(f"{len(gpus)} GPUs cannot be shared evenly by {num_servers} servers", where=_SERVERS, fix="change server_gpus or the list of servers")
    size = len(gpus) // num_servers
    return [gpus[number * size : (number + 1) * size] for number in range(num_servers)]


def _parallel_sizes(arguments: LaunchArguments, vllm: VllmSection, *, num_gpus: int) -> tuple[int, int]:
    """(tensor, data) parallel size of a server."""
    tensor, data, devices = arguments.tensor_parallel_size or vllm.tensor_parallel_size, arguments.data_parallel_size, max(num_gpus, 1)
    data = devices // tensor if data is None else data
    if tensor * data != devices:
        found = f"server_tp {tensor} x server_dp {data} is not the number of GPUs of a server, {devices}" if num_gpus else "a server on a CPU is one engine"
        raise ConfigError(found, where="server_tp, server_dp", fix="change them, or server_gpus" if num_gpus else "remove both")
    return tensor, data


def _address(server: VllmServerSection) -> ServerAddress:
    address = ServerAddress(server.base_url, server.group_port)
    if not address.is_loopback:
        fix = "start that server there with coordexp rollout-server, and the learner with scripts/train.sh"
        raise ConfigError(f"{address.host} is not this machine", where=f"{_SERVERS}.base_url", fix=fix)
    return address


def _check_ports(addresses: Sequence[tuple[str, int]], name: str) -> None:
    where = f"{_SERVERS}.{name}"
    ports = [port for _, port in addresses]
    if twice := next((port for port in ports if ports.count(port) > 1), None):
        raise ConfigError(f"port {twice} stands twice", where=where, fix="give each server its own")
    for host, port in addresses:
        check_port(host, port, where=where)


def _options(
    arguments: LaunchArguments, config: TrainConfig, vllm: VllmSection, address: ServerAddress, *, sizes: tuple[int, int], gpus: tuple[str, ...]
) -> ServerOptions:
    return ServerOptions(
        model=Path(config.model.model),
        port=address.port,
        host=address.host,
        device=",".join(gpus) or CPU,
        dtype=arguments.dtype or config.model.torch_dtype,
        tensor_parallel=sizes[0],
        data_parallel=sizes[1],
        gpu_memory_utilization=vllm.gpu_memory_utilization if arguments.gpu_memory_utilization is None else arguments.gpu_memory_utilization,
        max_model_len=vllm.max_model_len,
        enforce_eager=arguments.enforce_eager,
        prefix_caching=vllm.enable_prefix_caching,
        lora=vllm.enable_lora,
        token=os.environ.get(TOKEN_VARIABLE) or None,
    )


def _learner(arguments: LaunchArguments, gpus: tuple[str, ...]) -> Command:
    """Proxies must not stand between it and its servers."""
    around = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(len(gpus)), "--module", "coordexp"] if len(gpus) > 1 else ["coordexp"]
    command = [sys.executable, "-m", *around, "train", "--config", str(arguments.config)]
    command += [*arguments.overrides, *([] if gpus else ["training.use_cpu=true"])]
    known = [host for name in ("NO_PROXY", "no_proxy") for host in os.environ.get(name, "").split(",") if host]
    direct = ",".join(dict.fromkeys([*known, *_LOOPBACK]))
    return Command("learner", tuple(command), {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus), "NO_PROXY": direct, "no_proxy": direct})
