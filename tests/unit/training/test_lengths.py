from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordexp.batching.prompt import PromptEncoder
from coordexp.data.augmentation import Augmentation, Crop, ZoomOut
from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import read_records
from coordexp.models.load import LoadedModel, load_model
from coordexp.training import lengths as module
from coordexp.training.lengths import LengthBook
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.types.errors import DataError
from coordexp.types.records import Record

SourceMaker = Callable[..., SegmentSource]
SETTINGS = {
    "plain": {},
    "random-order": {"ordering": "random"},
    "negatives": {"prompt_labels": "gt+negatives"},
    "text": {"coord_mode": "text"},
    "geometry-first": {"field_order": "geometry_first", "prompt_labels": "all"},
}


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> LoadedModel:
    return load_model(tiny_folder)


@pytest.fixture
def make_source(loaded: LoadedModel, boxes_folder: Path) -> SourceMaker:
    def make(change: Callable[[Record], Record] = lambda record: record, **settings: Any) -> SegmentSource:
        records = [change(to_norm1000(record)) for record in read_records(boxes_folder / "train.jsonl", dataset="boxes")]
        return SegmentSource(
            records,
            image_root=boxes_folder,
            encoder=PromptEncoder(loaded.processor),
            tokenizer=loaded.tokenizer,  # type: ignore[arg-type]
            coord_vocab=loaded.coord_vocab,
            settings=SampleSettings(**settings),
            labels=["red square", "green square", "blue square", "a long name that nothing has"],
        )

    return make


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_measured_lengths_are_those_of_the_encoded_samples(make_source: SourceMaker, settings: dict[str, Any]) -> None:
    source = make_source(**settings)
    for epoch in (0, 1):
        encoded = [source.encode(index, epoch=epoch) for index in range(len(source))]
        assert LengthBook(source, folder=None).row_lengths(epoch).tolist() == [segment.length for segment in encoded]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_augmented_sample_is_longer_than_measured(make_source: SourceMaker, settings: dict[str, Any]) -> None:
    moves = Augmentation(hflip=0.5, crop=Crop(0.5, 0.3, 0.0), zoom_out=ZoomOut(0.5, 0.3, (0, 0, 0)))
    source = make_source(augmentation=moves, **settings)
    for epoch in range(6):
        measured = LengthBook(source, folder=None).row_lengths(epoch)
        encoded = np.array([source.encode(index, epoch=epoch).length for index in range(len(source))])
        assert (encoded <= measured).all()


def test_a_second_run_measures_nothing(make_source: SourceMaker, tmp_path: Path) -> None:
    first, second = (LengthBook(make_source(), folder=tmp_path) for _ in range(2))
    expected = first.row_lengths(0)
    assert second.row_lengths(0).tolist() == expected.tolist()
    assert (first.num_measured, second.num_measured) == (10, 0)
    assert len(list(tmp_path.iterdir())) == 1


def test_another_limit_needs_no_other_lengths(make_source: SourceMaker, tmp_path: Path) -> None:
    LengthBook(make_source(), folder=tmp_path).table(0)
    cut = LengthBook(make_source(max_length=80, truncation="right"), folder=tmp_path)
    assert cut.row_lengths(0).max() == 80
    assert cut.num_measured == 0


@pytest.mark.parametrize("other", [{"change": lambda record: replace(record, objects=record.objects[:1])}, {"prompt_labels": "all"}, {"coord_mode": "text"}])
def test_other_content_is_measured_anew(make_source: SourceMaker, tmp_path: Path, other: dict[str, Any]) -> None:
    LengthBook(make_source(), folder=tmp_path).table(0)
    book = LengthBook(make_source(**other), folder=tmp_path)
    book.table(0)
    assert book.num_measured == 10


def test_lengths_that_change_between_epochs_are_kept_by_epoch(make_source: SourceMaker, tmp_path: Path) -> None:
    for expected in (20, 0):
        book = LengthBook(make_source(prompt_labels="gt+negatives"), folder=tmp_path)
        assert book.table(0).tolist() != book.table(1).tolist()
        assert book.num_measured == expected


def test_a_damaged_or_outdated_file_is_replaced_and_said(make_source: SourceMaker, tmp_path: Path) -> None:
    expected = LengthBook(make_source(), folder=tmp_path).table(0)
    (file,) = tmp_path.iterdir()
    for damage, message in ((lambda: file.write_bytes(b"no array"), "cannot be read"), (lambda: np.save(file, expected + 1), "not those of this version")):
        damage()
        said: list[str] = []
        book = LengthBook(make_source(), folder=tmp_path, say=said.append)
        assert book.table(0).tolist() == expected.tolist()
        assert message in said[0]
        assert np.load(file).tolist() == expected.tolist()


def test_a_folder_that_cannot_be_written_stops_nothing(make_source: SourceMaker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    book = LengthBook(make_source(), folder=tmp_path / "file" / "lengths", say=said.append)
    assert len(book.table(0)) == 10
    assert "measured again next time" in said[-1]


def test_old_lengths_make_room(make_source: SourceMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 500)
    for labels in ("none", "all", "gt"):
        LengthBook(make_source(prompt_labels=labels), folder=tmp_path).table(0)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("limit", "truncation"), [(80, "raise"), (40, "right")])
def test_a_sample_that_does_not_fit_into_a_row_is_named(make_source: SourceMaker, limit: int, truncation: str) -> None:
    """A cut takes from the answer, never from the prompt."""
    with pytest.raises(DataError, match=rf"^train:\d+: the sample has \d+ tokens .* more than global_max_length {limit}"):
        LengthBook(make_source(max_length=limit, truncation=truncation), folder=None).row_lengths(0)
