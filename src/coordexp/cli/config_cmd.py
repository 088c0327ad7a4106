"""`coordexp config`: what a file says when everything is resolved, and what could be said."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from coordexp.config.loading import Loaded
    from coordexp.config.sections import FileSection

app = typer.Typer(help="Show and check configuration files.", no_args_is_help=True, rich_markup_mode=None)


class Kind(StrEnum):
    TRAIN = "train"
    FUSION = "fusion"
    INFER = "infer"
    EVAL = "eval"
    PREPARE = "prepare"


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings that win over the file.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Kind of file; found out from its sections when absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable: values, origins and files.")] = False,
) -> None:
    """Print the resolved file: every setting, its value, and where that was written. Secrets are hidden."""
    from coordexp.config.loading import load_config

    loaded = load_config(path, _schema(kind or _guess(path)), overrides or [])
    typer.echo(_as_json(loaded) if as_json else _as_text(loaded))


@app.command("keys")
def keys(kind: Annotated[Kind, typer.Argument(help="Kind of file.")]) -> None:
    """List every setting of a kind of file with its type, default and meaning."""
    from coordexp.config.schema import list_settings

    for setting in list_settings(_schema(kind)):
        if setting.section is None:
            values = " | ".join(str(choice) for choice in setting.choices) or setting.type_words
            meaning = f"  {setting.meaning}" if setting.meaning else ""
            typer.echo(f"{setting.key}: {values} (default: {setting.default}){meaning}")


def _schema(kind: Kind) -> type[FileSection]:
    from coordexp.config.evaluation import EvalConfig
    from coordexp.config.fusion import FusionConfig
    from coordexp.config.infer import InferConfig
    from coordexp.config.prepare import PrepareConfig
    from coordexp.config.train import TrainConfig

    return {Kind.TRAIN: TrainConfig, Kind.FUSION: FusionConfig, Kind.INFER: InferConfig, Kind.EVAL: EvalConfig, Kind.PREPARE: PrepareConfig}[kind]


def _guess(path: Path) -> Kind:
    """By the sections that only one kind of file has."""
    from coordexp.config.loading import shown_path
    from coordexp.config.yaml_source import read_yaml

    tree, _ = read_yaml(path, source=shown_path(path))
    sections = tree.values.keys()
    if sections & {"run", "stages", "infer", "artifacts", "vis"}:
        return Kind.INFER
    if "datasets" in sections:
        return Kind.FUSION
    if sections & {"splits", "preset"}:
        return Kind.PREPARE
    return Kind.EVAL if sections & {"pred_jsonl", "out_dir", "metrics"} else Kind.TRAIN


def _as_json(loaded: Loaded[Any]) -> str:
    resolved = loaded.resolved()
    rows = {
        "config": resolved,
        "origins": {key: str(loaded.origin(key)) for key, _ in flatten(resolved)},
        "files": [{"path": str(item.path), "sha256": item.sha256} for item in loaded.files],
    }
    return json.dumps(rows, indent=2, ensure_ascii=False)


def _as_text(loaded: Loaded[Any]) -> str:
    rows = [(f"{key}: {_spell(value)}", str(loaded.origin(key))) for key, value in flatten(loaded.resolved())]
    width = min(60, max(len(left) for left, _ in rows))
    return "\n".join(f"{left:<{width}}  # {origin}" for left, origin in rows)


def _spell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """`{"a": {"b": 1}}` → `[("a.b", 1)]`; lists and empty mappings are values."""
    if not isinstance(value, dict) or not value:
        return [(prefix, value)]
    return [item for key, inner in value.items() for item in flatten(inner, f"{prefix}.{key}" if prefix else str(key))]
