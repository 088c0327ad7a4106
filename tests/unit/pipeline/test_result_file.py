"""Results appear once and complete: a writer that is cut off anywhere is continued by the next to the same bytes, and refuses what it cannot continue."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.pipeline.artifacts import result_to_line
from coordexp.pipeline.journal import check_lines, read_journal
from coordexp.pipeline.result_file import ResultWriter, journal_path, partial_path
from coordexp.types.errors import OutputError
from coordexp.types.predictions import SampleResult

WINDOWS = [[SampleResult(f"{window}-{place}.png", 64, 32, "coord", None, (), (), "Käse" * window) for place in range(3)] for window in range(5)]
EXPECTED = "".join(result_to_line(result) for window in WINDOWS for result in window)


def identities(number: int) -> list[tuple[int, str]]:
    return [(3 * number + place, f"{number}{place}") for place in range(3)]


def write(path: Path, windows: range, *, mark: str = "m", finish: bool = False, resume: bool = True) -> int:
    """Writes the windows that are not done and in `windows`; returns how many were done before."""
    with ResultWriter(path, fingerprint=mark, is_resumed=resume) as writer:
        done = len(writer.done.marks)
        for number in windows:
            if number >= done:
                writer.append(WINDOWS[number], lines=identities(number), counts={"n": number}, seconds=float(number))
        if finish:
            writer.finish()
    return done


def test_results_lie_in_the_partial_file_until_the_run_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "run" / "gt_vs_pred.jsonl"
    write(path, range(2))
    assert not path.exists()
    assert EXPECTED.startswith(partial_path(path).read_text())
    assert write(path, range(5), finish=True) == 2
    assert path.read_text() == EXPECTED
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@settings(max_examples=60, deadline=None)
@given(cut_results=st.integers(0, 400), cut_journal=st.integers(0, 300), data=st.data())
def test_a_run_that_is_cut_off_anywhere_continues_to_the_same_bytes(tmp_path_factory: pytest.TempPathFactory, cut_results: int, cut_journal: int, data) -> None:
    """The system keeps what was written: the results of a window are whole before the journal names it."""
    path = tmp_path_factory.mktemp("cut") / "gt_vs_pred.jsonl"
    write(path, range(data.draw(st.integers(1, 5))))
    journal = journal_path(path).read_bytes()
    journal_path(path).write_bytes(journal[: max(0, len(journal) - cut_journal)])
    known = read_journal(journal_path(path))
    end = 0 if known is None else known.last.end
    content = partial_path(path).read_bytes()
    partial_path(path).write_bytes(content[: max(end, len(content) - cut_results)])
    done = write(path, range(5), finish=True)
    assert done == (0 if known is None else len(known.marks))
    assert path.read_text() == EXPECTED


def test_the_journal_says_what_the_next_start_needs(tmp_path: Path) -> None:
    path = tmp_path / "gt_vs_pred.jsonl"
    write(path, range(2))
    with ResultWriter(path, fingerprint="m") as writer:
        assert writer.done.lines == [*identities(0), *identities(1)]
        assert (writer.done.last.counts, writer.done.last.seconds) == ({"n": 1}, 1.0)


def test_another_fingerprint_or_no_resume_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "gt_vs_pred.jsonl"
    write(path, range(3))
    assert write(path, range(1), mark="other") == 0
    assert write(path, range(2), mark="other", resume=False) == 0
    assert write(path, range(5), mark="other", finish=True) == 2
    assert path.read_text() == EXPECTED


def test_results_that_were_changed_are_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "gt_vs_pred.jsonl"
    write(path, range(2))
    content = partial_path(path).read_text()
    for changed in (content.replace("0-0.png", "0-9.png"), content[:-1]):
        partial_path(path).write_text(changed)
        with pytest.raises(OutputError, match="changed since it was interrupted"):
            write(path, range(5))
        assert partial_path(path).read_text() == changed


def test_a_journal_without_results_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "gt_vs_pred.jsonl"
    write(path, range(2))
    partial_path(path).unlink()
    assert write(path, range(5), finish=True) == 0
    assert path.read_text() == EXPECTED


def test_a_journal_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gt_vs_pred.jsonl"
    write(path, range(1))
    journal_path(path).write_text(json.dumps({"format": 99, "fingerprint": "m"}) + "\n")
    with pytest.raises(OutputError, match="another version"):
        write(path, range(5))


def test_two_runs_cannot_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "gt_vs_pred.jsonl"
    with ResultWriter(path, fingerprint="m") as writer:
        writer.append(WINDOWS[0], lines=identities(0), counts={}, seconds=0.0)
        with pytest.raises(OutputError, match="another run is writing here"), ResultWriter(path, fingerprint="m"):
            pass
    assert write(path, range(5), finish=True) == 1


@pytest.mark.parametrize("ends", [True, False], ids=["finished", "given up"])
def test_a_writer_is_refused_when_another_one_ends_between_its_opening_and_its_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    path = tmp_path / "gt_vs_pred.jsonl"
    first, lock = ResultWriter(path, fingerprint="m"), fcntl.flock
    first.__enter__()
    if ends:
        first.append(WINDOWS[0], lines=identities(0), counts={}, seconds=0.0)

    def lock_late(descriptor: int, operation: int) -> None:
        if ends:
            first.finish()
        first.__exit__(None, None, None)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with pytest.raises(OutputError, match="another run has just ended here"), ResultWriter(path, fingerprint="other"):
        pass
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == ([(path.name, "".join(map(result_to_line, WINDOWS[0])))] if ends else [])


def test_a_full_disk_is_one_sentence_also_for_a_window_that_fits_into_a_buffer(tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from coordexp.pipeline.result_file import ResultWriter\n"
        "from coordexp.types.errors import OutputError\n"
        "from coordexp.types.predictions import SampleResult\n"
        "results = [SampleResult('a.png', 64, 32, 'coord', None, (), (), 'x')]\n"
        "try:\n"
        "    with ResultWriter(Path(sys.argv[1]), fingerprint='m') as writer:\n"
        "        writer.append(results, lines=[(1, 'a')], counts={}, seconds=1.0)\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (writer.partial.stat().st_size + 10, resource.RLIM_INFINITY))\n"
        "        writer.append(results, lines=[(2, 'b')], counts={}, seconds=1.0)\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "gt_vs_pred.jsonl"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert f"{partial_path(path)}: the file would be larger than allowed here" in done.stdout
    with ResultWriter(path, fingerprint="m") as writer:
        assert writer.done.lines == [(1, "a")]


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ResultWriter(tmp_path / "gt_vs_pred.jsonl", fingerprint="m"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "gt_vs_pred.jsonl"
    path.write_text("old\n")
    write(path, range(2))
    assert path.read_text() == "old\n"


def test_results_must_belong_to_the_lines_of_the_data_file() -> None:
    done = [(1, "a"), (2, "b")]
    check_lines(done, [(1, "a"), (2, "b"), (3, "c")], where=Path("x"))
    for source in ([(1, "a"), (3, "b")], [(1, "a"), (2, "c")], [(1, "a")]):
        with pytest.raises(OutputError, match="line 2 of the data file"):
            check_lines(done, source, where=Path("x"))
