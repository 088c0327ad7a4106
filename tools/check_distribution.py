"""The distribution as a stranger gets it: wheel and sdist are built, and the wheel is tried in empty environments of every Python that is there.

In each: `pip install` of the wheel alone, `pip check`, version, no torch, a data set made, imported, converted, validated and evaluated; the files must be the
same on every Python. Then, on the first of them, the wheel with `[train,report]`: a few steps of real training from the shipped checkpoint, and detections.

    python tools/check_distribution.py [--python python3.12 ...] [--no-train] [--json FILE]
"""

from __future__ import annotations

import argparse
import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
FACTS = """
import importlib.util, json, sys
from importlib.metadata import distributions, version
from pathlib import Path
import coordexp
print(json.dumps({
    "python": sys.version.split()[0],
    "version": coordexp.__version__,
    "metadata": version("coordexp"),
    "folder": str(Path(coordexp.__file__).parent),
    "has_torch": importlib.util.find_spec("torch") is not None,
    "packages": len({found.name for found in distributions()} - {"pip", "setuptools", "coordexp"}),
}))
"""
SCENES = ("--name", "val", "--scenes", "16", "--size", "96", "--min-side", "18", "--max-side", "40")


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that sees nothing of the clone or of the caller's environment; its last lines when it fails."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "LANG", "LC_", "SSL_"))}
    own = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(cwd),
        "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(Path.home() / ".config")),  # where pip has its mirrors
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=kept | own, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(str(part) for part in command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Wheel and sdist of the clone; a wheel built from the unpacked sdist has the same bytes."""
    run(sys.executable, "-m", "hatchling", "build", "-d", folder / "dist", cwd=ROOT)
    wheel, sdist = next((folder / "dist").glob("*.whl")), next((folder / "dist").glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "again", cwd=next((folder / "sdist").iterdir()))
    if (folder / "again" / wheel.name).read_bytes() != wheel.read_bytes():
        sys.exit("error: the wheel built from the sdist differs from that of the clone")
    return wheel, sdist


def inspect(wheel: Path, sdist: Path) -> dict[str, Any]:
    """What the archive says of itself, with the version of the one line in the source."""
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    metadata = email.message_from_bytes(archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))))
    stated = [line for line in archive.read("coordexp/__init__.py").decode().splitlines() if line.startswith("__version__")]
    if stated != [f'__version__ = "{metadata["Version"]}"']:
        sys.exit(f"error: the metadata says version {metadata['Version']}, the package {stated}")
    needed = ("coordexp/py.typed", "coordexp/assets/tiny/model.safetensors", "coordexp/configs/demo/stage1.yaml")
    if missing := [name for name in needed if name not in names]:
        sys.exit(f"error: missing in the wheel: {', '.join(missing)}")
    core = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    return {
        "version": metadata["Version"],
        "wheel_bytes": wheel.stat().st_size,
        "wheel_files": len(names),
        "sdist_bytes": sdist.stat().st_size,
        "core_dependencies": len(core),
    }


def core_closure(wheel: Path) -> dict[str, Distribution]:
    """What the wheel asks for without an extra, with all that these ask for in turn, as it is installed here.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    archive = zipfile.ZipFile(wheel)
    metadata = email.message_from_bytes(archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))))
    waiting = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    found: dict[str, Distribution] = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[name] = distribution(name)
            waiting += [Requirement(text) for text in found[name].requires or ()]
    return found


def interpreters(asked: list[str]) -> Iterator[Path]:
    """Those that are asked for, or one of each version that is there; pyenv's shims are left out when they lead nowhere."""
    for name in asked or [f"python{version}" for version in VERSIONS]:
        pyenv = sorted(Path.home().glob(f".pyenv/versions/{name.removeprefix('python')}.*/bin/python"))
        found = str(pyenv[-1]) if pyenv else shutil.which(name)
        if found is None:
            print(f"{name}: not here, not tried")
        else:
            yield Path(found)


def installed(folder: Path, python: Path, wheel: Path, *, extra: str = "") -> tuple[Path, dict[str, Any]]:
    """An environment with the wheel at the pinned versions, free of conflicts. Returns its programs and what it holds."""
    start = time.perf_counter()
    run(python, "-m", "venv", folder / "env", cwd=folder)
    programs = folder / "env" / "bin"
    run(programs / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}{extra}", cwd=folder)
    facts = json.loads(run(programs / "python", "-c", FACTS, cwd=folder))
    if not Path(facts.pop("folder")).is_relative_to(folder) or facts["metadata"] != facts["version"]:
        sys.exit(f"error: {python}: another coordexp than that of the wheel")
    if run(programs / "coordexp", "--version", cwd=folder) != f"coordexp {facts.pop('metadata')}\n":
        sys.exit(f"error: {python}: coordexp --version says something else than the metadata")
    facts["pip_check"] = run(programs / "python", "-m", "pip", "check", cwd=folder).strip()
    facts["disk_mb"] = round(sum(path.stat().st_size for path in (folder / "env").rglob("*") if path.is_file() and not path.is_symlink()) / 1e6)
    return programs, facts | {"install_s": round(time.perf_counter() - start, 1)}


