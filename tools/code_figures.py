"""Figures of the code: sizes of files and functions, tests against source, import of the package, archives, dependencies.

The limits are a test (tests/contract/test_code_limits.py).

python tools/code_figures.py [--json FILE]
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from check_distribution import build, core_closure, inspect

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "benchmarks", "tools", "examples", "scripts")


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name with its place, and lines from `def` to the end, docstring and inner functions counted in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def size_figures() -> dict[str, float | str]:
    source = {path: num_lines(path) for path in python_files("src")}
    tests = sum(num_lines(path) for path in python_files("tests"))
    longest_file = max(source, key=source.__getitem__)
    longest = max((found for path in source for found in functions(path)), key=lambda found: found[1])
    lengths = sorted(length for path in source for _, length in functions(path))
    return {
        "files": len(source),
        "lines": sum(source.values()),
        "file_median": statistics.median(source.values()),
        "file_p90": statistics.quantiles(source.values(), n=10)[-1],
        "file_max": f"{source[longest_file]} ({longest_file.relative_to(ROOT)})",
        "function_median": statistics.median(lengths),
        "function_max": f"{longest[1]} ({longest[0]})",
        "test_lines": tests,
        "tests_over_source": round(tests / sum(source.values()), 2),
    }


def seconds(code: str, *, repeats: int = 7) -> float:
    """Median wall seconds of a process that runs the code, after a first one."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def wheel_figures() -> dict[str, int]:
    """Size, direct dependencies of the core, and all that come with them."""
    with tempfile.TemporaryDirectory() as folder:
        wheel, sdist = build(Path(folder))
        facts = inspect(wheel, sdist)
        return {key: facts[key] for key in ("wheel_bytes", "sdist_bytes", "core_dependencies")} | {"core_packages": len(core_closure(wheel))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    bare, package = seconds("pass"), seconds("import coordexp")
    figures = size_figures() | {"import_ms": round(1e3 * package), "import_over_bare_python": round(package / bare, 2)} | wheel_figures()
    for key, value in figures.items():
        print(f"{key:26} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
