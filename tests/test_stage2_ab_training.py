"""Regression anchor of `stage2_ab_training`: real short runs of the shipped tiny checkpoint on drawn scenes, rollouts by transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor

from coordexp.batching.packed import PackedCollator
from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.losses.rows import OutputHead, RowQuery, RowResult, plain_rows
from coordexp.losses.slots import SlotLossWeights
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import RunKind
from coordexp.recipes.rollouts import target_settings
from coordexp.recipes.stage1 import build_trainer, run_stage1
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.recipes.stage2 import build_reader
from coordexp.rollout.producer import RolloutProducer
from coordexp.targets.supervision import stage2_ab_table
from coordexp.training.channels import ChannelSchedule
from coordexp.training.stage2_objective import Stage2Objective
from coordexp.types.errors import ConfigError, DataError, UserError
from coordexp.types.progress import NoProgress
from coordexp.types.sequences import Pack, Provenance

torch.set_num_threads(1)
Stage1Maker = Callable[..., Loaded[TrainConfig]]

NOT_REPEATABLE = ("time", "time/", "train_", "runtime", "per_second", "gen_tokens_per_s")
"""Parts of the keys of clocks."""


def events(run: Path, mode: str = "train") -> list[dict[str, Any]]:
    """Log events of one mode without clocks."""
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["mode"] == mode and "train_runtime" not in line]
    return [{key: value for key, value in line.items() if not any(part in key for part in NOT_REPEATABLE)} for line in kept]


def weights(run: Path, name: str = "final") -> dict[str, Tensor]:
    return load_file(run / name / "model.safetensors")


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, []), (0.25, [3, 7, 11]), (0.3, [3, 6, 9]), (0.5, [1, 3, 5, 7, 9, 11]), (1.0, list(range(12)))])
def test_the_schedule_spreads_channel_b_evenly(ratio: float, expected: list[int]) -> None:
    schedule = ChannelSchedule(ratio)
    assert [step for step in range(12) if schedule.is_b(step)] == expected
    assert all(schedule.num_a(step) + schedule.num_b(step) == step for step in range(100))
    assert all(schedule.num_b(step) == sum(schedule.is_b(before) for before in range(step)) for step in range(100))


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="b_ratio must be in"):
        ChannelSchedule(ratio)


@pytest.mark.slow
def test_steps_follow_the_schedule_and_log_the_keys_of_their_channel(make_ab: Stage1Maker) -> None:
    run = run_stage1(make_ab("training.eval_strategy=steps", "training.eval_steps=2", "training.metric_for_best_model=eval_rollout_f1"))
    steps = events(run)
    assert [step["stage2/channel_b"] for step in steps] == [0, 1, 0, 1]
    assert [step["stage2/channel_a"] for step in steps] == [1, 0, 1, 0]
    assert [step["stage2_ab/b_ratio_realized"] for step in steps] == [0, 0.5, pytest.approx(1 / 3), 0.5]
    assert [step["train/samples_seen"] for step in steps] == [4, 8, 11, 14]
    for step in steps:
        own, other = ("loss/B/ce", "loss/A/ce") if step["stage2/channel_b"] else ("loss/A/ce", "loss/B/ce")
        assert own in step
        assert other not in step
        assert step["loss"] == pytest.approx(step["loss/ce"] + step["loss/coord"], rel=1e-5)
        assert ("rollout/f1" in step) == bool(step["stage2/channel_b"])
    assert steps[1]["rollout/gen_new_tokens_total"] > 0
    assert steps[1]["rollout/matched_for_supervision"] > 0
    evaluations = events(run, "eval")
    assert evaluations[-1]["eval_rollout_f1"] > 0.5
    assert evaluations[-1]["eval_rollout_gt_objects"] == steps[1]["rollout/gt_objects"] + steps[3]["rollout/gt_objects"]
    assert "eval_loss" not in evaluations[-1]
    state = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_metric"] == max(event["eval_rollout_f1"] for event in evaluations)


@pytest.mark.slow
def test_every_key_of_a_sync_run_is_registered_and_logged(make_ab: Stage1Maker) -> None:
    run = run_stage1(make_ab("training.eval_strategy=steps", "training.eval_steps=4"))
    logged = {key for line in (run / "logging.jsonl").read_text().splitlines() for key in json.loads(line)} - {"mode", "schema_version", "step", "time"}
    specs = {f"eval_{spec.key}" if not spec.in_train else spec.key: spec for spec in REGISTRY}
    assert {key for key in logged if key not in specs and key.removeprefix("eval_") not in specs} == set()
    needed = {key for key, spec in specs.items() if RunKind.STAGE2_AB in spec.kinds and not spec.needs}
    teacher_forced = {"eval_loss", "eval_samples_per_second", "eval_steps_per_second", "samples_per_second", "steps_per_second", "epoch"}
    assert needed - logged - teacher_forced == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "packing", [(), ("training.packing=true", "global_max_length=400", "training.per_device_train_batch_size=1")], ids=["padded", "packed"]
)
def test_a_run_resumed_inside_the_schedule_equals_the_straight_one_bit_for_bit(make_ab: Stage1Maker, packing: tuple[str, ...]) -> None:
    settings = ("training.max_steps=6", "training.save_steps=3", *packing)
    straight = run_stage1(make_ab(*settings))
    expected, final = events(straight), weights(straight)
    resumed = run_stage1(make_ab(*settings, f"training.resume_from_checkpoint={straight}/checkpoint-3"))
    assert events(resumed) == expected
    assert all(torch.equal(value, final[name]) for name, value in weights(resumed).items())


@pytest.mark.slow
def test_two_processes_with_unequal_rollouts_equal_one(make_ab: Stage1Maker, tmp_path: Path, train_with_two_processes: Callable[..., Path]) -> None:
    settings = (
        "training.max_steps=2",
        "training.save_steps=2",
        "training.effective_batch_size=3",
        "training.per_device_train_batch_size=1",
        "training.optim=sgd",
    )
    loaded = make_ab(*settings)
    alone = run_stage1(loaded)
    both = train_with_two_processes(loaded.path, *loaded.overrides)
    first, second = events(alone), events(both)
    same = ("loss", "loss/B/ce", "loss/B/coord", "loss/A/coord", "rollout/f1", "rollout/fn_appended", "rollout/gen_new_tokens_p90", "train/samples_total")
    for one, two in zip(first, second, strict=True):
        assert {key: two.get(key) for key in same} == {key: pytest.approx(one[key], abs=1e-5) if key in one else None for key in same}
    assert max((value - weights(both)[name]).abs().max().item() for name, value in weights(alone).items()) < 1e-6


class WholeLogits:
    """Reads rows through all logits and keeps these, with their gradient."""

    def __init__(self) -> None:
        self.logits: Tensor | None = None

    def __call__(self, hidden: Tensor, head: OutputHead, query: RowQuery, *, coord_ids: Tensor) -> RowResult:
        outer = self

        class Kept:
            def logits(self, hidden: Tensor) -> Tensor:
                outer.logits = head.logits(hidden)
                outer.logits.retain_grad()
                return outer.logits

            def products(self, hidden: Tensor) -> None:
                return None

        return plain_rows(hidden, Kept(), query, coord_ids=coord_ids)


@pytest.mark.slow
def test_unmatched_predictions_have_exactly_no_gradient_and_geometry_only_matched_and_appended_slots(make_ab: Stage1Maker) -> None:
    config = make_ab().config
    parts = prepare_stage1(config)
    reader = build_reader(config, parts, say=print)
    tasks = [parts.train.rollout_task(index, epoch=0) for index in range(len(parts.train)) if len(parts.train.records[index].objects) >= 2]
    # every second annotation is taken away: what the model finds there is unmatched; the first task asks for an object that is not there
    tasks = [replace(task, objects=task.objects[::2]) for task in tasks]
    rollouts, _ = RolloutProducer(reader, settings=target_settings(config)).produce(tasks, seed_base=0)
    assert sum(len(rollout.target.match.unmatched) for rollout in rollouts) >= 2
    assert sum(len(rollout.target.match.pairs) for rollout in rollouts) >= 2
    collator = PackedCollator(image_token_id=int(parts.loaded_model.model.config.image_token_id), merge_size=2, capacity=4096)
    batch = collator(Pack(segments=tuple(rollout.segment for rollout in rollouts)))
    columns = batch.model_inputs["logits_to_keep"]
    supervision = replace(batch.supervision, text_rows=columns[batch.supervision.text_rows], coord_rows=columns[batch.supervision.coord_rows])
    inputs = {name: value for name, value in batch.model_inputs.items() if name != "logits_to_keep"}
    whole = replace(batch, model_inputs=inputs, supervision=supervision)
    rows = WholeLogits()
    objective = Stage2Objective(parts.loaded_model.coord_vocab.ids, weights=SlotLossWeights(bbox_smoothl1=1, bbox_ciou=1), reduction="split", rows=rows)
    (objective.run(parts.loaded_model.model, whole).sums / objective.denominators(whole).clamp_min(1e-8)).sum().backward()
    assert rows.logits is not None
    assert rows.logits.grad is not None
    has_gradient = (rows.logits.grad[0] != 0).any(dim=-1)
    start = 0
    for rollout in rollouts:
        segment, offset = rollout.segment, rollout.segment.length - len(rollout.target.provenance)
        predicted_by = start + offset - 1
        coord_positions = {p for slot in segment.slots for p in slot.positions}
        for place, provenance in enumerate(rollout.target.provenance):
            row, position = predicted_by + place, offset + place
            if provenance in (Provenance.UNMATCHED, Provenance.DROPPED):
                assert not has_gradient[row]
            if position in coord_positions:
                assert has_gradient[row]
                assert provenance in (Provenance.MATCHED, Provenance.APPENDED)
        start += segment.length


@pytest.mark.slow
def test_channel_a_alone_needs_no_rollouts(make_ab: Stage1Maker) -> None:
    steps = events(run_stage1(make_ab("stage2_ab.schedule.b_ratio=0", "training.max_steps=2", "stage2_ab.softctx_grad_mode=em_detach")))
    assert [step["stage2/channel_a"] for step in steps] == [1, 1]
    assert all(step["loss/A/bbox_ciou"] > 0 for step in steps)
    assert not any(key.startswith("rollout/") for step in steps for key in step)


@pytest.mark.slow
def test_channel_b_settings_change_the_target_and_nothing_breaks(make_ab: Stage1Maker) -> None:
    repairs = ("prefix=clean", "fn_position=sorted", "cut_out_of_sequence_keys=true", "cut_surplus=true", "geometry_reduction=pooled", "key_ce=on")
    settings = [f"stage2_ab.channel_b.{setting}" for setting in repairs]
    steps = events(run_stage1(make_ab("stage2_ab.schedule.b_ratio=1", "training.max_steps=2", *settings, "stage2_ab.channel_b.rollouts_per_step=3")))
    assert [step["stage2/raw_rollouts"] for step in steps] == [3, 3]
    assert all(step["loss/B/ce"] > 0 for step in steps)


@pytest.mark.slow
def test_adapters_are_trained_on_rollouts_of_the_adapted_model(make_ab: Stage1Maker) -> None:
    run = run_stage1(make_ab("training.max_steps=2", "tuner.train_type=lora", "tuner.use_dora=true", "custom.coord_offset.enabled=true"))
    assert [step["stage2/channel_b"] for step in events(run)] == [0, 1]
    assert (run / "final" / "model.safetensors").is_file()


GUARDS = [
    pytest.param(("data.geometry_kinds=[bbox_2d,poly]",), "data.geometry_kinds", "decodes boxes only", id="polygons"),
    pytest.param(("custom.coord_tokens.enabled=false",), "custom.coord_tokens.enabled", "read by coordinate tokens", id="text-mode"),
    pytest.param(("stage2_ab=null",), "stage2_ab", "is required by custom.trainer_variant", id="no-section"),
    pytest.param(("stage2_ab.schedule.b_ratio=1.5",), "stage2_ab.schedule.b_ratio", "1", id="ratio"),
    pytest.param(("stage2_ab.schedule.pattern=AB",), "stage2_ab.schedule.pattern", "write b_ratio", id="pattern"),
    pytest.param(("rollout_matching.temperature=1",), "rollout_matching.temperature", "write decoding.temperature", id="temperature"),
    pytest.param(("rollout_matching.rollout_buffer=4",), "rollout_matching.rollout_buffer", "remove it", id="buffer"),
    pytest.param(("training.eval_packing=true", "global_max_length=400"), "training.eval_packing", "no teacher-forced pass", id="eval-packing"),
    pytest.param(("custom.eval_detection.enabled=true",), "custom.eval_detection.enabled", "evaluation of Stage-2 is rollouts", id="detection"),
    pytest.param(
        ("stage2_ab.channel_b.fn_position=sorted", "custom.object_ordering=random"), "stage2_ab.channel_b.fn_position", "is sorted", id="sorted-in-random-order"
    ),
    pytest.param(
        ("stage2_ab.coord_ce_weight=0", "stage2_ab.bbox_smoothl1_weight=0", "stage2_ab.bbox_ciou_weight=0"), "stage2_ab", "no loss teaches", id="no-losses"
    ),
    pytest.param(("custom.trainer_variant=null",), "stage2_ab", "is read only by custom.trainer_variant", id="no-variant"),
]


@pytest.mark.parametrize(("overrides", "key", "said"), GUARDS)
def test_what_cannot_work_is_said_before_anything_is_opened(make_ab: Stage1Maker, overrides: tuple[str, ...], key: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_ab(*overrides)
    assert key in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.slow
def test_a_rollout_that_does_not_fit_into_a_row_is_named_with_the_way_out(make_ab: Stage1Maker, scenes_jsonl: Path) -> None:
    records = [json.loads(line) for line in scenes_jsonl.read_text().splitlines()]
    for record in records:
        # nothing is where the annotation says: answer and annotation both stand in the target
        record["objects"] = [{"desc": item["desc"], "bbox_2d": [0, 990 - 2 * place, 1, 999]} for place, item in enumerate(record["objects"])]
    elsewhere = scenes_jsonl.parent / "elsewhere.jsonl"
    elsewhere.write_text("".join(json.dumps(record) + "\n" for record in records))
    data = f"custom.train_jsonl={elsewhere}"
    source = prepare_stage1(make_ab(data).config).train
    longest = max(source.encode(index, epoch=0).length for index in range(len(source)))
    rows = ("training.packing=true", "training.per_device_train_batch_size=1", f"global_max_length={longest}", "stage2_ab.schedule.b_ratio=1")
    with pytest.raises(DataError, match=rf"tokens.*more than global_max_length {longest}") as caught:
        run_stage1(make_ab(*rows, data, "stage2_ab.channel_b.rollouts_per_step=7"))
    assert "rollout_matching.max_new_tokens" in str(caught.value)


@pytest.mark.slow
def test_annotated_polygons_stop_the_run_before_it_starts(make_ab: Stage1Maker, tmp_path: Path, scenes_jsonl: Path) -> None:
    record = json.loads(scenes_jsonl.read_text().splitlines()[0])
    record["images"] = [str(Path(record["images"][0]).name)]
    record["objects"] = [{"desc": "red circle", "poly": ["<|coord_10|>", "<|coord_10|>", "<|coord_90|>", "<|coord_10|>", "<|coord_50|>", "<|coord_90|>"]}]
    record["coord_space"] = "token"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "data" / record["images"][0]).write_bytes((scenes_jsonl.parent / record["images"][0]).read_bytes())
    with pytest.raises(UserError, match="the geometry is poly"):
        run_stage1(make_ab(f"custom.train_jsonl={tmp_path}/data/train.jsonl"))
    assert not (tmp_path / "runs").exists()


def test_the_table_of_channel_b_leaves_unmatched_predictions_alone() -> None:
    row = stage2_ab_table().unmatched
    assert (row.structure, row.key, row.desc, row.coord, row.geometry) == (0, 0, 0, 0, 0)


@pytest.mark.slow
def test_the_trainer_evaluates_without_teacher_forcing(make_ab: Stage1Maker, tmp_path: Path) -> None:
    config = make_ab("training.eval_strategy=steps", "training.eval_steps=2").config
    parts = prepare_stage1(config)
    trainer, loader = build_trainer(config, parts, folder=tmp_path / "run", progress=NoProgress(), process=PartialState(cpu=True))
    loader.close()
    metrics = trainer.evaluate()
    assert metrics["eval_rollout_f1"] > 0.5
    assert metrics["eval_rollout_matched"] + metrics["eval_rollout_fn"] == metrics["eval_rollout_gt_objects"]
    assert "eval_loss" not in metrics


def test_rollouts_are_dumped_into_the_run_folder_with_the_pictures_of_their_records(make_ab: Stage1Maker) -> None:
    """Channel B runs at steps 1 and 3: the dump that is due at step 0 is that of step 1, the next is due at step 2."""
    run = run_stage1(make_ab("training.save_strategy=no", "rollout_matching.dump.every_steps=2", "rollout_matching.dump.num_samples=2"))
    assert {path.name for path in (run / "rollouts").iterdir()} == {f"step_{step:06d}.{kind}" for step in (1, 3) for kind in ("json", "html")}
    dump = json.loads((run / "rollouts" / "step_000001.json").read_text())
    assert (dump["num_rollouts"], len(dump["rollouts"])) == (4, 2)
    page = (run / "rollouts" / "step_000001.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "could not be read" not in page
