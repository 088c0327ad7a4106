"""A rollout as a person reads it: each token of the answer with its fate, each token of the target with what teaches it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from coordexp.rollout.dump import describe_rollout
from coordexp.rollout.producer import TargetSettings
from coordexp.targets.supervision import rollout_matching_table, stage2_ab_table
from coordexp.types.dumps import Fate, RolloutDump, Supervision
from coordexp.types.records import DetObject
from coordexp.types.sequences import Provenance

STRAY = DetObject("purple star", "bbox_2d", (990, 990, 999, 999))


@pytest.fixture
def task(tasks):
    return next(task for task in tasks if len(task.objects) == 3)


@pytest.fixture
def describe(make_producer, tokenizer, task):
    def described(answer: str, settings: TargetSettings | None = None):
        (rollout,), _ = make_producer({task.sample_id: answer}, settings=settings).produce([task], seed_base=0)
        return rollout, describe_rollout(rollout, tokenizer=tokenizer)

    return described


def text_of(tokens, **wanted) -> str:
    return "".join(token.text for token in tokens if all(getattr(token, name) == value for name, value in wanted.items()))


def test_each_token_of_an_answer_has_its_fate(describe, task, write) -> None:
    """A matched object, one matched to nothing, one without coordinates, and one that breaks off."""
    answer = write([task.objects[0], STRAY])[:-1] + ', "object_3": {"desc": "noise"}, "object_4": {"desc": "cut'
    _, shown = describe(answer)
    assert text_of(shown.answer) == answer
    first, second = write([task.objects[0]])[1:-1], write([STRAY])[1:-1].replace("object_1", "object_2")
    assert text_of(shown.answer, fate=Fate.MATCHED) in {first, f"{first}, "}
    assert text_of(shown.answer, fate=Fate.UNMATCHED).strip(", ") == second
    assert text_of(shown.answer, fate=Fate.DROPPED).strip(", ") == '"object_3": {"desc": "noise"}'
    assert text_of(shown.answer, fate=Fate.CUT).strip(", ") == '"object_4": {"desc": "cut'
    assert [(item.key, item.reason, item.is_in_prefix) for item in shown.drops] == [("object_3", "missing_geom", True), ("object_4", "key_invalid", False)]
    assert [item.partner for item in shown.predictions] == [0, None]
    assert [item.partner for item in shown.annotations] == [0, None, None]


def test_an_answer_that_closed_by_itself_was_not_cut(describe, task, write) -> None:
    _, shown = describe(write(task.objects))
    assert text_of(shown.answer, fate=Fate.CUT) == ""
    assert all(token.is_kept for token in shown.answer)


@pytest.mark.parametrize("answer", ["", "I see nothing.", "{"])
def test_an_answer_without_any_object_is_shown(describe, answer: str) -> None:
    _, shown = describe(answer)
    assert text_of(shown.answer) == answer
    assert {token.provenance for token in shown.target} == {Provenance.APPENDED, Provenance.CLOSURE}


def test_an_entry_that_a_clean_target_leaves_out_is_marked(describe, task, write) -> None:
    answer = write([task.objects[0], task.objects[0], *task.objects[1:]])
    _, shown = describe(answer, TargetSettings(table=stage2_ab_table(), prefix="clean"))
    assert '"object_2"' in text_of(shown.answer, is_kept=False)
    assert '"object_1"' in text_of(shown.answer, is_kept=True)


def test_each_token_of_a_target_says_what_teaches_it(describe, task, write) -> None:
    rollout, shown = describe(write([task.objects[0], STRAY]))
    assert text_of(shown.target) == rollout.target.text
    descs = {item.desc for item in task.objects[1:]}
    assert text_of(shown.target, supervision=Supervision.DESC) == "".join(item.desc for item in task.objects if item.desc in descs)
    assert text_of(shown.target, provenance=Provenance.UNMATCHED) == text_of(shown.target, provenance=Provenance.UNMATCHED, supervision=Supervision.NONE)
    goals = [token.target_bin for token in shown.target if token.supervision is Supervision.GEOMETRY]
    assert goals == [float(value) for item in task.objects for value in item.points]
    closing = [(token.supervision, token.weight) for token in shown.target if token.role in {"close", "end"}]
    assert closing == [(Supervision.STRUCTURE, 1.0)] * len(closing)


def test_rollout_matching_teaches_slots_and_the_closure_only(describe, task, write) -> None:
    _, shown = describe(write([task.objects[0], STRAY]), TargetSettings(table=rollout_matching_table()))
    taught = {(token.supervision, token.provenance) for token in shown.target if token.supervision is not Supervision.NONE}
    geometry = {(Supervision.GEOMETRY, Provenance.MATCHED), (Supervision.GEOMETRY, Provenance.APPENDED)}
    assert taught == {*geometry, (Supervision.STRUCTURE, Provenance.CLOSURE)}


def test_half_a_character_is_spelled_in_bytes(describe, task, write) -> None:
    """The tiny tokenizer has no token for the whole letter."""
    _, shown = describe(write([replace(task.objects[0], desc="\U0001f98a")]))
    parts = [token.text for token in shown.answer if token.text.startswith("\\x")]
    assert b"".join(bytes.fromhex(part.replace("\\x", "")) for part in parts).decode() == "\U0001f98a"


def test_a_dump_is_plain_json(describe, task, write) -> None:
    _, shown = describe(write(task.objects))
    stored = json.loads(json.dumps(RolloutDump(step=3, rollouts=(shown,), num_rollouts=8).to_json()))
    assert (stored["schema_version"], stored["step"], stored["num_rollouts"]) == (1, 3, 8)
    assert set(stored["rollouts"][0]["target"][0]) == {"id", "text", "role", "provenance", "supervision", "weight", "target_bin"}
