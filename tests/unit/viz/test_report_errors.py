"""Error types and confusions as the report shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordexp.evaluation.evaluate import evaluate
from coordexp.evaluation.result import EvaluationResult
from coordexp.viz.crops import crop_examples
from coordexp.viz.report_errors import MAX_CONFUSED, MAX_EXAMPLES, confusion_view, error_rows, shown_examples


def _box(desc: str, x: int, y: int = 5, size: int = 20, **more: Any) -> dict[str, Any]:
    return {"type": "bbox_2d", "points": [x, y, x + size, y + size], "desc": desc, **more}


def _result(pairs: list[tuple[str | None, str | None]]) -> EvaluationResult:
    """One image a pair (ground truth, prediction) at the same place; None: nothing there, nothing said."""
    records = [
        {
            "image": f"images/{place % 4}.png",
            "width": 96,
            "height": 72,
            "gt": [] if truth is None else [_box(truth, 5)],
            "pred": [] if said is None else [_box(said, 5, score=1 / (place + 2))],
        }
        for place, (truth, said) in enumerate(pairs)
    ]
    return evaluate(records)


def test_every_type_has_a_row_with_its_share_its_classes_and_the_count_before() -> None:
    result = _result([("cat", "dog"), ("cat", "cat"), (None, "cat"), ("dog", None)])
    rows = {row.key: row for row in error_rows(result, _result([("cat", "dog")] * 4), {})}
    assert list(rows) == ["localization", "classification", "duplicate", "both", "background", "missed"]
    assert [(key, row.kind.count, row.before) for key, row in rows.items() if row.kind.count] == [
        ("classification", 1, 4),
        ("background", 1, 0),
        ("missed", 1, 0),
    ]
    assert rows["classification"].classes == (("dog", 1),)
    assert rows["classification"].share == pytest.approx(1 / 3)


def test_the_matrix_has_background_and_its_rows_sum_up_to_the_ground_truths() -> None:
    view = confusion_view(_result([("cat", "dog"), ("cat", "cat"), ("cat", None), (None, "dog"), ("dog", "dog")]))
    assert view is not None
    assert view.columns == ("cat", "dog", "missed")
    assert [(name, [cell.count for cell in cells]) for name, cells in view.rows] == [("cat", [1, 1, 1]), ("dog", [0, 1, 0]), ("nothing there", [0, 1, 0])]
    assert [(cell.heat, cell.is_right) for cell in view.rows[0][1]] == [(33, True), (33, False), (33, False)]
    assert view.pairs == (("cat", "dog", 1, pytest.approx(1 / 3)),)


def test_classes_that_are_seldom_confused_share_a_row_and_no_count_is_lost() -> None:
    frequent = [(f"class {place}", f"class {place + 1}") for place in range(0, 12, 2)] * 2
    pairs = [*frequent, *[("rare", "rare")] * 5, ("other rare", "rare")]
    view = confusion_view(_result(pairs))
    assert view is not None
    assert (view.num_shown, view.num_classes, view.columns[-2:]) == (MAX_CONFUSED, 14, ("other classes", "missed"))
    others = dict(view.rows)["other classes"]
    assert others[-2].count == 6
    assert sum(cell.count for _, cells in view.rows for cell in cells) == len(pairs)


def test_without_objects_there_is_no_matrix() -> None:
    assert confusion_view(_result([(None, None)])) is None


def test_an_example_is_cut_from_the_image_as_a_square_around_its_boxes(make_run: Any) -> None:
    root: Path = make_run()
    result = _result([("cat", "dog"), (None, "cat")])
    crops = crop_examples(result.data, shown_examples(result), root=root)
    wrong, invented = (rows.crops[0] for rows in error_rows(result, None, crops) if rows.crops)
    assert (wrong.caption, invented.caption) == ("dog 0.50 for cat, IoU 1.00", "cat 0.33")
    assert [outline.side for outline in wrong.outlines] == ["gt", "pred"]
    assert (wrong.left, wrong.top, wrong.side) == (0.0, 0.0, 48)  # moved into the image, never smaller than a stamp
    assert wrong.uri.startswith("data:image/")


def test_a_type_shows_a_few_examples_and_those_without_an_image_are_left_out(make_run: Any) -> None:
    root: Path = make_run()
    result = _result([(None, "cat")] * 20)
    (root / "images" / "0.png").unlink()
    crops = crop_examples(result.data, shown_examples(result), root=root)
    row = next(row for row in error_rows(result, None, crops) if row.key == "background")
    assert len(shown_examples(result)) == MAX_EXAMPLES
    assert len(row.crops) == MAX_EXAMPLES - 2  # images 0 and 4 share the file that is gone
