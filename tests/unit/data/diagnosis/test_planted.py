"""Faults of real data sets, planted one at a time into a sound one: each is named, with lines that show it and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.data.diagnosis.diagnose import diagnose_file
from coordexp.data.diagnosis.findings import MAX_PLACES, Check, Finding, Severity
from coordexp.geometry.bins import MAX_BIN
from coordexp.types.records import CoordSpace

Box = Sequence[float]
Line = dict[str, Any]


def bins(box: Box, width: int, height: int) -> list[int]:
    """What a conversion of pixels makes of four numbers, whatever they are."""
    spans = (width - 1, height - 1)
    return [min(MAX_BIN, max(0, round(value / spans[place % 2] * MAX_BIN))) for place, value in enumerate(box)]


def xywh(box: Box) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def in_order(box: Box) -> list[float]:
    return [min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])]


def swapped(box: Box) -> list[float]:
    return [box[1], box[0], box[3], box[2]]


def unit(box: Box, width: int, height: int) -> list[float]:
    return [box[0] / width, box[1] / height, box[2] / width, box[3] / height]


def turned_half(box: Box) -> list[float]:
    return [MAX_BIN - box[2], MAX_BIN - box[3], MAX_BIN - box[0], MAX_BIN - box[1]]


@dataclass(frozen=True)
class Fault:
    """Boxes of the file as a function of the true pixels and the image's size."""

    check: Check
    severity: Severity
    space: CoordSpace
    write: Callable[[Box, int, int], Sequence[float]]
    evidence: str


E, W = Severity.ERROR, Severity.WARNING
PIXELS_SAID_TO_BE_BINS = "the bins look like pixels"
FAULTS = {
    "xywh as pixels": Fault(Check.XYWH, E, "pixel", lambda b, w, h: xywh(b), "end before they begin, and x1+x2 and y1+y2 stay inside"),
    "xywh as bins": Fault(Check.XYWH, E, "norm1000", lambda b, w, h: xywh(bins(b, w, h)), "they look like x, y, width, height"),
    "xywh put in order": Fault(Check.XYWH, W, "token", lambda b, w, h: in_order(xywh(bins(b, w, h))), "of corners half the sums would leave it"),
    "0..1 as pixels": Fault(Check.UNIT_RANGE, E, "pixel", unit, "they look like coordinates in 0..1"),
    "0..1 as bins": Fault(Check.UNIT_RANGE, E, "norm1000", lambda b, w, h: [round(v) for v in unit(b, w, h)], "no value is above 1"),
    "0..1 normalized again": Fault(Check.UNIT_RANGE, E, "token", lambda b, w, h: bins(unit(b, w, h), w, h), "lie in the first pixel"),
    "pixels as norm1000": Fault(Check.ABSOLUTE_IN_NORM1000, E, "norm1000", lambda b, w, h: [int(v) for v in b], PIXELS_SAID_TO_BE_BINS),
    "pixels as tokens": Fault(Check.ABSOLUTE_IN_NORM1000, E, "token", lambda b, w, h: [int(v) for v in b], PIXELS_SAID_TO_BE_BINS),
    "norm1000 as pixels": Fault(Check.NORM1000_IN_PIXEL, E, "pixel", lambda b, w, h: bins(b, w, h), "the pixels look like bins"),
    "normalized twice": Fault(Check.DOUBLE_NORMALIZED, E, "token", lambda b, w, h: bins(bins(b, w, h), w, h), "squeezed into the last bin"),
    "one box for all": Fault(Check.EQUAL_BOXES, E, "pixel", lambda b, w, h: [10, 20, 60, 80], "are one and the same"),
    "y, x as pixels": Fault(Check.SWAPPED_AXES, E, "pixel", lambda b, w, h: swapped(b), "lie inside when x and y change places"),
    "y, x as bins": Fault(Check.SWAPPED_AXES, E, "token", lambda b, w, h: swapped(bins(b, w, h)), "lie better on the edges of their pictures"),
    "boxes of a larger picture": Fault(Check.OTHER_SIZE, E, "pixel", lambda b, w, h: [2.5 * v for v in b], "2.5"),
    "boxes of a smaller picture": Fault(Check.OTHER_SIZE, W, "pixel", lambda b, w, h: [0.5 * v for v in b], "they may belong to a smaller picture"),
    "boxes upside down": Fault(Check.TURNED, E, "token", lambda b, w, h: turned_half(bins(b, w, h)), "turned by 180 degrees"),
    "boxes mirrored": Fault(Check.TURNED, E, "pixel", lambda b, w, h: [w - b[2], b[1], w - b[0], b[3]], "mirrored left to right"),
}


