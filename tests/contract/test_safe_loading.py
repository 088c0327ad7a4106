"""Nothing that is loaded may run code: read from the sources, so that a new line cannot forget it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).resolve().parents[2] / "src" / "coordexp").rglob("*.py"))
FORBIDDEN = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def _calls() -> Iterator[tuple[str, str, dict[str, object]]]:
    """(place, dotted name, keyword arguments that are constants) of every call in the package."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                values = {word.arg: word.value.value for word in node.keywords if word.arg and isinstance(word.value, ast.Constant)}
                yield f"{path.name}:{node.lineno}", ast.unparse(node.func), values


CALLS = list(_calls())


def test_the_sources_are_found() -> None:
    names = [name for _, name, _ in CALLS]
    assert any(name.endswith(".from_pretrained") for name in names)
    assert "torch.load" in names


def test_no_module_reads_pickles() -> None:
    found = [
        (path.name, name)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.partition(".")[0] in FORBIDDEN and name != "pickle.UnpicklingError"
    ]
    assert found == []


@pytest.mark.parametrize(
    ("call", "argument", "value"),
    [("torch.load", "weights_only", True), ("from_pretrained", "local_files_only", True)],
    ids=["torch.load", "from_pretrained"],
)
def test_every_call_says_that_it_reads_local_values_alone(call: str, argument: str, value: object) -> None:
    # PEFT looks at the hub for files that a folder lacks; ours is checked before
    wrong = [place for place, name, values in CALLS if name.endswith(call) and not name.startswith("PeftModel") and values.get(argument) is not value]
    assert wrong == []


def test_classes_that_a_checkpoint_could_bring_along_are_refused() -> None:
    autos = [(place, values) for place, name, values in CALLS if name.startswith("Auto") and name.endswith(".from_pretrained")]
    assert autos
    assert [place for place, values in autos if values.get("trust_remote_code") is not False] == []
    assert [place for place, _, values in CALLS if values.get("trust_remote_code")] == []


def test_arrays_are_read_without_objects() -> None:
    assert [place for place, name, values in CALLS if name == "np.load" and values.get("allow_pickle", False) is not False] == []
