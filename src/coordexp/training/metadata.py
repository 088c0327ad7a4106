"""`run_metadata.json`: what ran, on which bytes, where. Secrets are taken out before anything is written."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import coordexp
from coordexp.config.redact import redact, redact_arguments
from coordexp.types.files import write_text

SCHEMA_VERSION = 1
_PACKAGES = ("coordexp", "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy", "pillow", "pydantic")
_GIT_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the caller knows about the run. `details` holds JSON-like facts (data, model, batch sizes) under their own names."""

    config_path: Path | None
    config_files: Sequence[tuple[Path, str]]
    """(file, sha256) of the configuration file and of everything it extends."""
    resolved_config: Mapping[str, Any]
    overrides: Sequence[str]
    argv: Sequence[str]
    world_size: int
    seeds: Mapping[str, int]
    details: Mapping[str, Any] = field(default_factory=dict)


def write_metadata(path: Path, facts: RunFacts) -> None:
    """Write the file of a new run.

    Raises:
        OutputError: it cannot be written.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": describe_git(Path(coordexp.__file__).parent),
        "config_path": str(facts.config_path) if facts.config_path else None,
        "config_files": [{"path": str(file), "sha256": digest} for file, digest in facts.config_files],
        "overrides": redact_arguments(list(facts.overrides)),
        "config": redact(dict(facts.resolved_config)),
        "command": redact_arguments(list(facts.argv)),
        "packages": package_versions(),
        "host": {"name": platform.node(), "system": platform.platform(), "python": sys.version.split()[0]},
        "world_size": facts.world_size,
        "seeds": dict(facts.seeds),
        **redact(dict(facts.details)),
        "resumes": [],
    }
    _write(path, document)


def add_resume(path: Path, facts: RunFacts, *, checkpoint: Path, step: int) -> list[str]:
    """Note in the file of a run that it goes on; returns the dotted keys of its configuration that are not as they were.

    Raises:
        OutputError: it cannot be written.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    before, now = _flat(document.get("config", {})), _flat(redact(dict(facts.resolved_config)))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key) and key != "training.resume_from_checkpoint")
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint": checkpoint.name,
        "step": step,
        "command": redact_arguments(list(facts.argv)),
        "git": describe_git(Path(coordexp.__file__).parent),
        "changed_settings": {key: {"before": before.get(key), "now": now.get(key)} for key in changed},
    }
    document.setdefault("resumes", []).append(entry)
    _write(path, document)
    return changed


def describe_git(folder: Path) -> dict[str, Any]:
    """Commit, branch and dirty flag of the checkout that holds `folder`; nulls with a reason when it is not part of one.

    Example: `{"sha": "4a27313…", "branch": "main", "dirty": False, "reason": None}`
    """
    unknown = {"sha": None, "branch": None, "dirty": None}
    try:
        # an installed package can lie inside somebody else's checkout: only files that are tracked count
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        status = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return {"sha": _git(folder, "rev-parse", "HEAD"), "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"), "dirty": bool(status), "reason": None}
    except FileNotFoundError:
        return {**unknown, "reason": "git is not installed"}
    except subprocess.CalledProcessError:
        return {**unknown, "reason": "the package does not run from a git checkout"}
    except subprocess.TimeoutExpired:
        return {**unknown, "reason": f"git did not answer within {_GIT_TIMEOUT_S} s"}


def package_versions() -> dict[str, str | None]:
    """Versions of what decides results; None for what is not installed."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S).stdout.strip()


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {key: item for name, inner in value.items() for key, item in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()}
    return {prefix: value}


def _write(path: Path, document: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
