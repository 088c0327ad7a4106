"""Whole Stage-1 runs of the tiny model: repeatable, resumable to the last bit, independent of accumulation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.metrics.payload import parse_line
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import load_model
from coordexp.recipes.stage1 import run_stage1
from coordexp.training.run_folder import list_checkpoints
from coordexp.types.errors import CheckpointError, UserError

Stage1Maker = Callable[..., Loaded[TrainConfig]]
Same = Callable[[Any, Any], bool]
SPEEDS = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_det_runtime"}
DETECTION = ("custom.eval_detection.enabled=true", "custom.eval_detection.limit=3", "custom.eval_detection.max_new_tokens=12")

torch.set_num_threads(1)


def events(run: Path) -> list[dict[str, Any]]:
    """Log events without clocks."""
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    assert all(parse_line(json.dumps(line)) for line in lines)
    return [{key: value for key, value in line.items() if key not in {"time", *SPEEDS}} for line in lines if "train_runtime" not in line]


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.slow
def test_the_same_seed_gives_identical_logs_and_weights(make_stage1: Stage1Maker, same: Same) -> None:
    first, second = (run_stage1(make_stage1("custom.object_ordering=random")) for _ in range(2))
    assert first != second
    assert events(first) == events(second)
    assert same(tensors(first / "final"), tensors(second / "final"))


@pytest.mark.slow
def test_another_seed_gives_another_run(make_stage1: Stage1Maker) -> None:
    first, second = (run_stage1(make_stage1("training.max_steps=1", "training.save_strategy=no", f"training.seed={seed}")) for seed in (1, 2))
    assert events(first)[0]["loss"] != events(second)[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "augmentation"), [(2, "null"), (4, "{hflip: 0.5, crop: {probability: 0.5}, colour: {probability: 0.5}}")])
def test_a_resumed_run_equals_the_straight_one_bit_for_bit(make_stage1: Stage1Maker, step: int, augmentation: str, same: Same) -> None:
    """10 samples, 4 a step: 3 steps an epoch, so step 2 lies inside the first epoch and step 4 inside the second."""
    rhythm = ("training.max_steps=6", "training.eval_strategy=steps", "training.eval_steps=3", "training.dataloader_num_workers=2")
    settings = (*rhythm, "custom.object_ordering=random", f"custom.augmentation={augmentation}", *DETECTION)
    straight = run_stage1(make_stage1(*settings))
    cut = run_stage1(make_stage1(*settings))
    expected = events(straight)
    for checkpoint in list_checkpoints(cut):
        if int(checkpoint.name.split("-")[1]) > step:
            (checkpoint / "trainer_state.json").unlink()
    assert run_stage1(make_stage1(*settings, "training.resume_from_checkpoint=true")) == cut
    assert events(cut) == expected
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        states = [torch.load(run / "checkpoint-6" / name, weights_only=False) for run in (straight, cut)]
        assert same(*states), name
    assert same(tensors(straight / "checkpoint-6"), tensors(cut / "checkpoint-6"))
    (entry,) = json.loads((cut / "run_metadata.json").read_text())["resumes"]
    assert (entry["step"], entry["changed_settings"]) == (step, {})


@pytest.mark.slow
def test_accumulation_does_not_change_a_run(make_stage1: Stage1Maker) -> None:
    runs = [run_stage1(make_stage1(f"training.per_device_train_batch_size={size}", "training.save_strategy=no")) for size in (4, 1)]
    whole, parts = ([event["loss"] for event in events(run)] for run in runs)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert [event["accum/current_grad_steps"] for event in events(runs[1])] == [4, 4, 2, 4]


@pytest.mark.slow
def test_a_limit_of_processor_seconds_ends_the_training_and_holds_over_a_resume(make_stage1: Stage1Maker) -> None:
    run = run_stage1(make_stage1("training.max_cpu_seconds=1.0e-6"))
    spent = [parse_line(line).metrics["train_cpu_s"] for line in (run / "logging.jsonl").read_text().splitlines() if "train_cpu_s" in line]
    assert [event["step"] for event in events(run)] == [1]
    assert len(spent) == 1
    assert spent[0] > 0
    assert (run / "final" / "model.safetensors").exists()
    first = run_stage1(make_stage1("training.max_steps=2", "training.run_name=resumed"))
    state = first / "checkpoint-2" / "trainer_state.json"
    document = json.loads(state.read_text())
    counted = document["stateful_callbacks"]["CpuClockCallback"]["attributes"]
    assert counted["spent_s"] > 0
    counted["spent_s"] = 1000.0
    state.write_text(json.dumps(document))
    more = ("training.max_steps=8", "training.run_name=resumed", "training.resume_from_checkpoint=true", "training.max_cpu_seconds=1000.000001")
    assert run_stage1(make_stage1(*more)) == first
    assert [event["step"] for event in events(first)] == [1, 2, 3]


@pytest.mark.slow
def test_a_checkpoint_from_before_processor_seconds_were_counted_can_be_resumed(make_stage1: Stage1Maker) -> None:
    run = run_stage1(make_stage1("training.max_steps=2"))
    state = run / "checkpoint-2" / "trainer_state.json"
    document = json.loads(state.read_text())
    del document["stateful_callbacks"]["CpuClockCallback"]
    state.write_text(json.dumps(document))
    assert run_stage1(make_stage1("training.resume_from_checkpoint=true")) == run
    assert (run / "checkpoint-4" / "trainer_state.json").exists()


@pytest.mark.slow
def test_detection_in_evaluation_leaves_the_training_as_it_is_to_the_last_bit(make_stage1: Stage1Maker, same: Same) -> None:
    settings = ("training.eval_strategy=steps", "training.eval_steps=1", "training.gradient_checkpointing=true", "training.bf16=true")
    plain, detected = (run_stage1(make_stage1(*settings, *more)) for more in ((), DETECTION))
    without = [{key: value for key, value in event.items() if not key.startswith("eval_det_")} for event in events(detected)]
    assert without == events(plain)
    assert same(tensors(plain / "final"), tensors(detected / "final"))
    assert [event["eval_det_images"] for event in events(detected) if event["mode"] == "eval"] == [3] * 4


@pytest.mark.slow
def test_the_best_checkpoint_can_be_chosen_by_detection(make_stage1: Stage1Maker, scenes_jsonl: Path, same: Same) -> None:
    """The first step of a warm-up changes nothing, the second one with this learning rate destroys what the shipped checkpoint knows."""
    model = (f"model.model={tiny_checkpoint()}", f"custom.val_jsonl={scenes_jsonl}", "training.learning_rate=0.02", "training.warmup_steps=2")
    rhythm = ("training.eval_strategy=steps", "training.eval_steps=1", "training.save_steps=1", "training.max_steps=3")
    best = ("training.metric_for_best_model=eval_det_f1_miou", "training.load_best_model_at_end=true", "custom.eval_detection.max_new_tokens=96")
    run = run_stage1(make_stage1(*model, *rhythm, *DETECTION, *best))
    scores = [event["eval_det_f1_miou"] for event in events(run) if event["mode"] == "eval"]
    assert scores[0] > max(scores[1:])
    assert json.loads((run / "checkpoint-3" / "trainer_state.json").read_text())["best_metric"] == scores[0]
    assert same(tensors(run / "final"), tensors(run / "checkpoint-1"))


@pytest.mark.slow
def test_two_processes_detect_what_one_detects(
    make_stage1: Stage1Maker, scenes_jsonl: Path, tmp_path: Path, train_with_two_processes: Callable[..., Path]
) -> None:
    settings = ["training.max_steps=1", "training.eval_strategy=steps", "training.eval_steps=1", "training.eval_on_start=true", "training.save_strategy=no"]
    overrides = [f"model.model={tiny_checkpoint()}", f"custom.val_jsonl={scenes_jsonl}", *settings, *DETECTION, "custom.eval_detection.max_new_tokens=96"]
    alone = run_stage1(make_stage1(*overrides))
    both = train_with_two_processes(tmp_path / "stage1.yaml", *overrides)
    first, second = (next(event for event in events(run) if "eval_det_f1" in event) for run in (alone, both))
    found = {key for key in first if key.startswith("eval_det_")}
    assert {key: first[key] for key in found} == {key: second[key] for key in found}
    assert first["eval_det_f1"] > 0


@pytest.mark.slow
def test_a_run_leaves_what_was_promised(make_stage1: Stage1Maker, same: Same) -> None:
    loaded = make_stage1("training.save_total_limit=1")
    run = run_stage1(loaded, argv=("coordexp", "train"))
    assert run.parent.name.startswith("v0-")
    assert run.name == "boxes"
    metadata = json.loads((run / "run_metadata.json").read_text())
    assert metadata["batch"] == {
        "effective_batch_size": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "steps": 4,
        "steps_per_epoch": 3,
    }
    assert metadata["data"]["train"]["records"] == 10
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-4"]
    assert list((run / "runs").glob("events.out.tfevents.*"))
    assert not list(run.rglob("*.bin"))
    for folder in ("checkpoint-4", "final"):
        opened = load_model(run / folder)
        assert same(dict(opened.model.state_dict())["lm_head.weight"], tensors(run / "final")["model.language_model.embed_tokens.weight"])


@pytest.mark.slow
def test_training_lowers_the_loss(make_stage1: Stage1Maker) -> None:
    run = run_stage1(make_stage1("training.max_steps=20", "training.effective_batch_size=10", "training.logging_steps=5", "training.save_strategy=no"))
    losses = [event["loss"] for event in events(run)]
    assert losses[-1] < 0.7 * losses[0]
    assert not (run / "final").exists()


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_resume(make_stage1: Stage1Maker, same: Same) -> None:
    run = run_stage1(make_stage1("training.max_steps=2"))
    before = (run / "logging.jsonl").read_bytes()
    (run / "final").rename(run / "moved")
    assert run_stage1(make_stage1("training.max_steps=2", f"training.resume_from_checkpoint={run}/checkpoint-2")) == run
    assert (run / "logging.jsonl").read_bytes() == before
    assert same(tensors(run / "final"), tensors(run / "moved"))


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        pytest.param(("training.resume_from_checkpoint=true",), CheckpointError, "no run 'boxes' with a complete checkpoint", id="resume"),
        pytest.param(("global_max_length=20",), UserError, "train:1: the sample has .* more than global_max_length 20", id="too-long"),
        pytest.param(("training.run_name=a/b",), UserError, r"training\.run_name", id="run-name"),
        pytest.param((*DETECTION, "training.eval_strategy=epoch", "custom.eval_detection.limit=1"), UserError, "the 1 validation .* no object", id="no-object"),
        pytest.param(("training.label_smoothing_factor=0.1",), UserError, r"training\.label_smoothing_factor", id="ignored"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_written(
    make_stage1: Stage1Maker, tmp_path: Path, overrides: tuple[str, ...], error: type[UserError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_stage1(make_stage1(*overrides))
    assert not (tmp_path / "runs").exists()
