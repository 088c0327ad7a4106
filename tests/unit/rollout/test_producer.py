"""From tasks to segments: by the real tiny model, and by a backend that says exactly what a case needs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from coordexp.codec.pieces import decode_pieces
from coordexp.generation.seeds import rollout_seed_base
from coordexp.rollout.producer import MatchSettings, TargetSettings
from coordexp.targets.rollout import RolloutTargetOptions
from coordexp.targets.supervision import stage2_ab_table
from coordexp.types.errors import BackendError, DataError
from coordexp.types.records import DetObject
from coordexp.types.rollouts import GenerationSettings
from coordexp.types.sequences import Provenance, Role

SAMPLED = GenerationSettings(max_new_tokens=40, temperature=1.0)


def moved(item: DetObject, by: int = 0, **changes) -> DetObject:
    return replace(item, points=tuple(min(999, int(value) + by) for value in item.points), **changes)


@pytest.fixture
def task(tasks):
    """A scene with three objects."""
    return next(task for task in tasks if len(task.objects) == 3)


def test_the_model_rolls_out_scenes_and_its_answers_become_segments(make_producer, tasks, tokenizer, shipped) -> None:
    rollouts, report = make_producer().produce(tasks, seed_base=rollout_seed_base(42, global_step=3))
    assert [rollout.read.sample.seed for rollout in rollouts] == [42 + 3 * 1000003 + number for number in range(len(tasks))]
    for task, rollout in zip(tasks, rollouts, strict=True):
        segment = rollout.segment
        assert segment.sample_id == task.sample_id
        num_prompt = len(task.prompt.token_ids)
        assert segment.token_ids[:num_prompt].tolist() == list(rollout.read.sample.prompt_ids)
        assert not segment.ce_weight[:num_prompt].any()
        own = rollout.read.sample.response_ids
        kept = segment.token_ids[num_prompt : num_prompt + len(rollout.read.parsed.prefix_ids) - 1].tolist()
        assert kept == list(own[: len(kept)])
        for slot in segment.slots:
            assert all(shipped.coord_vocab.bin_of(int(segment.token_ids[position])) is not None for position in slot.positions)
    # the shipped model knows its scenes: this is no test on garbage
    assert sum(answer.num_matched for answer in report.answers) >= 0.5 * sum(len(task.objects) for task in tasks)
    assert report.generate_s > 0 < report.parse_match_s
    assert report.encode_s > 0


def test_rollouts_split_over_ranks_are_those_of_one_process(make_reader, tasks) -> None:
    reader = make_reader(generation=SAMPLED)
    whole, _ = reader.read(tasks, seed_base=7)
    first, _ = reader.read(tasks[:3], seed_base=7)
    second, _ = reader.read(tasks[3:], seed_base=7, first=3)
    ids = [rollout.sample.response_ids for rollout in whole]
    assert ids == [rollout.sample.response_ids for rollout in (*first, *second)]
    other, _ = reader.read(tasks, seed_base=8)
    assert ids != [rollout.sample.response_ids for rollout in other]


def test_a_perfect_answer_trains_on_what_stage1_trains_on(make_producer, source, tasks, write) -> None:
    answers = {task.sample_id: write(task.objects) for task in tasks}
    rollouts, report = make_producer(answers).produce(tasks, seed_base=0)
    for index, rollout in enumerate(rollouts):
        stage1 = source.encode(index, epoch=0)
        assert rollout.segment.token_ids.tolist() == stage1.token_ids.tolist()
        assert [slot.positions for slot in rollout.segment.slots] == [slot.positions for slot in stage1.slots]
        assert [slot.target_bins for slot in rollout.segment.slots] == [slot.target_bins for slot in stage1.slots]
    assert all(target.num_appended == target.num_excluded == 0 for target in report.targets)


def test_no_task_asks_the_backend_for_nothing(make_producer) -> None:
    rollouts, report = make_producer({}).produce([], seed_base=0)
    assert (rollouts, report.answers, report.targets) == ((), (), ())


def test_a_backend_that_used_another_prompt_is_found_out(make_reader, task, write) -> None:
    reader = make_reader({task.sample_id: write(task.objects)}, extra_prompt_ids=(5,))
    with pytest.raises(BackendError) as error:
        reader.read([task], seed_base=0)
    sentence = f"rollout of {task.sample_id}: the backend's prompt differs from the training encoding at token {len(task.prompt.token_ids)}: "
    assert str(error.value).startswith(sentence)


def test_an_answer_that_breaks_off_keeps_what_is_complete_and_gets_the_rest_appended(make_producer, task, write) -> None:
    text = write(task.objects)
    broken = text[: text.index('"object_3"') + 25]
    (rollout,), report = make_producer({task.sample_id: broken}).produce([task], seed_base=0)
    assert rollout.read.parsed.is_truncated
    assert [slot.provenance for slot in rollout.segment.slots] == [Provenance.MATCHED, Provenance.MATCHED, Provenance.APPENDED]
    assert rollout.target.text == text + "<|im_end|>"
    assert (report.answers[0].num_pred, report.answers[0].num_matched, report.targets[0].num_appended) == (2, 2, 1)


@pytest.mark.parametrize("placeholder", ["<|image_pad|>", "<|video_pad|>"])
def test_an_answer_with_a_placeholder_of_an_image_is_read_up_to_it(placeholder, make_producer, task, write, tokenizer) -> None:
    whole = write(task.objects)
    at = whole.index('"object_3"') + 20
    (rollout,), report = make_producer({task.sample_id: whole[:at] + placeholder + whole[at:]}).produce([task], seed_base=0)
    assert len(rollout.read.parsed.objects) == 2
    assert report.answers[0].is_truncated
    own = rollout.segment.token_ids[len(task.prompt.token_ids) :].tolist()
    assert tokenizer.encode(placeholder).ids[0] not in own
    assert decode_pieces(own, tokenizer=tokenizer).text.startswith(whole[: whole.index(', "object_3"')])


def test_a_segment_that_is_too_long_names_the_settings_to_change(make_producer, task, write) -> None:
    settings = TargetSettings(table=stage2_ab_table(), max_length=len(task.prompt.token_ids) + 20)
    with pytest.raises(DataError) as error:
        make_producer({task.sample_id: write(task.objects)}, settings=settings).produce([task], seed_base=0)
    assert str(error.value).startswith(f"{task.sample_id}: the rollout with its target has ")
    assert "raise global_max_length, lower rollout_matching.max_new_tokens" in str(error.value)


def test_how_well_the_model_did_is_measured_on_all_of_its_answer_and_the_target_is_made_from_what_is_kept(make_producer, task, write) -> None:
    """The second object repeats the first: it is a false positive of the model, and a clean target leaves it out."""
    first, second, third = task.objects
    answer = write([first, first, second, third])
    clean = TargetSettings(table=stage2_ab_table(), prefix="clean")
    (raw,), raw_report = make_producer({task.sample_id: answer}).produce([task], seed_base=0)
    (cleaned,), clean_report = make_producer({task.sample_id: answer}, settings=clean).produce([task], seed_base=0)
    assert (raw_report.answers, len(raw.kept.objects), len(cleaned.kept.objects)) == (clean_report.answers, 4, 3)
    assert raw_report.answers[0].num_pred - raw_report.answers[0].num_matched == 1
    assert Provenance.UNMATCHED in raw.target.provenance
    assert Provenance.UNMATCHED not in cleaned.target.provenance


def test_a_match_that_leaves_the_prefix_is_counted_as_excluded(make_producer, task, write) -> None:
    """Keys go 1, 4, 5: with the cut at the first one out of turn, the second and third object are appended instead."""
    answer = write(task.objects).replace("object_2", "object_4").replace("object_3", "object_5")
    settings = TargetSettings(table=stage2_ab_table(), cut_out_of_sequence_keys=True)
    _, report = make_producer({task.sample_id: answer}, settings=settings).produce([task], seed_base=0)
    assert (report.answers[0].num_matched, report.targets[0].num_supervised) == (3, 1)
    assert (report.targets[0].num_excluded, report.targets[0].num_appended) == (2, 2)


def test_settings_of_matching_and_target_reach_their_functions(make_producer, task, write) -> None:
    answer = {task.sample_id: write([moved(item, 40) for item in task.objects])}
    _, loose = make_producer(answer, matching=MatchSettings(gate=0.05)).produce([task], seed_base=0)
    _, strict = make_producer(answer, matching=MatchSettings(gate=0.99)).produce([task], seed_base=0)
    assert (loose.answers[0].num_matched, strict.answers[0].num_matched) == (3, 0)
    assert strict.answers[0].num_gated == strict.answers[0].num_candidates == 9
    assert make_producer(answer, matching=MatchSettings(top_k=2)).produce([task], seed_base=0)[1].answers[0].num_candidates == 6
    surplus = {task.sample_id: write([*task.objects, moved(task.objects[0], 1), moved(task.objects[0], 2)])}
    options = TargetSettings(table=stage2_ab_table(), options=RolloutTargetOptions(cut_surplus=True))
    (cut,), report = make_producer(surplus, settings=options).produce([task], seed_base=0)
    assert (len(cut.kept.objects), len(cut.target.kept.objects), report.answers[0].num_pred) == (5, 3, 5)


def test_an_unmatched_prediction_is_not_taught_in_its_segment(make_producer, task, write) -> None:
    stray = DetObject("purple star", "bbox_2d", (990, 990, 999, 999))
    (rollout,), _ = make_producer({task.sample_id: write([*task.objects, stray])}).produce([task], seed_base=0)
    offset = len(task.prompt.token_ids)
    is_stray = np.array([provenance is Provenance.UNMATCHED for provenance in rollout.target.provenance])
    assert is_stray.sum() > 10
    assert not rollout.segment.ce_weight[offset:][is_stray].any()
    assert not {position - offset for slot in rollout.segment.slots for position in slot.positions} & set(np.flatnonzero(is_stray).tolist())
    is_closing = np.isin(rollout.segment.roles[offset:], [Role.CLOSE, Role.END])
    assert rollout.segment.ce_weight[offset:][is_closing].all()


def test_rolling_out_never_loads_torch() -> None:
    code = "import sys, coordexp.rollout.producer, coordexp.rollout.measures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
