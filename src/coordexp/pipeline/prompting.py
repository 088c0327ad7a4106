"""Which prompt a record gets: the same text as in training, with the category list that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from coordexp.codec.native import native_prompt
from coordexp.codec.prompts import Prompt, PromptSpec, build_prompt
from coordexp.types.records import Record

LabelPolicy: TypeAlias = Literal["none", "all", "gt"]


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """Example: `PromptPlan(spec=PromptSpec(), labels="all", categories=("cat", "dog"))`"""

    spec: PromptSpec
    """Without labels."""
    labels: LabelPolicy | tuple[str, ...] = "none"
    """`none`, all categories of the file, those of the image, or these."""
    categories: tuple[str, ...] = ()
    """All categories of the file."""
    is_native: bool = False
    """The question of stock Qwen3-VL in place of ours; `spec` has no say then."""

    def prompt(self, record: Record) -> Prompt:
        """The prompt of one record."""
        return self._build(self._labels(record))

    def describe(self) -> dict[str, Any]:
        """For the manifest: the decisive settings and the text (with labels `gt` the text differs by image; then the one without a list is shown)."""
        fixed = None if self.labels == "gt" else self._fixed_labels()
        shown = self._build(fixed)
        return {
            **({"coord_mode": "native"} if self.is_native else self._describe_spec()),
            "labels": self.labels if isinstance(self.labels, str) else "given",
            "num_labels": 0 if fixed is None else len(fixed),
            "system": shown.system,
            "user": shown.user,
        }

    def _build(self, labels: tuple[str, ...] | None) -> Prompt:
        return native_prompt(labels) if self.is_native else build_prompt(replace(self.spec, labels=labels))

    def _describe_spec(self) -> dict[str, Any]:
        spec = self.spec
        return {"ordering": spec.ordering, "field_order": spec.field_order, "coord_mode": spec.coord_mode, "kinds": list(spec.kinds)}

    def _labels(self, record: Record) -> tuple[str, ...] | None:
        return _unique_sorted([item.desc for item in record.objects]) if self.labels == "gt" else self._fixed_labels()

    def _fixed_labels(self) -> tuple[str, ...] | None:
        if self.labels == "none":
            return None
        return self.categories if self.labels == "all" else tuple(self.labels)


def _unique_sorted(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))
