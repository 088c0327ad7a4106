"""The benchmarks as one: every script is in the run of all, what it writes has the figures of the table, and the table is that of what was measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def suite() -> SimpleNamespace:
    """The modules as the scripts import them."""
    sys.path.insert(0, str(FOLDER))
    try:
        import run_all
        from suite import figures, measured, pages
    finally:
        sys.path.remove(str(FOLDER))
    return SimpleNamespace(run_all=run_all, figures=figures, measured=measured, pages=pages)


def test_every_script_is_in_the_run_of_all_and_has_a_quick_form_and_a_file_of_figures(suite: SimpleNamespace) -> None:
    scripts = {path.name for path in FOLDER.glob("*.py")} - {"run_all.py"}
    assert {benchmark.script for benchmark in suite.figures.SUITE} == scripts
    for name in scripts:
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert "benchmark_parser(__doc__, quick=" in text, name
        assert "write_figures(" in text, name


def test_every_figure_of_the_table_was_measured(suite: SimpleNamespace) -> None:
    """The keys of `measured.json` are those that the scripts wrote."""
    measured = suite.measured.read_measured()
    for benchmark in suite.figures.SUITE:
        for form in ("quick", "long"):
            wanted = {figure.key for figure in benchmark.figures if not (figure.is_long_only if form == "quick" else figure.is_quick_only)}
            if form == "quick" or benchmark.name in measured["long"]:
                assert set(measured[form][benchmark.name].figures) == wanted, (benchmark.name, form)


def test_a_figure_that_misses_its_goal_says_what_bounds_it(suite: SimpleNamespace) -> None:
    missed = suite.measured.misses(suite.measured.read_measured())
    assert [figure.key for _, figure, _ in missed if not figure.bound] == []


def test_the_table_of_the_page_is_that_of_what_was_measured(suite: SimpleNamespace, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"), encoding="utf-8")
    suite.pages.write_between(page, suite.measured.MARK, suite.measured.table(suite.measured.read_measured()))
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"), "run 'python benchmarks/run_all.py --table'"


@pytest.mark.parametrize(
    ("goal", "met", "missed"), [("<= 0.25", 0.25, 0.26), (">= 1.5", 1.5, 1.4), ("< 0.4", 0.39, 0.4), ("> 0", 0.1, 0.0), ("== 0", 0.0, 0.1)]
)
def test_a_goal_is_a_comparison(suite: SimpleNamespace, goal: str, met: float, missed: float) -> None:
    figure = suite.figures.Figure("key", "meaning", goal=goal)
    assert figure.is_met(met)
    assert not figure.is_met(missed)


def test_the_long_form_decides_a_goal_and_a_smaller_question_never_does(suite: SimpleNamespace) -> None:
    def missed(**runs: dict[str, float]) -> list[str]:
        measured = {form: {"evaluator": suite.measured.Run("here", runs[form])} if form in runs else {} for form in ("quick", "long")}
        return [figure.key for _, figure, _ in suite.measured.misses(measured)]

    assert missed(quick={"polygon_cpu_s": 6.0}) == ["polygon_cpu_s"]
    assert missed(quick={"polygon_cpu_s": 6.0}, long={"polygon_cpu_s": 4.0}) == []
    assert missed(quick={"large_cpu_s": 20.0}) == []
    assert missed(long={"large_cpu_s": 20.0}) == ["large_cpu_s"]


@pytest.mark.slow
def test_a_run_is_written_down_with_its_figures_and_a_script_that_fails_is_named(
    suite: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fastest real one, one that fails, and one that leaves a figure out."""
    (tmp_path / "page.md").write_text("<!-- figures: begin -->\n<!-- figures: end -->\n")
    (tmp_path / "cli_startup.py").symlink_to(FOLDER / "cli_startup.py")
    (tmp_path / "packing.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "constrain.py").write_text("import pathlib, sys\npathlib.Path(sys.argv[-1]).write_text('{}')\n")
    chosen = [benchmark for benchmark in suite.figures.SUITE if benchmark.name in ("cli_startup", "packing", "constrain")]
    failed = suite.run_all.run_all(chosen, is_long=False, measured_path=tmp_path / "measured.json", page=tmp_path / "page.md", folder=tmp_path)
    assert failed == 2
    assert set(suite.measured.read_measured(tmp_path / "measured.json")["quick"]["cli_startup"].figures) == {"help_seconds", "help_over_python_startup"}
    said = capsys.readouterr().out
    assert "packing.py ended with exit code 3" in said
    assert "constrain.py: its JSON has no 'tiny_mask_us_per_token'" in said
    assert "| `help_seconds`: " in (tmp_path / "page.md").read_text()


def test_the_command_exits_with_one_when_a_benchmark_is_unknown() -> None:
    done = subprocess.run([sys.executable, str(FOLDER / "run_all.py"), "--only", "none"], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert "invalid choice: 'none'" in done.stderr
