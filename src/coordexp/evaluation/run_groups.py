"""The groups that two runs are compared by, under keys that are the same in both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordexp.evaluation.columns import Floats, Ints
from coordexp.evaluation.f1_det import DetCounts, object_groups
from coordexp.evaluation.image_counts import DetCountTable
from coordexp.evaluation.result import EvaluationResult
from coordexp.semantics.normalize import normalize_label


@dataclass(frozen=True, slots=True)
class RunGroup:
    """A group of one run that has ground truth."""

    family: str
    name: str
    counts: DetCounts
    images: Ints
    """[N] positions of the images in which it has an object."""
    by_image: Floats
    """[N, T + 3] as in `DetCountTable`."""

    @property
    def key(self) -> str:
        """The same in both runs."""
        return f"{self.family} {normalize_label(self.name) if self.family == 'class' else self.name}"


def run_groups(result: EvaluationResult) -> dict[str, RunGroup]:
    """The groups of a run by key, family by family: classes, sizes, numbers of objects."""
    det = result.det
    counts_of = {"class": dict(zip(result.labels.classes, det.by_class, strict=True)), "size": det.by_size, "num_objects": det.by_num_objects}
    found: list[RunGroup] = []
    for family, partition in object_groups(result.data, result.labels, det.matches).items():
        if family in counts_of:
            table = DetCountTable.of(result.data, det.matches, partition)
            rows = zip(partition.names, table.images, table.counts, strict=True)
            found += [RunGroup(family, name, counts_of[family][name], images, by_image) for name, images, by_image in rows if name in counts_of[family]]
    return {group.key: group for group in found if group.counts.num_gt}


@dataclass(frozen=True, slots=True)
class GroupStatistic:
    """F1 of each group: its key with ` f1` (at IoU 0.50) and ` miou`."""

    groups: Mapping[str, RunGroup]

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        table = DetCountTable(tuple(group.images for group in self.groups.values()), tuple(group.by_image for group in self.groups.values()))
        values: dict[str, Floats] = {}
        for key, sums in zip(self.groups, table.sums(weights), strict=True):
            values |= {f"{key} f1": sums.f1(0.5), f"{key} miou": sums.f1_miou}
        return values
