"""What an inference run wrote beside its predictions: its manifest and its summary. Both may be absent; foreign predictions have neither."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from coordexp.evaluation.lines import without_surrogates
from coordexp.types.errors import DataError

PREDICTIONS = "gt_vs_pred.jsonl"
SCHEMA_VERSION = 1
"""Of `resolved_config.json`: a file of another version is refused."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Example: `RunFiles.beside(Path("output/demo/after/gt_vs_pred.jsonl")).prompt` is `none`."""

    predictions: Path
    manifest: Mapping[str, Any]
    """`resolved_config.json`; empty when there is none."""
    summary: Mapping[str, Any]
    """`summary.json`; empty when there is none."""

    @classmethod
    def beside(cls, predictions: Path) -> RunFiles:
        """Read what lies in the folder of a `gt_vs_pred.jsonl`.

        Raises:
            DataError: a file that is there is not a JSON object, or the manifest is of another version.
        """
        manifest = _read_object(predictions.parent / "resolved_config.json")
        version = manifest.get("schema_version", SCHEMA_VERSION)
        if version != SCHEMA_VERSION:
            what = f"schema_version {version} is not {SCHEMA_VERSION}"
            raise DataError(what, where=str(predictions.parent / "resolved_config.json"), fix="read this run with the version of coordexp that wrote it")
        return cls(predictions, manifest, _read_object(predictions.parent / "summary.json"))

    @classmethod
    def of(cls, run: Path) -> RunFiles:
        """The same for a run folder, or for the predictions themselves.

        Raises:
            DataError: there are no predictions.
        """
        predictions = run / PREDICTIONS if run.is_dir() else run
        if not predictions.is_file():
            raise DataError(f"there is no {PREDICTIONS}", where=str(run), fix="give the folder of an inference run, or the file itself")
        return cls.beside(predictions)

    @property
    def image_root(self) -> str | None:
        root = self.manifest.get("root_image_dir")
        return root if isinstance(root, str) else None

    @property
    def prompt(self) -> str:
        """Which categories the prompt named: `none`, `gt`, `all`, `list`, or `unknown` without a manifest."""
        infer = self._config("infer")
        if not infer:
            return "unknown"
        labels = infer.get("prompt_labels", "none")
        return labels if isinstance(labels, str) else "list"

    @property
    def constraint(self) -> str | None:
        """What the model was kept to: `json`, or `json, 12 labels`; None: to nothing, or nothing is known."""
        infer = self._config("infer")
        if infer.get("constrain", "off") == "off":
            return None
        labels = infer.get("labels")
        number = "all" if labels == "all" else len(cast("list[object]", labels)) if isinstance(labels, list) else None
        return "json" if number is None else f"json, {number} labels"

    @property
    def checkpoint(self) -> str | None:
        value = self._config("infer").get("model_checkpoint")
        return value if isinstance(value, str) else None

    @property
    def probabilities(self) -> str | None:
        """That confidences were made from, as the summary records it: `all`, or such as `top 20`."""
        backend = self.summary.get("backend")
        value = cast("Mapping[str, Any]", backend).get("probabilities") if isinstance(backend, dict) else None
        return value if isinstance(value, str) else None

    def _config(self, section: str) -> Mapping[str, Any]:
        config = self.manifest.get("config")
        part = cast("Mapping[str, Any]", config).get(section) if isinstance(config, dict) else None
        return cast("Mapping[str, Any]", part) if isinstance(part, dict) else {}


def _read_object(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = without_surrogates(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"not readable as JSON ({error})", where=str(path), fix="repair or remove the file") from error
    if not isinstance(value, dict):
        raise DataError("not a JSON object", where=str(path), fix="repair or remove the file")
    return cast("Mapping[str, Any]", value)
