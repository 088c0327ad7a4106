from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.codec.coord_tokens import coord_token
from coordexp.codec.serialize import order_objects, serialize_entries, serialize_objects, with_end
from coordexp.types.records import DetObject
from coordexp.types.sequences import Role

CAT = DetObject("black cat", "bbox_2d", (110, 310, 410, 705))
RING = DetObject("é", "poly", (1, 2, 3, 4, 5, 6))


def test_a_box_is_written_as_one_line_of_json_with_coordinate_tokens() -> None:
    text = '{"object_1": {"desc": "black cat", "bbox_2d": ["<|coord_110|>", "<|coord_310|>", "<|coord_410|>", "<|coord_705|>"]}}<|im_end|>'
    assert with_end(serialize_objects([CAT])).text == text


def test_a_polygon_is_written_as_pairs_and_text_mode_has_plain_integers() -> None:
    assert serialize_objects([RING], field_order="geometry_first", coord_mode="text").text == '{"object_1": {"poly": [[1, 2], [3, 4], [5, 6]], "desc": "é"}}'


def test_no_object_is_an_empty_object() -> None:
    written = with_end(serialize_objects([]))
    assert (written.text, [span.role for span in written.spans]) == ("{}<|im_end|>", [Role.FORMAT, Role.CLOSE, Role.END])


def test_spans_cover_the_text_and_say_what_its_characters_are() -> None:
    written = with_end(serialize_objects([CAT, RING]))
    assert [span.start for span in written.spans] == [0, *(span.end for span in written.spans[:-1])]
    by_role = {role: [written.text[span.start : span.end] for span in written.spans if span.role is role] for role in Role}
    assert by_role[Role.KEY] == ["1", "2"]
    assert by_role[Role.DESC] == ["black cat", "é"]
    assert by_role[Role.COORD] == [coord_token(int(k)) for k in CAT.points + RING.points]
    assert by_role[Role.CLOSE] == ["}"]
    assert by_role[Role.END] == ["<|im_end|>"]
    assert {span.object_index for span in written.spans if span.role is Role.COORD} == {0, 1}


def test_entries_take_the_keys_that_they_are_given() -> None:
    assert list(json.loads(f"{{{serialize_entries([CAT, RING], indices=(7, 9)).text}}}")) == ["object_7", "object_9"]


@given(desc=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_desc_reads_back_and_spells_no_special_token(desc: str) -> None:
    text = serialize_objects([DetObject(desc, "bbox_2d", (0, 0, 1, 1))], coord_mode="text").text
    assert json.loads(text)["object_1"]["desc"] == desc
    assert "<|" not in text
    assert "\n" not in text


def test_a_lone_surrogate_is_escaped_so_that_the_text_can_be_encoded() -> None:
    text = serialize_objects([DetObject("a\ud800b", "bbox_2d", (0, 0, 1, 1))]).text
    assert text.encode().decode() == text
    assert json.loads(text)["object_1"]["desc"] == "a\ud800b"


@pytest.mark.parametrize("value", [-1, 1000, 0.5])
def test_a_coordinate_that_is_no_bin_is_refused_with_the_object(value: float) -> None:
    with pytest.raises(ValueError, match=r"'cat': coordinate .* is not an integer bin 0\.\.999"):
        serialize_objects([DetObject("cat", "bbox_2d", (value, 0, 1, 1))])


def test_sorted_goes_by_y1_then_x1_and_takes_the_topmost_vertex_of_a_polygon() -> None:
    low = DetObject("low", "bbox_2d", (0, 50, 10, 60))
    right = DetObject("right", "bbox_2d", (9, 5, 10, 60))
    left = DetObject("left", "bbox_2d", (2, 5, 10, 60))
    ring = DetObject("ring", "poly", (70, 80, 40, 5, 3, 5))
    assert [item.desc for item in order_objects([low, right, ring, left], ordering="sorted")] == ["left", "ring", "right", "low"]


def test_the_order_in_a_file_does_not_change_the_sorted_order() -> None:
    same_corner = [DetObject(desc, "bbox_2d", (1, 1, x2, 9)) for desc, x2 in (("b", 5), ("a", 5), ("c", 3))]
    assert order_objects(same_corner, ordering="sorted") == order_objects(same_corner[::-1], ordering="sorted")


def test_random_order_is_a_shuffle_that_the_seed_decides() -> None:
    objects = [DetObject(str(number), "bbox_2d", (0, 0, 1, 1)) for number in range(20)]
    orders = {order_objects(objects, ordering="random", seed=seed) for seed in (1, 1, 2)}
    assert len(orders) == 2
    assert all(sorted(order, key=lambda item: int(item.desc)) == objects for order in orders)
