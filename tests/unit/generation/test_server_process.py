import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordexp.generation.server_guard import RequireToken
from coordexp.generation.server_process import ServerOptions, ServerProcess, build_command, build_environment, check_options
from coordexp.models.assets import tiny_checkpoint
from coordexp.types.errors import BackendError, ConfigError


@pytest.fixture
def options(closed_port: int) -> ServerOptions:
    return ServerOptions(model=tiny_checkpoint(), port=closed_port)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": Path("/nowhere")}, "is no checkpoint folder"),
        ({"device": "0,x"}, "neither cpu nor a list of GPU numbers"),
        ({"device": "0,0"}, "neither cpu nor a list of GPU numbers"),
        ({"device": "0,1,2", "tensor_parallel": 2}, "tp and dp the number of GPUs"),
        ({"host": "0.0.0.0"}, "without a token whoever does can change the weights"),
        ({"host": "::"}, "other machines can reach ::"),
        ({"host": "gpu-3.example"}, "other machines can reach gpu-3.example"),
    ],
    ids=["model", "device", "gpu twice", "tp x dp", "all addresses", "all addresses of IPv6", "a name"],
)
def test_wrong_options_are_one_sentence(options: ServerOptions, change: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_options(replace(options, **change))


def test_a_server_listens_on_this_machine_alone_unless_it_asks_for_a_token(options: ServerOptions) -> None:
    assert options.host == "127.0.0.1"
    for host in ("127.0.0.1", "127.0.0.2", "localhost"):
        check_options(replace(options, host=host))
    check_options(replace(options, host="0.0.0.0", token="s3cret"))


def test_a_server_opens_no_pickled_weights(options: ServerOptions, tmp_path: Path) -> None:
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match="pickled weights are not read"):
        check_options(replace(options, model=tmp_path))


def test_a_port_that_is_taken_is_one_sentence(options: ServerOptions) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", options.port))
        taken.listen()
        with pytest.raises(ConfigError, match=f"port {options.port} of 127.0.0.1 is taken"):
            check_options(options)


def test_gpus_are_named_and_a_cpu_has_none(options: ServerOptions) -> None:
    gpus = replace(options, device="2,3", tensor_parallel=2, gpu_memory_utilization=0.7)
    assert build_environment(gpus)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert build_environment(options)["CUDA_VISIBLE_DEVICES"] == ""
    check_options(replace(gpus, device="GPU-8f2c,MIG-1b", data_parallel=1))
    command = build_command(Path("python"), gpus)
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
    assert command[command.index("--gpu-memory-utilization") + 1] == "0.7"
    assert '{"backend": "nccl"}' in command
    assert '{"backend": "coordexp"}' in build_command(Path("python"), options)


@pytest.mark.parametrize(("cores", "given", "threads"), [(8, None, "7"), (1, None, "1"), (8, "3", "3")])
def test_an_engine_on_a_cpu_leaves_a_core_to_server_and_clients(options: ServerOptions, monkeypatch: pytest.MonkeyPatch, cores, given, threads) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "OMP_NUM_THREADS" not in build_environment(replace(options, device="0"))
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert build_environment(options)["OMP_NUM_THREADS"] == threads


def test_a_token_is_in_the_environment_and_not_in_the_command(options: ServerOptions) -> None:
    guarded = replace(options, token="s3cret")
    assert "s3cret" not in " ".join(build_command(Path("python"), guarded))
    assert build_environment(guarded)["COORDEXP_REQUIRED_TOKEN"] == "s3cret"
    assert "COORDEXP_REQUIRED_TOKEN" not in build_environment(options)


def test_a_server_that_ends_at_once_is_an_error_with_the_end_of_its_log(options: ServerOptions, tmp_path: Path) -> None:
    false = tmp_path / "python"
    false.write_text("#!/bin/sh\necho the engine is broken\nexit 3\n")
    false.chmod(0o755)
    with ServerProcess(false, options, log=tmp_path / "log") as server, pytest.raises(BackendError, match=r"code 3 before it was ready(?s:.*)engine is broken"):
        server.wait_ready(timeout_s=30)


@pytest.mark.parametrize(
    ("path", "header", "status"),
    [("/update_weights", b"Bearer s3cret", 200), ("/update_weights", b"Bearer other", 401), ("/v1/models", None, 401), ("/health", None, 200)],
    ids=["right", "wrong", "none", "health is open"],
)
def test_the_guard_asks_for_the_token_on_every_route_but_health(monkeypatch: pytest.MonkeyPatch, path: str, header: bytes | None, status: int) -> None:
    monkeypatch.setenv("COORDEXP_REQUIRED_TOKEN", "s3cret")

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    headers = [] if header is None else [(b"authorization", header)]
    request: Any = {"type": "http", "path": path, "headers": headers}
    receive: Any = None
    with ThreadPoolExecutor(1) as thread:  # the tests in a browser leave a running loop in this one
        thread.submit(asyncio.run, RequireToken(app)(request, receive, send)).result()
    assert sent[0]["status"] == status
