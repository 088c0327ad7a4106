"""One record file by several processes: the same bytes, counts and errors as by one, wherever the file is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.cli.main import main
from coordexp.data import chunks
from coordexp.data.cards import card_path, write_card
from coordexp.data.chunks import Chunk, map_chunks
from coordexp.data.convert import convert_file
from coordexp.data.rules import RecordReader
from coordexp.data.validate import validate_file
from coordexp.types import lines
from coordexp.types.errors import DataError

GOOD: dict[str, Any] = {"images": ["a.png"], "objects": [{"desc": "cät", "bbox_2d": [1, 2, 30.5, 4]}], "width": 18, "height": 6, "coord_space": "pixel"}
TURNED = GOOD | {"objects": [{"desc": "sail", "poly": [20, 8, 10, 0, 0, 8]}], "extra": 1}
ROWS = [GOOD, TURNED, GOOD | {"objects": [], "summary": "none"}, GOOD | {"objects": GOOD["objects"] * 3, "metadata": {"id": 7}}] * 4


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record or two each."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 250)


def write(folder: Path, *rows: Any) -> Path:
    """With a byte order mark, line ends of Windows, blank lines, and none at the end."""
    folder.mkdir(exist_ok=True)
    texts = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "train.jsonl").write_bytes(("\ufeff" + "\r\n\n".join(texts)).encode())
    return folder / "train.jsonl"


@given(st.lists(st.sampled_from([b"", b" \t", json.dumps(GOOD).encode(), b"broken", b"\xff"]), max_size=8), st.booleans(), st.integers(1, 300))
def test_every_line_is_read_once_with_its_number_wherever_pieces_end(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], is_ended: bool, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "chunks.jsonl"
    path.write_bytes(b"\n".join(content) + b"\n" * is_ended)
    expected = [(number, not line.startswith(b"{")) for number, line in enumerate(content, start=1) if line.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", size)
        assert [item for part in map_chunks(_lines, path, workers=1) for item in part] == expected


def _lines(chunk: Chunk) -> list[tuple[int, bool]]:
    reader = RecordReader("chunks")
    return [(reader.line, record is None) for record in chunk.scan(reader)]


def both(work: Callable[[int], Any]) -> Any:
    """What one process gives, proven to be what two give."""
    one, two = work(1), work(2)
    assert one == two
    return one


def test_a_conversion_writes_the_same_bytes_counts_and_card(tmp_path: Path) -> None:
    path = write(tmp_path, *ROWS)

    def convert(workers: int) -> tuple[bytes, str, str]:
        summary = convert_file(path, to="token", reorder=True, workers=workers)
        write_card(summary.output, command="command", sentence=summary.sentence(), sources=[path], workers=workers)
        return summary.output.read_bytes(), summary.sentence(), card_path(summary.output).read_text(encoding="utf-8")

    content, sentence, card = both(convert)
    assert content.count(b"\n") == 16
    assert sentence.startswith("16 records, 20 objects, 28 values clamped to the border, 4 records with polygons put in canonical order, 4 times the key extra")
    assert "| records | 16 (4 without objects) |\n| objects | 20 (16 bbox_2d, 4 poly) |\n| labels | 2 |" in card


@pytest.mark.parametrize("place", [0, 5, 16])
def test_a_conversion_ends_at_the_first_broken_record_with_the_same_sentence_and_leaves_nothing(tmp_path: Path, place: int) -> None:
    rows = [row for row in ROWS if row is not TURNED]
    path = write(tmp_path, *rows[:place], GOOD | {"width": 0}, "broken", *rows[place:], "broken too")

    def fail(workers: int) -> str:
        with pytest.raises(DataError) as error:
            convert_file(path, to="token", workers=workers)
        return str(error.value)

    number = min(place, len(rows)) * 2 + 1
    assert both(fail) == f"{path}:{number}: width: 0 is not a whole number above 0; write the width of the image in pixels"
    assert [item.name for item in tmp_path.iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize("is_broken", [True, False])
def test_a_line_that_is_too_long_counts_after_what_stands_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_broken: bool) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 500)
    path = write(tmp_path, *[GOOD] * 6, GOOD | {"width": 0} if is_broken else GOOD, GOOD | {"summary": "x" * 500})

    def fail(workers: int) -> str:
        with pytest.raises(DataError) as error:
            convert_file(path, to="token", workers=workers)
        return str(error.value)

    assert both(fail).partition(";")[0].partition("train.jsonl:")[2] == (
        "13: width: 0 is not a whole number above 0" if is_broken else "15: the line is longer than 0 MiB"
    )


@pytest.mark.parametrize("most", [None, 3])
def test_a_validation_reports_the_same_errors_in_the_same_order(tmp_path: Path, most: int | None) -> None:
    path = write(tmp_path, *ROWS[:3], "broken", *ROWS, GOOD | {"height": -1, "objects": 5}, GOOD)

    def validate(workers: int) -> tuple[dict[str, Any], str, list[str]]:
        report = validate_file(path, check_images=True, max_errors=most, workers=workers)
        return report.to_json(), report.summary(), report.remarks()

    report, summary, remarks = both(validate)
    numbers = [item["line"] for item in report["errors"]]
    assert numbers == sorted(numbers)
    assert len(numbers) == (23 if most is None else most)
    assert report["errors_by_rule"] == {"image_file": 15, "poly_order": 5, "size": 1, "objects": 1, "json": 1}
    assert "22 records" in summary
    assert any("extra (5)" in remark for remark in remarks)


def test_the_command_says_the_same_with_the_same_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, *ROWS)

    def run(workers: int) -> list[tuple[int, str]]:
        said: list[tuple[int, str]] = []
        for command in (["coord", "train.jsonl"], ["coord", "train.jsonl", "--reorder-polygons"], ["validate", "train.coord.jsonl", "--no-images"]):
            code = main(["data", *command, "--workers", str(workers)])
            said.append((code, capsys.readouterr().out))
        return said

    assert [code for code, _ in both(run)] == [2, 0, 0]


def test_a_file_of_one_piece_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 20)
    assert list(map_chunks(lambda chunk: chunk.first, write(tmp_path, *ROWS), workers=2)) == [1]  # a lambda could not be sent to one
