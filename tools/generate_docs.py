"""Writes the generated pages of docs/ from the code, so that they are current.

.venv/bin/python tools/generate_docs.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from coordexp.cli.flag_docs import with_eval_flags
from coordexp.config.docs import render_config_docs
from coordexp.metrics.docs import render_metric_docs

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES: dict[str, Callable[[str], str]] = {
    "reference/configuration.md": lambda _: render_config_docs(),
    "training/METRICS_LOSSES.md": lambda _: render_metric_docs(),
    "eval/README.md": with_eval_flags,
}
"""Page → its text, from the text that it has."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 when a page is not current")
    check = parser.parse_args().check
    is_stale = False
    for name, render in PAGES.items():
        path = DOCS / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text == (current := render(text)):
            continue
        is_stale = True
        print(f"docs/{name} is not current; run 'make docs'" if check else f"docs/{name}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(current, encoding="utf-8")
    return 1 if check and is_stale else 0


if __name__ == "__main__":
    sys.exit(main())
