"""The category list of a prompt."""

import pytest

from coordexp.codec.prompts import PromptSpec
from coordexp.pipeline.prompting import PromptPlan
from coordexp.types.records import DetObject, Record

RECORD = Record("v:1", "a.png", 9, 9, tuple(DetObject(name, "bbox_2d", (1, 1, 2, 2)) for name in ("dog", "cat", "dog")), "pixel")


@pytest.mark.parametrize(
    ("labels", "ending"),
    [("none", "in the image."), ("all", ': ["ant", "cat", "dog"]'), ("gt", ': ["cat", "dog"]'), (("elk",), ': ["elk"]')],
    ids=["none", "all", "gt", "given"],
)
def test_labels(labels, ending: str) -> None:
    plan = PromptPlan(PromptSpec(), labels=labels, categories=("ant", "cat", "dog"))
    assert plan.prompt(RECORD).user.endswith(ending)
    assert plan.describe()["labels"] == (labels if isinstance(labels, str) else "given")
