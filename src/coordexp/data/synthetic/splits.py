"""The splits that scores are quoted for: their settings are files of the package, with the hash of what they make."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from coordexp.data.synthetic.coco import hash_split
from coordexp.data.synthetic.scenes import SceneSettings
from coordexp.types.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """Settings of a split and what they make.

    Example: `load_split("shapes-val").settings.num_scenes == 200`
    """

    settings: SceneSettings
    sha256: str
    """What `write_coco_dataset` reports for the whole split."""
    head_sha256: str
    """The same for its first `HEAD` scenes: a quick check of the generator."""


HEAD = 8


def split_names() -> tuple[str, ...]:
    """All splits of the package."""
    return tuple(sorted(file.name.removesuffix(".json") for file in _folder().iterdir() if file.name.endswith(".json")))


def load_split(name: str) -> Split:
    """Read a split of the package.

    Raises:
        DataError: no such split.
    """
    if name not in split_names():
        raise DataError(f"no split {name!r}", where="synthetic data", fix=f"use one of {', '.join(split_names())}")
    document: dict[str, Any] = json.loads(_folder().joinpath(f"{name}.json").read_text(encoding="utf-8"))
    settings = dict(document["settings"])
    for key in ("backgrounds", "contrast"):
        settings[key] = tuple(settings[key])
    return Split(SceneSettings(**settings), document["sha256"], document["head_sha256"])


def head_of(settings: SceneSettings) -> SceneSettings:
    """The first scenes of a split as a split of its own."""
    return replace(settings, num_scenes=min(HEAD, settings.num_scenes))


def describe_split(settings: SceneSettings) -> dict[str, Any]:
    """The document that the package keeps for a split; draws all of it."""
    return {"settings": asdict(settings), "sha256": hash_split(settings), "head_sha256": hash_split(head_of(settings))}


def _folder() -> Traversable:
    return resources.files("coordexp").joinpath("assets", "splits")
