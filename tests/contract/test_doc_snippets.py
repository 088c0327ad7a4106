"""Every command and every line of Python on the pages about evaluation, prediction and adapters runs as it stands there, in order, beside a real inference run.

A block that cannot run here has the reason on the line before it, `<!-- not run: needs a GPU -->`, and is counted below.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.evaluation.evaluate import evaluate
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.infer import run_pipeline
from coordexp.training.run_log import RunLog

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": 0, "docs/eval/README.md": 1, "docs/predict.md": 0, "docs/training/adapters.md": 0}
"""Page → blocks that are not run."""

_BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_ABOUT_EVALUATION = re.compile(r"coordexp (eval|report|vis)\b|coordexp\.evaluation|to_pandas")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    reason: str | None


def blocks_of(page: str) -> list[Block]:
    """In order; of the front page those about evaluation."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [Block(page, text[: match.start("code")].count("\n") + 1, match["language"], match["code"], match["reason"]) for match in _BLOCK.finditer(text)]
    return [block for block in found if page != "README.md" or _ABOUT_EVALUATION.search(block.code)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, scenes_jsonl: Path) -> Path:
    """What the pages speak of: two inference runs on the same images, a training log, and predictions in COCO form."""
    folder = tmp_path_factory.mktemp("docs")
    for name, length in (("run", 160), ("earlier_run", 60)):
        infer = {"gt_jsonl": scenes_jsonl, "model_checkpoint": tiny_checkpoint(), "device": "cpu", "mode": "coord", "generation.max_new_tokens": length}
        flags = [f"run.name={name}", f"run.output_dir={folder}/output", *(f"infer.{key}={value}" for key, value in infer.items())]
        run_pipeline(load_config(None, InferConfig, flags))
    training = folder / "output" / "train" / "v0-20260101-120000" / "demo"
    training.mkdir(parents=True)
    for step in (1, 2, 3):
        RunLog(training / "logging.jsonl").write({"loss": 3.0 / step, "learning_rate": 1e-4}, step=step)
    evaluate(folder / "output" / "run" / "gt_vs_pred.jsonl").save(folder / "coco")
    (folder / "coco" / "coco_gt.json").rename(folder / "instances.json")
    (folder / "coco" / "coco_preds.json").rename(folder / "results.json")
    shutil.rmtree(folder / "coco")
    (folder / "photos").mkdir()
    for number, picture in enumerate(sorted(scenes_jsonl.parent.glob("**/*.png"))[:2]):
        shutil.copy(picture, folder / "photos" / f"{number}.png")
    return folder


def run_bash(block: Block, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COORDEXP_CACHE": str(folder / "cache")}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block.page}:{block.line}\n{done.stdout}\n{done.stderr}"


def run_python(block: Block, names: dict[str, Any]) -> None:
    """A traceback names the page and its line."""
    exec(compile("\n" * (block.line - 1) + block.code, block.page, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("COORDEXP_CACHE", str(workplace / "cache"))
    names: dict[str, Any] = {}
    for block in blocks_of(page):
        if block.reason is not None:
            continue
        if block.language == "bash":
            run_bash(block, workplace)
        else:
            run_python(block, names)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_that_are_not_run_are_counted(page: str) -> None:
    assert len([block for block in blocks_of(page) if block.reason is not None]) == PAGES[page]


def test_every_page_of_the_guide_is_checked_and_has_commands_and_python() -> None:
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "eval").glob("*.md")} <= set(PAGES)
    assert {block.language for block in blocks_of("docs/eval/README.md")} == {"bash", "python"}
