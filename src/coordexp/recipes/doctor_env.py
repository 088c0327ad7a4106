"""`coordexp doctor env`: interpreter, packages, GPU, vLLM, memory and disk of this machine, and pairs of packages that are known not to work together.

Nothing heavy is imported here: versions come from the packages' metadata, and what has to be tried is tried in a process of its own.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from coordexp.generation.engine import find_python, probe_engine
from coordexp.types.errors import BackendError

EXTRAS = ("train", "report", "semantic", "calibrate", "polygons", "hf", "pandas", "supervision")
_TRY_S = 120
_TORCHVISION_AHEAD = 15
"""torchvision 0.(n + 15) belongs to torch 2.n."""
_MIN_SHM_GIB, _MIN_DISK_GIB = 1.0, 5.0
_GIB = 2**30


class Level(IntEnum):
    """How bad; the worst decides the exit code."""

    OK = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class Fact:
    """Example: `Fact("disk", Level.WARNING, "1.2 GiB free in /data", fix="checkpoints need room: free some, or set training.output_dir")`"""

    what: str
    level: Level
    detail: str
    fix: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "level": self.level.name.lower()}


def examine_environment(folder: Path) -> list[Fact]:
    """Everything that is known of this machine; `folder` is where output would go."""
    return [*_python(), *_packages(), *_torch(), *_torchvision(), *_engine(), *_threads(), *_room(folder)]


def _python() -> Iterator[Fact]:
    yield Fact("python", Level.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors: {sys.executable}")


def _packages() -> Iterator[Fact]:
    """The package itself, then each extra: complete, absent, or of other versions than it was made for."""
    yield Fact("coordexp", Level.OK, version("coordexp"))
    needed = [Requirement(line) for line in requires("coordexp") or ()]
    for extra in (None, *EXTRAS):
        mine = [item for item in needed if _belongs(item, extra)]
        if not mine:
            continue
        missing = [item.name for item in mine if _version(item.name) is None]
        wrong = [f"{item.name} {_version(item.name)} (needs {item.specifier})" for item in mine if not _fits(item)]
        name = "core packages" if extra is None else f"extra {extra}"
        install = "pip install coordexp" if extra is None else f"pip install 'coordexp[{extra}]'"
        if wrong:
            yield Fact(name, Level.ERROR, "; ".join(wrong), fix=install)
        elif missing and (extra is None or len(missing) < len(mine)):
            yield Fact(name, Level.ERROR if extra is None else Level.WARNING, f"without {', '.join(missing)}", fix=install)
        elif missing:
            yield Fact(name, Level.OK, f"not installed ({install})")
        else:
            yield Fact(name, Level.OK, ", ".join(f"{item.name} {_version(item.name)}" for item in mine))


def _belongs(item: Requirement, extra: str | None) -> bool:
    if item.marker is None or extra is None:
        return item.marker is None and extra is None
    return item.marker.evaluate({"extra": extra})


def _torch() -> Iterator[Fact]:
    if _version("torch") is None:
        yield Fact("torch", Level.OK, "not installed: data tools and evaluation work, training and inference do not")
        return
    script = "import torch; print(torch.version.cuda, *(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())), sep='|')"
    said, problem = _try(script)
    if said is None:
        yield Fact("torch", Level.ERROR, f"{_version('torch')} cannot be imported: {problem}", fix="install it again, as pytorch.org says for your driver")
        return
    cuda, *gpus = said.split("|")
    detail = f"{_version('torch')}, " + (f"CUDA {cuda}, {', '.join(gpus) or 'no GPU that it can use'}" if cuda != "None" else "built for CPUs")
    if not gpus and shutil.which("nvidia-smi"):
        yield Fact("torch", Level.WARNING, f"{detail}, and there is an NVIDIA driver", fix="install the build of torch for your driver, as pytorch.org says")
    else:
        yield Fact("torch", Level.OK, detail)


def _torchvision() -> Iterator[Fact]:
    ours, theirs = _version("torch"), _version("torchvision")
    if ours is None or theirs is None:
        return
    torch, vision = Version(ours), Version(theirs)
    fix = "uninstall torchvision (nothing here needs it), or install the one that belongs to this torch"
    if torch.major == 2 and vision.major == 0 and vision.minor != torch.minor + _TORCHVISION_AHEAD:
        yield Fact("torchvision", Level.ERROR, f"{theirs} belongs to torch 2.{vision.minor - _TORCHVISION_AHEAD}, and torch is {ours}", fix=fix)
        return
    said, problem = _try("import torchvision; print('ok')")
    yield Fact("torchvision", Level.OK, theirs) if said else Fact("torchvision", Level.ERROR, f"{theirs} cannot be imported: {problem}", fix=fix)


def _engine() -> Iterator[Fact]:
    try:
        python = find_python()
    except BackendError:
        yield Fact("vllm", Level.OK, "none found: rollouts and inference by transformers ('coordexp doctor engine' says how to get it)")
        return
    try:
        engine = probe_engine(python, imports=False)
    except BackendError as error:
        yield Fact("vllm", Level.ERROR, str(error), fix="see 'coordexp doctor engine'")
        return
    if engine.missing:
        yield Fact("vllm", Level.WARNING, f"{engine.vllm} in {python}: {len(engine.missing)} routes are missing", fix="see 'coordexp doctor engine'")
    else:
        yield Fact("vllm", Level.OK, f"{engine.vllm} with torch {engine.torch} and transformers {engine.transformers}: {python}")


def _threads() -> Iterator[Fact]:
    threads, processors = os.environ.get("OMP_NUM_THREADS"), len(os.sched_getaffinity(0))
    if threads is None and os.getloadavg()[0] > processors:
        what = f"OMP_NUM_THREADS is not set, and {os.getloadavg()[0]:.1f} tasks want {processors} processors: threads that wait for each other are slow"
        yield Fact("threads", Level.WARNING, what, fix="export OMP_NUM_THREADS=1 while other work runs here")
    else:
        yield Fact("threads", Level.OK, f"OMP_NUM_THREADS={threads or 'not set'}, {processors} processors for this process")


def _room(folder: Path) -> Iterator[Fact]:
    available = {name: int(value.split()[0]) / 2**20 for name, value in (line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())}
    yield Fact("memory", Level.OK, f"{available['MemAvailable']:.1f} of {available['MemTotal']:.1f} GiB available")
    free = shutil.disk_usage(folder).free / _GIB
    where = f"{free:.1f} GiB free in {folder.resolve()}"
    yield (
        Fact("disk", Level.OK, where)
        if free >= _MIN_DISK_GIB
        else Fact("disk", Level.WARNING, where, fix="checkpoints need room: free some, or write elsewhere")
    )
    shared = Path("/dev/shm")  # its size is read  # nosec B108
    size = shutil.disk_usage(shared).free / _GIB if shared.is_dir() else 0.0
    if size >= _MIN_SHM_GIB:
        yield Fact("shared memory", Level.OK, f"{size:.1f} GiB")
    else:
        yield Fact("shared memory", Level.WARNING, f"{size:.2f} GiB in /dev/shm", fix="weights that are pushed through it want more: docker run --shm-size=8g")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _fits(item: Requirement) -> bool:
    found = _version(item.name)
    return found is None or item.specifier.contains(found, prereleases=True)


def _try(script: str) -> tuple[str | None, str]:
    """What a process says, or the last line of its error."""
    try:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=_TRY_S, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer in {_TRY_S} s"
    if done.returncode == 0:
        return done.stdout.strip(), ""
    return None, (done.stderr.strip().splitlines() or ["no message"])[-1]
