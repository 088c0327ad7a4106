"""`coordexp predict`: pictures in, boxes out; no ground truth, no data file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coordexp.data.images import load_image
from coordexp.pipeline.artifacts import result_to_line
from coordexp.pipeline.detections import Detections
from coordexp.pipeline.prediction_files import Format, check_form, write_predictions
from coordexp.types.errors import ConfigError, DataError
from coordexp.types.files import ensure_output_folder
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.pictures import DrawnObject, draw_predictions, save_picture

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Of the files that count as pictures in a folder; a file that is named itself is always tried."""


def run_predict(
    inputs: Sequence[Path],
    *,
    form: Format = "jsonl",
    out: Path | None = None,
    save_vis: Path | None = None,
    min_score: float = 0.0,
    detector: Mapping[str, Any],
    progress: Progress | None = None,
) -> int:
    """Detect objects on files and on the pictures of folders; the number of pictures that failed.

    Args:
        inputs: files and folders.
        form: of the output, see `pipeline.prediction_files`.
        out: where it goes; None: lines on the standard output as they come, `jsonl` alone.
        save_vis: folder for pictures with boxes.
        min_score: leave out predictions with a lower score.
        detector: arguments of `Detector`.
        progress: shows what goes on, and says what failed.

    Raises:
        UserError: there is no picture, the checkpoint cannot be used, or the output cannot be written.
    """
    progress = progress or NoProgress()
    pictures = [str(path) for path in find_pictures(inputs)]
    if out is None and form != "jsonl":
        raise ConfigError(f"--format {form} is written to a place", where="coordexp predict", fix="give --out")
    if out is not None:
        check_form(pictures, out, form=form)
    if save_vis is not None:
        ensure_output_folder(save_vis)
    from coordexp.pipeline.detector import Detector  # torch is loaded here and not before

    found: list[Detections] = []
    num_failed = num_objects = 0
    with Detector(**detector, progress=progress) as opened:
        every = progress.track(opened.iter_predict(pictures), "predict", total=len(pictures))
        for number, item in enumerate(detections.at_least(min_score) for detections in every):
            num_objects += len(item)
            if item.is_failed:
                num_failed += 1
                progress.say(f"{item.image}: {item.message}")
            elif save_vis is not None:
                _draw(item, save_vis / f"{number:04d}_{Path(item.image).stem}.png")
            if out is None:
                sys.stdout.write(result_to_line(item.result))
                sys.stdout.flush()
            else:
                found.append(item)
    if out is not None:
        write_predictions(found, out, form=form, labels=detector.get("labels") or ())
    failed = f", {num_failed} failed" if num_failed else ""
    place = "" if out is None else f": {out}"
    progress.say(f"{len(pictures)} {'picture' if len(pictures) == 1 else 'pictures'}{failed}, {num_objects} objects{place}")
    return num_failed


def find_pictures(inputs: Sequence[Path]) -> list[Path]:
    """Files as they are named, and the pictures in folders and the folders below, sorted; what begins with a dot is passed over.

    Raises:
        DataError: a folder holds no picture.
    """
    found: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(_inside(path))
        if not inside:
            raise DataError("the folder holds no pictures", where=str(path), fix=f"give files, or a folder with {', '.join(sorted(SUFFIXES))}")
        found += inside
    return list(dict.fromkeys(found))


def _inside(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not is_hidden and path.is_file():
            yield path


def _draw(item: Detections, path: Path) -> None:
    objects = [
        DrawnObject(name, tuple(ring.ravel().tolist()) if ring is not None else (x1, y1, x2, y1, x2, y2, x1, y2), score)
        for (x1, y1, x2, y2), ring, name, score in zip(item.boxes.tolist(), item.polygons, item.labels, item.scores.tolist(), strict=True)
    ]
    save_picture(draw_predictions(load_image(Path(item.image)), objects), path)
