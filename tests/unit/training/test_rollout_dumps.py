"""When rollouts are dumped, and what happens when they cannot be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import read_records
from coordexp.generation.hf import HfBackend
from coordexp.models.load import load_model, placeholder_ids
from coordexp.rollout.producer import RolloutProducer, RolloutReader, TargetSettings
from coordexp.rollout.samples import ProducedRollout, RolloutTask
from coordexp.targets.supervision import stage2_ab_table
from coordexp.training.rollout_dumps import RolloutDumper
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.types.errors import DataError
from coordexp.types.rollouts import GenerationSettings


@pytest.fixture(scope="module")
def produced(tiny_folder: Path, boxes_folder: Path) -> tuple[list[ProducedRollout], TextTokenizer, Callable[[RolloutTask], Image.Image]]:
    """Rollouts of an untrained model: garbage, so that every target is all annotation."""
    loaded = load_model(tiny_folder)
    tokenizer = TextTokenizer.of(loaded.tokenizer)  # type: ignore[arg-type]
    coord_vocab: CoordVocabulary | None = loaded.coord_vocab
    assert coord_vocab is not None
    source = SegmentSource(
        [to_norm1000(record) for record in read_records(boxes_folder / "train.jsonl")],
        image_root=boxes_folder,
        encoder=PromptEncoder(loaded.processor),
        tokenizer=tokenizer,
        coord_vocab=coord_vocab,
        settings=SampleSettings(),
    )
    reader = RolloutReader(
        HfBackend(loaded), tokenizer=tokenizer, coord_vocab=coord_vocab, generation=GenerationSettings(max_new_tokens=5), forbidden_ids=placeholder_ids(loaded)
    )
    tasks = [source.rollout_task(number, epoch=0) for number in range(6)]
    rollouts, _ = RolloutProducer(reader, settings=TargetSettings(table=stage2_ab_table())).produce(tasks, seed_base=0)
    return list(rollouts), tokenizer, lambda task: source.picture(task.index, epoch=task.epoch)


@pytest.fixture
def make_dumper(produced, tmp_path: Path):
    said: list[str] = []

    def make(folder: Path | None = None, **settings) -> tuple[RolloutDumper, list[str]]:
        _, tokenizer, picture_of = produced
        values = {"every_steps": 10, "num_samples": 2, "picture_of": picture_of, **settings}
        return RolloutDumper(folder or tmp_path / "rollouts", tokenizer=tokenizer, run_name="boxes", say=said.append, **values), said

    return make


def test_a_dump_is_written_at_the_first_rollouts_of_every_n_steps(make_dumper, produced, tmp_path: Path) -> None:
    dumper, said = make_dumper()
    written = [step for step in (0, 3, 9, 10, 11, 27, 29, 30) if dumper.offer(produced[0], step=step)]
    assert written == [0, 10, 27, 30]
    files = {path.name for path in (tmp_path / "rollouts").iterdir()}
    assert files == {f"step_{step:06d}.{kind}" for step in written for kind in ("json", "html")}
    assert said == []


def test_a_step_without_rollouts_leaves_the_dump_to_the_next(make_dumper, produced) -> None:
    dumper, _ = make_dumper()
    assert dumper.offer([], step=0) is None
    assert dumper.offer(produced[0], step=1) is not None


def test_no_dump_is_due_when_it_is_off(make_dumper, produced, tmp_path: Path) -> None:
    dumper, _ = make_dumper(every_steps=0)
    assert dumper.offer(produced[0], step=0) is None
    assert not (tmp_path / "rollouts").exists()


def test_the_samples_are_spread_over_the_step(make_dumper, produced) -> None:
    page = make_dumper(num_samples=3)[0].offer(produced[0], step=0)
    stored = json.loads(page.with_suffix(".json").read_text())
    assert [item["sample_id"] for item in stored["rollouts"]] == [produced[0][place].read.task.sample_id for place in (0, 2, 4)]
    assert stored["num_rollouts"] == 6
    assert "data:image/png" in page.read_text()


def test_an_image_that_is_gone_leaves_an_empty_ground_and_the_page_says_so(make_dumper, produced) -> None:
    def missing(task: RolloutTask) -> Image.Image:
        raise DataError("the image does not exist", where=task.sample_id)

    page = make_dumper(picture_of=missing)[0].offer(produced[0], step=0)
    assert page.read_text().count("The image could not be read; the boxes are drawn on an empty ground.") == 2


def test_a_folder_that_cannot_be_written_is_said_once_and_training_goes_on(make_dumper, produced, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    dumper, said = make_dumper(folder=tmp_path / "file" / "rollouts")
    assert (dumper.offer(produced[0], step=0), dumper.offer(produced[0], step=10)) == (None, None)
    assert len(said) == 1
    assert said[0].startswith("warning: rollout dumps are switched off: ")


def test_without_jinja2_there_is_the_json_and_one_warning(make_dumper, produced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    dumper, said = make_dumper()
    for step in (0, 10):
        assert dumper.offer(produced[0], step=step) == tmp_path / "rollouts" / f"step_{step:06d}.json"
    assert len(said) == 1
    assert said[0].startswith("warning: rollouts are dumped as JSON only: report: jinja2 is not installed")
