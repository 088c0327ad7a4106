"""Every command and every line of Python on a page runs as it stands there, in order, beside a real inference run; settings parse; flags exist.

A block that cannot run here has the reason on the line before it, `<!-- not run: needs a GPU -->`, and is counted below.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from coordexp.cli.main import app, main
from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.evaluation.evaluate import evaluate
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.infer import run_pipeline
from coordexp.training.run_log import RunLog

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": 3,
    "docs/concepts/coordinates.md": 0,
    "docs/eval/README.md": 1,
    "docs/inference.md": 2,
    "docs/installation.md": 1,
    "docs/predict.md": 0,
    "docs/training/README.md": 1,
    "docs/training/STAGE2_RUNBOOK.md": 2,
    "docs/training/adapters.md": 0,
    "docs/training/launcher.md": 1,
    "docs/tutorial.md": 1,
}
"""Page → blocks that are not run."""
DATA_PAGES = ("coco", "hugging-face", "importing", "lvis", "prepare", "swift", "tools", "visual-genome", "voc", "yolo")
ELSEWHERE = {
    "docs/concepts/assistant-language.md": "tests/unit/codec/test_concept_page.py",
    "docs/concepts/rollout-targets.md": "tests/unit/codec/test_concept_page.py",
    "docs/data/README.md": "tests/contract/test_cli_data.py",
    "docs/data/doctor.md": "tests/unit/recipes/test_doctor_data.py",
    **{
        f"docs/data/{path.name}": "tests/contract/test_data_pages.py" for path in (ROOT / "docs" / "data").glob("*.md") if path.stem not in ("README", "doctor")
    },
}
"""Page → the test that runs its blocks."""
GENERATED = {"docs/reference/cli.md"}

RUN = """
run: {name: all, output_dir: output/infer}
stages: {infer: true, eval: true, vis: true}
infer: {gt_jsonl: val.coord.jsonl, model_checkpoint: ckpt, device: cpu, mode: coord, generation: {max_new_tokens: 160}}
eval: {label_match: exact}
"""
_BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_PLAIN = re.compile(r"coordexp [^|>&;$*<]+")
"""A command that needs no shell."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    reason: str | None


def blocks_of(page: str) -> list[Block]:
    """In order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(page, text[: match.start("code")].count("\n") + 1, match["language"], match["code"], match["reason"]) for match in _BLOCK.finditer(text)]


def commands_of(code: str) -> list[str]:
    """Lines of a shell block without their comments; a line that ends with a backslash goes on."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in code.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


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
    _lay_out_inference(folder, scenes_jsonl)
    (folder / "photos").mkdir()
    for number, picture in enumerate(sorted(scenes_jsonl.parent.glob("**/*.png"))[:2]):
        shutil.copy(picture, folder / "photos" / f"{number}.png")
    return folder


def _lay_out_inference(folder: Path, scenes: Path) -> None:
    """Data beside its images, a checkpoint, a file for a run of its own, and two finished runs to calibrate on."""
    shutil.copytree(scenes.parent, folder, dirs_exist_ok=True)
    (folder / "val.jsonl").rename(folder / "val.coord.jsonl")
    (folder / "ckpt").symlink_to(tiny_checkpoint())
    for name in ("val", "test"):
        shutil.copytree(folder / "output" / "run", folder / "output" / "infer" / name)
        path = folder / "output" / "infer" / name / "gt_vs_pred.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        wrong = [line | {"pred": other["pred"]} for line, other in zip(lines, [*lines[1:], lines[0]], strict=True)]  # a curve needs mistakes
        path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *wrong]), encoding="utf-8")
    infer = "{gt_jsonl: val.coord.jsonl, model_checkpoint: ckpt, device: cpu, mode: coord, generation: {max_new_tokens: 160}}"
    (folder / "run.yaml").write_text(
        f"run: {{name: all, output_dir: output/infer}}\nstages: {{infer: true, eval: true, vis: true}}\ninfer: {infer}\neval: {{label_match: exact}}\n"
    )


def run_bash(block: Block, folder: Path) -> None:
    """Commands of ours in this process, where no shell is needed: a start costs seconds."""
    commands = commands_of(block.code)
    if all(_PLAIN.fullmatch(command) for command in commands):
        for command in commands:
            assert main(shlex.split(command)[1:]) == 0, f"{block.page}:{block.line}: {command}"
        return
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


def test_every_page_with_blocks_is_run_here_or_by_the_test_that_is_named() -> None:
    pages = {str(path.relative_to(ROOT)) for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]}
    assert {page for page in pages if blocks_of(page)} - GENERATED == set(PAGES) | {page for page in ELSEWHERE if blocks_of(page)}
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8"), page


COMMANDS = [
    (f"{page}:{block.line}", command)
    for page in (*PAGES, *ELSEWHERE)
    for block in blocks_of(page)
    if block.language == "bash"
    for command in commands_of(block.code)
    if command.startswith("coordexp ")
]


@cache
def root() -> Any:
    return typer.main.get_command(app)


def parse(command: str) -> None:
    """Reads a command with its flags and does nothing."""
    words, found = shlex.split(command)[1:], root()
    context = found.make_context("coordexp", words)
    while hasattr(found, "resolve_command") and (waiting := [*context._protected_args, *context.args]):
        name, found, words = found.resolve_command(context, waiting)
        context = found.make_context(str(name), words, parent=context)


@pytest.mark.parametrize(("place", "command"), COMMANDS)
def test_a_command_on_a_page_and_its_flags_exist(place: str, command: str) -> None:
    """Also where the block is not run."""
    parse(command)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("coordexp evaluate", "No such command 'evaluate'"),
        ("coordexp eval --no-such-flag", "No such option: --no-such-flag"),
        ("coordexp data import cocoo a --images b", "No such command 'cocoo'"),
        ("coordexp predict photos", "Missing parameter: model"),
    ],
)
def test_a_command_that_does_not_exist_is_seen(command: str, sentence: str) -> None:
    with pytest.raises(Exception, match=sentence):
        parse(command)


@pytest.mark.parametrize(("page", "base"), [("docs/training/README.md", "demo/stage1_packed.yaml"), ("docs/training/STAGE2_RUNBOOK.md", "demo/stage2_ab.yaml")])
def test_the_settings_on_a_page_about_training_parse(page: str, base: str, tmp_path: Path) -> None:
    snippets = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    settings = [snippet for snippet in snippets if not snippet.startswith("extends: common.yaml")]  # a fusion file
    assert len(settings) >= 2
    for number, snippet in enumerate(settings):
        path = tmp_path / f"{number}.yaml"
        path.write_text(f"extends: {ROOT / 'configs' / base}\n{snippet}")
        load_config(path, TrainConfig)
