"""Each step is done once, unless what decides its result has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordexp.pipeline.steps import StepChain


def _write(path: Path, calls: list[str]) -> dict[str, Any]:
    path.write_text("made")
    calls.append(path.name)
    return {"name": path.name}


def _run_two(folder: Path, calls: list[str], *, first: int = 1, second: int = 1) -> StepChain:
    chain = StepChain(folder / "steps")
    for name, value in (("a", first), ("b", second)):
        chain.run(name, settings={"v": value}, outputs=[folder / name], work=lambda name=name: _write(folder / name, calls))
    return chain


def test_a_second_run_reuses_every_step_with_its_result(tmp_path: Path) -> None:
    calls: list[str] = []
    _run_two(tmp_path, calls)
    chain = _run_two(tmp_path, calls)
    assert calls == ["a", "b"]
    assert chain.num_reused == 2


@pytest.mark.parametrize(
    ("change", "redone"), [({"first": 2}, ["a", "b"]), ({"second": 2}, ["b"])], ids=["first changes: all after it too", "last changes: only it"]
)
def test_a_changed_setting_redoes_the_step_and_all_after_it(tmp_path: Path, change: dict[str, int], redone: list[str]) -> None:
    calls: list[str] = []
    _run_two(tmp_path, [])
    _run_two(tmp_path, calls, **change)
    assert calls == redone


def test_a_removed_output_is_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    _run_two(tmp_path, [])
    (tmp_path / "a").unlink()
    _run_two(tmp_path, calls)
    assert calls == ["a"]


def test_a_step_that_failed_is_not_recorded(tmp_path: Path) -> None:
    chain = StepChain(tmp_path)
    with pytest.raises(ZeroDivisionError):
        chain.run("a", settings={}, outputs=[], work=lambda: {"x": 1 // 0})
    assert list(tmp_path.iterdir()) == []