def write_predictions(instances: Path, path: Path) -> None:
    """COCO results: every seventh object missed, the others a pixel off, with scores in no order."""
    boxes = json.loads(instances.read_text(encoding="utf-8"))["annotations"]
    rows = [
        {"image_id": box["image_id"], "category_id": box["category_id"], "bbox": [box["bbox"][0] + 1, *box["bbox"][1:]], "score": (index * 37 % 100) / 100}
        for index, box in enumerate(boxes)
        if index % 7
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


def use_core(folder: Path, programs: Path, *flags: str) -> dict[str, bytes]:
    """Make, import, convert, validate, evaluate. Returns the files that must be the same everywhere."""
    coordexp, data = programs / "coordexp", folder / "data"
    run(coordexp, "data", "make", "shapes", "--output", data, *SCENES, cwd=folder)
    run(coordexp, "data", "import", "coco", data / "instances_val.json", "--images", data / "images", "--output", data / "val.jsonl", cwd=folder)
    run(coordexp, "data", "coord", data / "val.jsonl", cwd=folder)
    run(coordexp, "data", "validate", data / "val.coord.jsonl", cwd=folder)
    write_predictions(data / "instances_val.json", data / "results.json")
    files = ("--coco-gt", "data/instances_val.json", "--coco-preds", "data/results.json", "--out_dir", "eval")
    run(coordexp, "eval", *files, "--label-match", "exact", "--bootstrap", "50", *flags, cwd=folder)
    made = (data / "val.coord.jsonl", folder / "eval" / "metrics.json", folder / "eval" / "per_class.csv")
    return {path.name: path.read_bytes().replace(str(folder).encode(), b"") for path in made}


def use_training(folder: Path, programs: Path, *, steps: int) -> dict[str, Any]:
    """Real steps of Stage-1 from the shipped checkpoint on the data of `use_core`, then detections of what was trained."""
    coordexp, data = programs / "coordexp", folder / "data"
    config = next((folder / "env" / "lib").glob("python3*/site-packages/coordexp/configs/demo/stage1.yaml"))
    tiny = config.parents[2] / "assets" / "tiny"
    settings = [f"model.model={tiny}", f"custom.train_jsonl={data / 'val.coord.jsonl'}", f"training.output_dir={folder / 'train'}", "training.logging_steps=1"]
    sizes = [f"training.max_steps={steps}", "training.per_device_train_batch_size=4", "training.effective_batch_size=4", f"training.save_steps={steps}"]
    run(coordexp, "train", "--config", config, *settings, *sizes, cwd=folder)
    log = next((folder / "train").rglob("logging.jsonl"))
    losses = [row["loss"] for row in map(json.loads, log.read_text(encoding="utf-8").splitlines()) if "loss" in row]
    if len(losses) != steps:
        sys.exit(f"error: {len(losses)} losses of {steps} steps in {log}")
    checkpoint = next((folder / "train").rglob("final"))
    found = run(coordexp, "predict", data / "images", "--model", checkpoint, "--out", folder / "found.jsonl", cwd=folder)
    objects = sum(len(json.loads(line)["pred"]) for line in (folder / "found.jsonl").read_text(encoding="utf-8").splitlines())
    return {"losses": losses, "objects": objects, "said": found.strip().splitlines()[-1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="*", default=[], help="programs to try; by default one of each supported version that is here")
    parser.add_argument("--no-train", action="store_true", help="leave out the environment with torch")
    parser.add_argument("--json", type=Path, help="write what was seen here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coordexp-dist-") as name:
        work = Path(name).resolve()
        wheel, sdist = build(work)
        seen: dict[str, Any] = inspect(wheel, sdist) | {"core": []}
        print(json.dumps(seen), flush=True)
        pythons = list(interpreters(args.python))
        results: list[dict[str, bytes]] = []
        for number, python in enumerate(pythons):
            folder = work / f"core{number}"
            folder.mkdir()
            programs, facts = installed(folder, python, wheel)
            if facts["has_torch"]:
                sys.exit(f"error: {python}: the core brings torch")
            results.append(use_core(folder, programs))
            seen["core"].append(facts | {"other_files": [name for name, content in results[-1].items() if content != results[0][name]]})
            print(json.dumps(seen["core"][-1]), flush=True)
        if not args.no_train:
            folder = work / "train"
            folder.mkdir()
            programs, facts = installed(folder, pythons[0], wheel, extra="[train,report]")
            use_core(folder, programs, "--report")
            seen["train"] = facts | use_training(folder, programs, steps=3)
            print(json.dumps(seen["train"]))
    if args.json:
        args.json.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")
    if any(core["other_files"] for core in seen["core"]):
        sys.exit("error: results differ between versions of Python")


if __name__ == "__main__":
    main()
