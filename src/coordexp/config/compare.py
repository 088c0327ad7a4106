"""Schema of a comparison of two runs: the flags of `coordexp eval compare`."""

from __future__ import annotations

from coordexp.config.evaluation import EvalSettings
from coordexp.config.sections import Count, FilePath, FileSection


class CompareConfig(FileSection, EvalSettings):
    """Two runs and the rules that both are evaluated under."""

    a: FilePath
    """The earlier run: its folder, its gt_vs_pred.jsonl, or the folder of its evaluation. No default."""
    b: FilePath
    """The later run. No default."""
    out_dir: FilePath | None = None
    """Folder for compare.json and compare.html; absent: a folder beside the predictions of B."""
    bootstrap: Count = 1000
    """Resamples of the images for 95 % intervals; 0: none."""
    root_image_dir: FilePath | None = None
    """Folder that image paths count from; absent: as the run recorded it."""
    max_images: Count = 60
    """Changed images in the page, most changes first; 0: none."""
