"""Schema of a fusion file (`custom.fusion_config`): data sets that are mixed for training."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from coordexp.config.sections import FilePath, FileSection, GeometryKinds, Positive, PositiveNumber, Section, Switch, Text


class FusionDataset(Section):
    """One data set. What is absent is as the training file says."""

    name: Text
    """Its label in logs and metadata. Files that extend each other merge data sets by it. No default."""
    train_jsonl: FilePath
    """Training file. No default."""
    val_jsonl: FilePath | None = None
    """Validation file; the sets that have one are evaluated together, unless custom.val_jsonl is given."""
    ratio: PositiveNumber = 1.0
    """Samples of an epoch, as a multiple of the records: round(records * ratio)."""
    sample_without_replacement: Switch = False
    """No record twice in an epoch, also when `ratio` is above 1. (Without it every record comes once before any comes again.)"""
    max_objects_per_image: Positive | None = None
    """Of a training record with more, so many objects are drawn anew in each epoch, and the others left out of the answer. absent: no limit."""
    object_ordering: Literal["sorted", "random"] | None = None
    """As custom.object_ordering, for this data set: prompt and answer."""
    object_field_order: Literal["desc_first", "geometry_first"] | None = None
    """As custom.object_field_order, for this data set."""
    geometry_kinds: GeometryKinds | None = None
    """As data.geometry_kinds, for this data set."""
    prompt_labels: Literal["none", "all", "gt", "gt+negatives"] | None = None
    """As data.prompt_labels, for this data set; `all` and the negatives are its own categories."""
    coord_space: Literal["pixel", "norm1000", "token"] | None = None
    """As data.coord_space, for this data set."""


class FusionConfig(FileSection):
    """A fusion file with everything it extends."""

    keyed_lists: ClassVar[dict[str, str]] = {"datasets": "name"}

    datasets: Annotated[tuple[FusionDataset, ...], Field(min_length=1)]
