"""Writes the generated pages of docs/ from the code, so that they are current.

.venv/bin/python tools/generate_docs.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from coordexp.config.docs import render_config_docs
from coordexp.metrics.docs import render_metric_docs

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {"reference/configuration.md": render_config_docs, "training/METRICS_LOSSES.md": render_metric_docs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 when a page is not current")
    check = parser.parse_args().check
    stale = [name for name, render in PAGES.items() if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != render()]
    for name in stale:
        print(f"docs/{name} is not current; run 'make docs'" if check else f"docs/{name}")
        if not check:
            (DOCS / name).parent.mkdir(parents=True, exist_ok=True)
            (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
