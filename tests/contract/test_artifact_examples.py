"""The examples of artifacts in the guides are what comes out, and their checklists name every key of a file and none that is gone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordexp.cli.flag_docs import eval_flags
from coordexp.cli.main import main
from coordexp.config.evaluation import EvalConfig
from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.config.schema import list_settings
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.infer import run_pipeline

DOCS = Path(__file__).resolve().parents[2] / "docs"
EVALUATION, INFERENCE = ((DOCS / name).read_text(encoding="utf-8") for name in ("eval/README.md", "inference.md"))
LINES = re.findall(r"```json\n(.*?)```", EVALUATION.partition("## Analysis\n")[2], flags=re.DOTALL)[0]
OPTIONAL = {"metrics.json": {"intervals", "bootstrap"}, "coco_preds.json": {"segmentation"}}
"""Keys whose row says when they are there."""


def section(name: str) -> str:
    """The text below the heading that starts with this file."""
    found = re.search(rf"^#### `{re.escape(name)}`.*?$(.*?)(?=^####? |^## |\Z)", EVALUATION, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def example_in(text: str, language: str = "json") -> str:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)[0]


def keys_in(text: str) -> set[str]:
    """Names in the first column of the first table."""
    table = re.search(r"^\| key .*?(?=\n\n)", text, flags=re.MULTILINE | re.DOTALL)
    assert table is not None
    return {name for row in table[0].splitlines()[2:] for name in re.findall(r"`(.+?)`", row.split("|")[1])}


def assert_holds(whole: Any, part: Any, path: str = "") -> None:
    """`part` is `whole`, but for what `…` stands for."""
    if isinstance(part, dict):
        for key in part.keys() - {"…"}:
            assert_holds(whole[key], part[key], f"{path}.{key}")
        assert "…" in part or part.keys() == whole.keys(), path
    elif isinstance(part, list):
        shown = [item for item in part if item != "…"]
        assert len(shown) < len(whole) if "…" in part else len(shown) == len(whole), path
        for place, item in enumerate(shown):
            assert_holds(whole[place], item, f"{path}[{place}]")
    else:
        assert whole == (pytest.approx(part) if isinstance(part, float) else part), path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the evaluation that the guide shows, with its comparison."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "a.jsonl").write_text(LINES)
    (folder / "b.jsonl").write_text(LINES.replace('"cow"', '"cat"'))
    exact = ["--label-match", "exact"]
    assert main(["eval", "--pred_jsonl", str(folder / "a.jsonl"), "--out_dir", str(folder / "eval"), *exact]) == 0
    assert main(["eval", "compare", str(folder / "a.jsonl"), str(folder / "b.jsonl"), "--out_dir", str(folder / "eval"), *exact]) == 0
    return folder / "eval"


FIRST: dict[str, Callable[[Any], Any]] = {
    "metrics.json": lambda content: content,
    "per_image.json": lambda rows: rows[1],
    "matches.jsonl": lambda rows: rows[0],
    "coco_gt.json": lambda content: content,
    "coco_preds.json": lambda rows: rows,
    "compare.json": lambda content: content,
}
"""File → the part that is shown."""


@pytest.mark.parametrize("name", FIRST)
def test_an_artifact_of_the_guide_is_what_comes_out(results: Path, name: str) -> None:
    text = (results / name).read_text(encoding="utf-8")
    content = FIRST[name]([json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text))
    expected = json.loads(example_in(section(name)))
    if name == "metrics.json":
        assert Path(content.pop("predictions")).name == "a.jsonl"
    assert_holds(content, expected)


@pytest.mark.parametrize("name", FIRST)
def test_a_checklist_of_the_guide_has_every_key(results: Path, name: str) -> None:
    text = (results / name).read_text(encoding="utf-8")
    content = json.loads(text.splitlines()[0] if name.endswith(".jsonl") else text)
    row = content[0] if isinstance(content, list) else content
    assert keys_in(section(name)) == set(row) | OPTIONAL.get(name, set())


def test_optional_keys_are_there_when_the_guide_says_so(results: Path, tmp_path: Path) -> None:
    poly = json.dumps({"image": "a.png", "width": 100, "height": 80, "gt": [], "pred": [{"poly": [0, 0, 50, 0, 50, 50], "desc": "cat", "score": 0.5}]})
    (tmp_path / "p.jsonl").write_text(f"{LINES}\n{poly}\n")
    flags = ["--label-match", "exact", "--bootstrap", "5"]
    assert main(["eval", "--pred_jsonl", str(tmp_path / "p.jsonl"), "--out_dir", str(tmp_path / "eval"), *flags]) == 0
    assert OPTIONAL["metrics.json"] <= json.loads((tmp_path / "eval/metrics.json").read_text()).keys()
    assert OPTIONAL["coco_preds.json"] <= json.loads((tmp_path / "eval/coco_preds.json").read_text())[-1].keys()


def test_the_table_of_classes_is_the_one_of_the_guide(results: Path) -> None:
    assert (results / "per_class.csv").read_text() == example_in(section("per_class.csv"), "csv")


def test_the_guide_has_a_section_or_a_word_for_every_file(results: Path) -> None:
    names = {path.name for path in results.iterdir() if path.is_file()}
    assert names >= {"metrics.json", "pr_curves.csv", "matches@0.30.jsonl", "compare.html"}
    assert [name for name in names if f"`{name}`" not in EVALUATION] == []


def test_the_files_of_inference_are_those_of_its_page(tmp_path: Path, scenes_jsonl: Path) -> None:
    infer = {"gt_jsonl": scenes_jsonl, "model_checkpoint": tiny_checkpoint(), "device": "cpu", "mode": "coord", "generation.max_new_tokens": 160}
    run_pipeline(load_config(None, InferConfig, ["run.name=run", f"run.output_dir={tmp_path}", *(f"infer.{key}={value}" for key, value in infer.items())]))
    _, *parts = re.split(r"^`(?:summary|resolved_config)\.json`, ", INFERENCE, flags=re.MULTILINE)
    for name, part in zip(("summary.json", "resolved_config.json"), parts, strict=True):
        content = json.loads((tmp_path / "run" / name).read_text())
        assert_holds(content, json.loads(example_in(part)))
        assert keys_in(part) == set(content)


def test_every_flag_of_evaluation_is_a_key_of_its_file_and_the_other_way_round() -> None:
    keys = {setting.key for setting in list_settings(EvalConfig)}
    assert eval_flags().keys() - keys == {"config", "install_completion", "show_completion"}
    assert keys - eval_flags().keys() == set()
