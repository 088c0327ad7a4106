"""`coordexp model tiny`: the tiny checkpoint that the package ships, made from nothing."""

from __future__ import annotations

from pathlib import Path

from coordexp.data.synthetic import load_split
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.pretrain_tiny import pretrain_tiny
from coordexp.models.tiny import build_plain_tiny, build_tiny
from coordexp.types.files import ensure_output_folder
from coordexp.types.progress import NoProgress, Progress


def run_plain_tiny(output: Path, *, progress: Progress | None = None) -> Path:
    """Write the shipped checkpoint without its coordinate tokens to `output`: it stands for a published Qwen3-VL.

    Raises:
        UserError: the folder cannot be written.
    """
    ensure_output_folder(output.parent)
    build_plain_tiny(tiny_checkpoint(), output)
    (progress or NoProgress()).say(f"the shipped tiny Qwen3-VL, without coordinate tokens, lies in {output}")
    return output


def run_tiny(output: Path, *, pretrain: bool, seed: int = 0, with_coord_tokens: bool = True, progress: Progress | None = None) -> Path:
    """Build the tiny model at `output`, untrained (then also without coordinate tokens) or pretrained; an interrupted pretraining continues when it is
    called again.

    Raises:
        UserError: the folder cannot be written, or scikit-learn is not installed.
    """
    progress = progress or NoProgress()
    ensure_output_folder(output.parent)
    if not pretrain:
        build_tiny(output, seed=seed, with_coord_tokens=with_coord_tokens)
        progress.say(f"an untrained tiny Qwen3-VL lies in {output}")
        return output
    splits = {kind: load_split(f"{kind}-pretrain").settings for kind in ("shapes", "digits")}
    pretrain_tiny(output, seed=seed, work=output.with_name(f"{output.name}.work"), splits=splits, progress=progress)
    progress.say(f"the pretrained checkpoint lies in {output}")
    return output
