"""The pages as a site: no broken link or anchor, and what the reference is made from can be imported."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert result.returncode == 0, result.stderr
    reference = (tmp_path / "site" / "reference" / "api" / "index.html").read_text()
    assert "coordexp.pipeline.detector.Detector" in reference
    assert "https://fonts" not in (tmp_path / "site" / "index.html").read_text()
