"""`coordexp doctor engine`: which vLLM would serve rollouts, what it can do, and whether it really does."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.data.synthetic import SceneSettings, render_scene, scale_scene
from coordexp.generation.engine import Engine, find_python, probe_engine, routes
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.server_pool import ServerPool
from coordexp.generation.server_process import ServerOptions, ServerProcess
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.generation.vllm_server import VllmServerBackend
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import load_model
from coordexp.types.errors import BackendError
from coordexp.types.progress import Progress
from coordexp.types.rollouts import GenerationSettings

_START_S = 300.0
_SIDE = 96


def diagnose_engine(*, tries: bool, progress: Progress) -> Engine:
    """Say what is found; with `tries` start a server on this machine's CPU and ask it about one picture.

    Raises:
        BackendError: there is no engine, routes are missing, or its answer is not that of transformers.
    """
    python = find_python()
    progress.say(f"engine: {python}")
    engine = probe_engine(python)
    progress.say(f"vLLM {engine.vllm}, torch {engine.torch}, transformers {engine.transformers}, {'GPU' if engine.has_cuda else 'no GPU: CPU only'}")
    for label in routes():
        progress.say(f"  {'missing' if label in engine.missing else 'ok     '}  {label}")
    if engine.missing:
        raise BackendError(f"{len(engine.missing)} routes are missing", where=str(python), fix="use vLLM 0.32 or newer")
    if tries:
        _try(engine, progress=progress)
    return engine


def _try(engine: Engine, *, progress: Progress) -> None:
    """One picture, answered by a real server and by transformers."""
    loaded = load_model(tiny_checkpoint(), dtype="float32")
    hf = HfBackend(loaded)
    scene = scale_scene(render_scene(SceneSettings(name="doctor", kind="shapes", seed=5, num_scenes=8, max_objects=3), 5), _SIDE)
    prompt = PromptEncoder(loaded.processor).encode(build_prompt(PromptSpec()), Image.fromarray(scene.image))
    request, settings = GenerationRequest("doctor", prompt, seed=0), GenerationSettings(max_new_tokens=128)
    with tempfile.TemporaryDirectory() as folder:
        options = ServerOptions(model=tiny_checkpoint(), port=free_port(), dtype="float32", max_model_len=1024, max_num_seqs=4)
        with ServerProcess(engine.python, options, log=Path(folder) / "server.log") as server:
            seconds = server.wait_ready(_START_S)
            backend = VllmServerBackend(ServerPool([options.address]), facts=ModelFacts.of(loaded), tokenizer=hf.text_tokenizer)
            try:
                start = time.perf_counter()
                (answer,) = backend.generate([request], settings)
                answer_s = time.perf_counter() - start
            finally:
                backend.close()
    (expected,) = hf.generate([request], settings)
    if answer.response_ids != expected.response_ids:
        raise BackendError(f"its answer is {answer.text!r}, that of transformers {expected.text!r}", where=str(engine.python), fix="make the environment again")
    progress.say(f"a server started in {seconds:.0f} s and answered one picture in {answer_s:.2f} s with the {len(answer.response_ids)} tokens of transformers")


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