def edit(path: Path, change: Callable[[int, Line], None]) -> Path:
    """Change the lines of a file; `change` gets the number of a line from 0."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(lines):
        change(number, line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def plant(fault: Fault) -> Callable[[int, Line], None]:
    def change(number: int, line: Line) -> None:
        line["coord_space"] = fault.space
        for item in line["objects"]:
            values = fault.write(item["bbox_2d"], line["width"], line["height"])
            item["bbox_2d"] = [f"<|coord_{int(value)}|>" for value in values] if fault.space == "token" else list(values)

    return change


def only(path: Path, *beside: Check) -> Finding:
    """The one finding of a file, beside those that go with it."""
    findings = [finding for finding in diagnose_file(path).findings if finding.check not in beside]
    assert len(findings) == 1, findings
    assert 1 <= len(findings[0].places) <= MAX_PLACES
    assert findings[0].fix
    return findings[0]


@pytest.mark.parametrize(("name", "base"), [*((name, "shapes") for name in FAULTS), *((name, "crowds") for name in list(FAULTS)[::2])])
def test_a_planted_fault_of_all_boxes_is_the_one_that_is_named(write_clean: Callable[[str, CoordSpace], Path], name: str, base: str) -> None:
    fault = FAULTS[name]
    path = edit(write_clean(base, "pixel"), plant(fault))
    found = only(path, Check.RULES) if fault.check is Check.XYWH else only(path)
    assert (found.check, found.severity) == (fault.check, fault.severity)
    assert fault.evidence in found.what
    if base == "shapes":
        assert len({place.line for place in found.places}) == MAX_PLACES
    if fault.check is Check.XYWH:
        assert any(finding.check is Check.RULES for finding in diagnose_file(path).findings) == (fault.severity is E)


@pytest.mark.parametrize(
    "name", ["xywh as pixels", "0..1 as pixels", "pixels as norm1000", "norm1000 as pixels", "normalized twice", "boxes of a larger picture"]
)
def test_five_records_are_enough_for_what_the_numbers_alone_show(write_clean: Callable[[str, CoordSpace], Path], name: str) -> None:
    assert only(edit(write_clean("five", "pixel"), plant(FAULTS[name])), Check.RULES).check is FAULTS[name].check


def test_boxes_of_large_images_that_were_normalized_twice_or_are_bins_never_pass_bin_999(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    def enlarged(fault: Callable[[list[int]], list[int]], space: str) -> Callable[[int, Line], None]:
        def change(number: int, line: Line) -> None:
            for item in line["objects"]:
                item["bbox_2d"] = fault(bins(item["bbox_2d"], line["width"], line["height"]))
            line.update(width=2560, height=1536, coord_space=space)

        return change

    path = write_clean("shapes", "pixel")
    text = path.read_text()
    beside = (Check.IMAGE_SIZE,)
    assert only(edit(path, enlarged(lambda box: bins(box, 2560, 1536), "norm1000")), *beside).check is Check.DOUBLE_NORMALIZED
    path.write_text(text)
    found = only(edit(path, enlarged(lambda box: box, "pixel")), *beside)
    assert (found.check, "reaches beyond pixel 999 in images of 2560x1536" in found.what) == (Check.NORM1000_IN_PIXEL, True)


def test_a_fault_of_one_source_of_a_merged_file_is_named(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    def change(number: int, line: Line) -> None:
        if number % 5 == 0:
            plant(replace(FAULTS["xywh as pixels"]))(number, line)

    found = only(edit(write_clean("shapes", "pixel"), change), Check.RULES)
    assert found.check is Check.XYWH
    assert all(place.line % 5 == 1 for place in found.places)


def test_one_box_for_all_objects_of_an_image_is_named(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    def change(number: int, line: Line) -> None:
        for item in line["objects"]:
            item["bbox_2d"] = line["objects"][0]["bbox_2d"]

    found = only(edit(write_clean("shapes", "token"), change))
    assert (found.check, found.severity) == (Check.EQUAL_BOXES, E)
    assert "images with three or more objects all boxes are the same" in found.what


@pytest.mark.parametrize("spoil", ["{} ", "\t{}", "a  {}", "{}\u200b", "\u00a0{}"], ids=["trailing", "leading", "double", "zero-width", "no-break"])
def test_names_with_spaces_that_nobody_sees_are_named(write_clean: Callable[[str, CoordSpace], Path], spoil: str) -> None:
    def change(number: int, line: Line) -> None:
        for item in line["objects"][: number % 2]:
            item["desc"] = spoil.format(item["desc"])

    found = only(edit(write_clean("shapes", "token"), change))
    assert (found.check, found.severity) == (Check.LABEL_SPACES, W)
    assert ("also occur without them" in found.what) == (spoil[0] != "a")


def test_boxes_around_whole_pictures_are_a_warning(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    def change(number: int, line: Line) -> None:
        line["objects"] = [{"desc": "thing", "bbox_2d": [0, 0, 160, 96]}]

    found = only(edit(write_clean("shapes", "pixel"), change))
    assert (found.check, found.severity, "cover the whole image" in found.what) == (Check.EQUAL_BOXES, W, True)


def test_names_that_differ_by_case_alone_are_a_note(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    def change(number: int, line: Line) -> None:
        for item in line["objects"]:
            item["desc"] = ("Traffic Light" if number % 2 else "traffic_light") if number < 4 else item["desc"]

    found = only(edit(write_clean("shapes", "token"), change))
    assert (found.check, found.severity) == (Check.LABEL_VARIANTS, Severity.NOTE)


def test_one_picture_with_two_sets_of_labels_is_named_under_any_file_name(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    path = write_clean("shapes", "token")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    full = next(number for number, line in enumerate(lines) if len(line["objects"]) > 1)
    (path.parent / "copy.png").write_bytes((path.parent / lines[full]["images"][0]).read_bytes())
    half = {**lines[full], "images": ["copy.png"], "objects": lines[full]["objects"][1:]}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, half]))
    found = only(path)
    assert (found.check, found.severity, found.places[0].line) == (Check.TWO_LABEL_SETS, W, len(lines) + 1)
    assert f"is the picture of line {full + 1}" in found.places[0].note


def test_one_picture_twice_with_the_same_objects_is_a_note_in_whichever_space_they_are_written(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    path = write_clean("shapes", "pixel")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    again = {**lines[1], "coord_space": "norm1000", "objects": [{**item, "bbox_2d": bins(item["bbox_2d"], 160, 96)} for item in reversed(lines[1]["objects"])]}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, again]))
    found = only(path)
    assert (found.check, found.severity) == (Check.REPEATED_IMAGES, Severity.NOTE)


def test_images_that_were_resized_without_their_records_are_named(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    path = write_clean("shapes", "token")
    for image in list(path.parent.glob("*.png"))[:7]:
        picture = Image.open(image).resize((80, 48))
        image.unlink()
        picture.save(image)
    found = only(path)
    assert (found.check, found.severity) == (Check.IMAGE_SIZE, E)
    assert "7 of 24 images have another size than their record says (7 of them of another scale" in found.what


def save_turned(path: Path, orientation: int) -> None:
    picture, exif = Image.open(path).convert("RGB"), Image.Exif()
    exif[0x0112] = orientation
    path.unlink()
    picture.save(path, format="JPEG", quality=95, exif=exif)


def test_images_on_their_side_by_exif_are_named(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    path = write_clean("shapes", "token")
    save_turned(path.parent / "2.png", 6)
    findings = {finding.check: finding for finding in diagnose_file(path).findings}
    assert set(findings) == {Check.EXIF, Check.IMAGE_SIZE}
    assert "1 of them on their side: boxes were drawn without EXIF rotation" in findings[Check.IMAGE_SIZE].what
    assert findings[Check.EXIF].places[0].describe("train.jsonl") == "train.jsonl:3: 2.png: orientation 6"


def test_images_upside_down_by_exif_keep_their_size_and_are_given_away_by_their_pixels(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    path = write_clean("shapes", "token")
    for image in path.parent.glob("*.png"):
        save_turned(image, 3)
    found = only(path, Check.EXIF)
    assert (found.check, "turned by 180 degrees" in found.what) == (Check.TURNED, True)


def test_images_that_are_much_longer_than_wide_are_named(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    path = write_clean("shapes", "token")
    Image.new("RGB", (1600, 7)).save(path.parent / "line.png")
    with path.open("a") as stream:
        stream.write('{"images": ["line.png"], "objects": [], "width": 1600, "height": 7, "coord_space": "token"}\n')
    found = only(path)
    assert (found.check, found.severity, found.places[0].note) == (Check.ASPECT_RATIO, E, "1600x7")


def test_missing_and_damaged_images_are_named_and_the_rest_is_looked_at(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    path = write_clean("shapes", "token")
    (path.parent / "0.png").unlink()
    (path.parent / "1.png").unlink()
    (path.parent / "1.png").write_text("no picture")
    found = only(path)
    assert (found.check, [place.line for place in found.places]) == (Check.IMAGE_FILE, [1, 2])


def test_rules_that_are_broken_are_counted_with_their_first_lines(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    def change(number: int, line: Line) -> None:
        line.pop("coord_space")
        for item in line["objects"]:
            item["bbox_2d"] = bins(item["bbox_2d"], line["width"], line["height"])

    found = only(edit(write_clean("shapes", "pixel"), change))
    assert (found.check, found.severity, len(found.places)) == (Check.RULES, E, MAX_PLACES)
    assert "rules of the format are broken (coord_space: " in found.what
    assert found.fix.startswith("say with --coord-space what plain integers are")


NO_RECORDS = {
    "empty": "",
    "blank": "\n\n",
    "not records": "[1, 2]\nnonsense\n" + "[" * 100_000 + "\n",
    "fields of other kinds": '{"width": 5, "height": "x", "objects": 3}\n{"width": 5, "height": 5, "objects": [{"bbox_2d": [1, "a", {}, 4]}, 7]}\n',
}


@pytest.mark.parametrize("name", NO_RECORDS)
def test_lines_that_are_no_records_and_an_empty_file_are_findings(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.jsonl").write_text(NO_RECORDS[name])
    assert [finding.check for finding in diagnose_file(tmp_path / "train.jsonl").findings if finding.check is not Check.IMAGE_FILE] == [Check.RULES]
