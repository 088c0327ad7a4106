"""One sitting: no file of more than 500 lines, no function of more than 80. Catch-all handlers are refused by ruff (BLE)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "benchmarks", "tools", "examples", "scripts")
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 500, 80


def too_long(path: Path) -> list[str]:
    """Places that go beyond a limit, with their lines."""
    text = path.read_text(encoding="utf-8")
    found = [f"{path}: {len(text.splitlines())}"] if len(text.splitlines()) > MOST_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION:
            found.append(f"{path}:{node.lineno} {node.name}: {(node.end_lineno or 0) - node.lineno + 1}")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_and_functions_are_read_in_one_sitting(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    assert [place for path in files for place in too_long(path)] == []


def test_the_limits_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("def f():\n" + "    pass\n" * 80 + "\n" * 420)
    assert too_long(path) == [f"{path}: 501", f"{path}:1 f: 81"]
