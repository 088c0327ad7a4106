"""Generation health: what a model's answers look like, whatever they are about. From what inference wrote into the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DUPLICATE_IOU = 0.90


@dataclass(frozen=True, slots=True)
class ObjectsPerImage:
    """Over all images, also those without objects; 0 when there is no image."""

    mean: float
    p50: float
    p90: float
    max: int


@dataclass(frozen=True, slots=True)
class GenerationHealth:
    """Shares are of images unless said otherwise; 0 where there is nothing to share out. None: the records do not say."""

    num_images: int
    num_answers: int
    """Images whose record has a `finish_reason`."""
    finish_reasons: Mapping[str, int]
    """Answers by reason. Example: `{"length": 3, "stop": 97}`"""
    truncated: float | None
    """Share of answers cut at the token limit (`length`); None without answers."""
    looped: float | None
    """Share of answers that the loop guard ended (`repeat`); None without answers."""
    malformed: float
    """Share of images with an entry that could not be read or used."""
    malformed_entries: Mapping[str, int]
    """Such entries by reason, most frequent first; one that inference only named (`errors`) counts once an image."""
    failed: float
    """Share of images that got no answer: `errors` names why."""
    empty: float
    """Share of images without a usable prediction, failed ones left out."""
    num_duplicates: int
    """Predictions with the class of an earlier one of their image and IoU > 0.90 with it."""
    duplicates: float
    """Share of predictions."""
    gt_objects: ObjectsPerImage
    pred_objects: ObjectsPerImage
