"""The specifications: requirements that say SHALL, scenarios with WHEN and THEN, each shown by a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPECS = sorted((ROOT / "openspec").rglob("spec.md"))
_TEST = re.compile(r"- \*\*TEST\*\* `(?P<file>tests/[\w/]+\.py)::(?P<name>test_\w+)`")


def scenarios(spec: Path) -> dict[str, str]:
    """Requirement and scenario → its text."""
    found: dict[str, str] = {}
    for requirement in spec.read_text(encoding="utf-8").split("\n### Requirement: ")[1:]:
        title, *parts = requirement.split("\n#### Scenario: ")
        assert " SHALL " in title, title
        assert parts, f"{title.splitlines()[0]}: no scenario"
        for part in parts:
            found[f"{title.splitlines()[0]} / {part.splitlines()[0]}"] = part
    return found


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.parent.name)
def test_each_scenario_is_shown_by_a_test_that_exists(spec: Path) -> None:
    for name, text in scenarios(spec).items():
        assert "- **WHEN** " in text, name
        assert "- **THEN** " in text, name
        shown = _TEST.findall(text)
        assert len(shown) == 1, name
        file, test = shown[0]
        assert (ROOT / file).is_file(), f"{name}: {file}"
        assert test in functions_of(ROOT / file), f"{name}: {test}"


def test_the_specification_of_inference_covers_its_files_resume_and_parts() -> None:
    (spec,) = [path for path in SPECS if path.parent.name == "inference-pipeline"]
    text = " ".join(scenarios(spec))
    for word in ("manifest", "summary", "interrupted", "parts", "dirty"):
        assert word in text, word
