"""Asynchronous Stage-2 on the shipped tiny model: equal to the synchronous form where it must be, within the window elsewhere, and alive without servers."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import RunKind
from coordexp.metrics.stage2 import ASYNC_SETTING
from coordexp.recipes.stage1 import run_stage1
from coordexp.training.channels import ChannelSchedule
from coordexp.types.errors import BackendError, ConfigError, DataError

from .async_runs import ASYNC, AsyncRun, CopyServer, run_async

torch.set_num_threads(1)

Stage1Maker = Callable[..., Loaded[TrainConfig]]
CLOCKS = ("time", "train_", "runtime", "per_second", "gen_tokens_per_s")
LOCKSTEP = ("stage2_ab.channel_b.wait_for_b=true", f"{ASYNC}version_window=0", f"{ASYNC}sync_every_steps=1")
SAMPLED = ("rollout_matching.decoding.temperature=1.0",)


@pytest.fixture
def make_ab(make_ab: Stage1Maker) -> Stage1Maker:
    """With short answers."""
    return lambda *overrides: make_ab("training.report_to=none", "rollout_matching.max_new_tokens=64", *overrides)


def events(run: Path, mode: str = "train") -> list[dict[str, Any]]:
    """Log events without clocks."""
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["mode"] == mode and "train_runtime" not in line]
    return [{key: value for key, value in line.items() if not any(part in key for part in CLOCKS)} for line in kept]


def without_async(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in step.items() if not key.startswith("stage2_ab/async/")} for step in steps]


def column(run: AsyncRun, key: str) -> list[float]:
    return [step[f"stage2_ab/async/{key}"] for step in events(run.folder)]


def assert_within_window(run: AsyncRun, window: int) -> None:
    """From what was logged: every Channel B step trained on packs of a version inside the window."""
    used = [step for step in events(run.folder) if step["stage2_ab/async/step_kind_b"]]
    assert used
    for step in used:
        lag = step["stage2_ab/async/ver_current"] - step["stage2_ab/async/ver_step"]
        assert lag == step["stage2_ab/async/ver_lag"]
        assert 0 <= lag <= window
    counts = run.loader.rollouts.queue.counts
    assert counts.is_complete
    assert counts.consumed == 2 * len(used)


@pytest.mark.slow
@pytest.mark.parametrize("decoding", [(), SAMPLED], ids=["greedy", "sampled"])
def test_with_a_window_of_0_and_waiting_it_is_the_synchronous_form_bit_for_bit(make_ab: Stage1Maker, tmp_path: Path, decoding: tuple[str, ...]) -> None:
    loaded = make_ab("training.max_steps=5", "training.eval_strategy=steps", "training.eval_steps=2", "training.save_strategy=no", *LOCKSTEP, *decoding)
    run = run_async(loaded.config, tmp_path / "async")
    straight = run_stage1(make_ab("training.max_steps=5", "training.eval_strategy=steps", "training.eval_steps=2", "training.save_steps=5", *decoding))
    assert without_async(events(run.folder)) == events(straight)
    assert events(run.folder, "eval") == events(straight, "eval")
    final = load_file(straight / "final" / "model.safetensors")
    last = load_file(run.folder / "last" / "model.safetensors")
    assert all(torch.equal(value, last[name]) for name, value in final.items())
    assert column(run, "step_kind_b") == column(run, "policy_wants_b") == [0, 1, 0, 1, 0]
    assert_within_window(run, 0)
    counts = run.loader.rollouts.queue.counts
    assert (counts.produced, counts.stale, counts.lost) == (4, 0, 0)


@pytest.mark.slow
def test_all_packs_are_used_within_the_window_and_every_key_is_logged(make_ab: Stage1Maker, tmp_path: Path) -> None:
    waiting = ("stage2_ab.channel_b.wait_for_b=true", f"{ASYNC}version_window=2", f"{ASYNC}sync_every_steps=2", f"{ASYNC}prefetch_target_packs=4")
    run = run_async(make_ab("training.max_steps=8", "training.save_strategy=no", "stage2_ab.schedule.b_ratio=0.75", *waiting).config, tmp_path / "run")
    assert column(run, "policy_wants_b") == [float(ChannelSchedule(0.75).is_b(step)) for step in range(8)] == column(run, "step_kind_b")
    assert column(run, "sync_in_progress") == [1, 0, 1, 0, 1, 0, 1, 0]
    assert column(run, "ver_current") == [1, 1, 2, 2, 3, 3, 4, 4]
    assert_within_window(run, 2)
    counts = run.loader.rollouts.queue.counts
    assert (counts.stale, counts.evicted) == (0, 0)
    logged = {key for line in (run.folder / "logging.jsonl").read_text().splitlines() for key in json.loads(line)}
    needed = {spec.key for spec in REGISTRY if RunKind.STAGE2_AB in spec.kinds and spec.in_train and spec.needs in {"", ASYNC_SETTING}}
    assert needed - logged - {"epoch", "samples_per_second", "steps_per_second"} == set()
    assert {"time/weight_sync_s", "time/learner_idle_s"} <= logged


@pytest.mark.slow
def test_packed_rows_of_several_rounds_make_a_step(make_ab: Stage1Maker, tmp_path: Path) -> None:
    packed = ("training.packing=true", "global_max_length=400", "training.per_device_train_batch_size=1", "training.effective_batch_size=2")
    rounds = ("stage2_ab.channel_b.rollouts_per_step=2", "stage2_ab.channel_b.wait_for_b=true", "stage2_ab.schedule.b_ratio=1")
    run = run_async(make_ab("training.max_steps=3", "training.save_strategy=no", *packed, *rounds).config, tmp_path / "run")
    steps = events(run.folder)
    assert [step["train/micro_steps"] for step in steps] == [2, 2, 2]
    # the two samples of a step fill one row: the answers to those of the next steps fill the other one
    assert [step["stage2/raw_rollouts"] for step in steps] == [6, 5, 5]
    assert all(step["packing/post_rollout_fill"] > 0.5 for step in steps)
    counts = run.loader.rollouts.queue.counts
    assert (counts.produced, counts.consumed, counts.stale, counts.lost) == (6, 6, 0, 0)
    assert_within_window(run, 2)


@pytest.mark.slow
def test_a_lost_server_means_channel_a_until_the_weights_were_pushed_again(make_ab: Stage1Maker, tmp_path: Path) -> None:
    def go_down(server: CopyServer) -> None:
        # the first generation fails, and so do the next two pushes: the server is away for some steps
        server.down_generations = frozenset({0})
        server.down_pushes = frozenset({1, 2})

    run = run_async(
        make_ab("training.max_steps=8", "training.save_strategy=no", "stage2_ab.schedule.b_ratio=1", f"{ASYNC}prefetch_target_packs=2").config,
        tmp_path / "run",
        go_down,
    )
    kinds, skipped = column(run, "step_kind_b"), column(run, "b_step_skipped_due_to_queue")
    assert [kind + skip for kind, skip in zip(kinds, skipped, strict=True)] == [1] * 8
    assert kinds[:3] == [0, 0, 0]
    assert column(run, "prefetch_fail_total")[-1] >= 1
    versions = column(run, "ver_current")
    assert versions[:1] == [1]
    assert sorted(versions) == versions
    assert versions[-1] == run.server.version == run.server.num_pushes - 2
    (warning,) = [line for line in run.said if line.startswith("warning")]
    assert "no server took the weights before step" in warning
    assert "server copy takes no weights" in warning
    counts = run.loader.rollouts.queue.counts
    assert counts.is_complete
    if sum(kinds):
        assert_within_window(run, 2)


@pytest.mark.slow
def test_with_many_failures_of_servers_the_training_goes_on_and_no_pack_is_lost_from_the_books(make_ab: Stage1Maker, tmp_path: Path) -> None:
    chance = random.Random(7)

    def fail_often(server: CopyServer) -> None:
        server.down_generations = frozenset(chance.sample(range(20), 10))
        server.down_pushes = frozenset(chance.sample(range(1, 30), 10))

    often = ("stage2_ab.channel_b.on_starvation=a_only", "stage2_ab.schedule.b_ratio=0.5", f"{ASYNC}version_window=1")
    run = run_async(make_ab("training.max_steps=30", "training.save_strategy=no", *often).config, tmp_path / "run", fail_often)
    steps = events(run.folder)
    assert len(steps) == 30
    assert column(run, "prefetch_fail_total")[-1] >= 3
    assert run.server.num_pushes >= 20
    assert_within_window(run, 1)
    assert run.server.version == run.loader.rollouts.clock.version == column(run, "ver_current")[-1]
    counts = run.loader.rollouts.queue.counts
    assert counts.produced == counts.consumed + counts.stale + counts.queued + counts.lost


@pytest.mark.slow
def test_a_run_without_servers_ends_with_the_last_server_error(make_ab: Stage1Maker, tmp_path: Path) -> None:
    def stay_down(server: CopyServer) -> None:
        server.down_generations = frozenset(range(100))

    loaded = make_ab("training.max_steps=8", "training.save_strategy=no", "stage2_ab.schedule.b_ratio=1", "stage2_ab.channel_b.max_skipped_b=3")
    with pytest.raises(BackendError, match="3 scheduled Channel B steps in a row had no packs"):
        run_async(loaded.config, tmp_path / "run", stay_down)
    steps = events(tmp_path / "run")
    assert [step["stage2/channel_a"] for step in steps] == [1, 1]
    assert not [thread for thread in threading.enumerate() if thread.name == "actor"]


@pytest.mark.slow
def test_servers_that_take_no_weights_at_the_start_are_an_error_at_once(make_ab: Stage1Maker, tmp_path: Path) -> None:
    def refuse(server: CopyServer) -> None:
        server.down_pushes = frozenset({0})

    with pytest.raises(BackendError, match="server copy takes no weights"):
        run_async(make_ab("training.max_steps=2", "training.save_strategy=no").config, tmp_path / "run", refuse)


@pytest.mark.slow
def test_a_failure_of_the_actor_ends_the_training_with_its_own_error(make_ab: Stage1Maker, tmp_path: Path) -> None:
    loaded = make_ab("training.max_steps=4", "training.save_strategy=no", *LOCKSTEP)

    def break_down(number: int) -> None:
        raise DataError("a record that cannot be", where="train:7")

    with pytest.raises(DataError, match="train:7: a record that cannot be"):
        run_async(loaded.config, tmp_path / "run", lambda server: setattr(server, "during_generation", break_down))
    assert not [thread for thread in threading.enumerate() if thread.name == "actor"]


@pytest.mark.slow
def test_an_interrupt_ends_the_run_and_its_actor(make_ab: Stage1Maker, tmp_path: Path) -> None:
    """As Ctrl-C arrives: in the learner, while rollouts are under way."""
    loaded = make_ab("training.max_steps=4", "training.save_strategy=no", *LOCKSTEP)
    begun = threading.Event()

    def interrupt(server: CopyServer) -> None:
        server.during_generation = lambda number: begun.set()
        push = server.push

        def pushing(version: int) -> None:
            if version > 2:
                assert begun.wait(30)
                raise KeyboardInterrupt
            push(version)

        server.push = pushing  # type: ignore[method-assign]

    with pytest.raises(KeyboardInterrupt):
        run_async(loaded.config, tmp_path / "run", interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name == "actor"]


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_rounds_and_the_ground_truth_that_come_next(make_ab: Stage1Maker, tmp_path: Path) -> None:
    settings = ("training.max_steps=6", "training.save_steps=3", *LOCKSTEP)
    straight = run_async(make_ab(*settings).config, tmp_path / "boxes")
    state = json.loads((straight.folder / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["AsyncProgressCallback"]["attributes"] == {"num_b": 1, "num_rounds": 1}
    resumed = run_async(make_ab(*settings, f"training.resume_from_checkpoint={straight.folder}/checkpoint-3").config, tmp_path / "again")
    expected = [{k: v for k, v in step.items() if "/ver_" not in k and not k.endswith("_total")} for step in events(straight.folder)[3:]]
    found = [{k: v for k, v in step.items() if "/ver_" not in k and not k.endswith("_total")} for step in events(resumed.folder)]
    assert without_async(found) == without_async(expected)
    assert resumed.server.seeds == straight.server.seeds[4:]


@pytest.mark.slow
def test_two_ranks_decide_alike_and_stay_within_the_window(make_ab: Stage1Maker, tmp_path: Path) -> None:
    two = ("training.per_device_train_batch_size=1", "training.effective_batch_size=4", "training.optim=sgd", "training.save_strategy=no")
    wide = ("stage2_ab.channel_b.wait_for_b=true", f"{ASYNC}version_window=1", f"{ASYNC}prefetch_target_packs=4", "stage2_ab.schedule.b_ratio=0.75")
    lockstep = make_ab("training.max_steps=4", *two, *LOCKSTEP)
    free = make_ab("training.max_steps=6", *two, *wide)
    jobs = tmp_path / "jobs.json"
    jobs.write_text(json.dumps([[str(loaded.path), list(loaded.overrides)] for loaded in (lockstep, free)]))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launcher, str(Path(__file__).with_name("async_runs.py")), str(jobs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (events(Path(folder)) for folder in json.loads(jobs.with_suffix(".runs").read_text()))
    # what two ranks train together is what one trains alone, up to the order of sums
    alone = events(run_async(make_ab("training.max_steps=4", *two, *LOCKSTEP, f"{ASYNC}prefetch_target_packs=4").config, tmp_path / "alone").folder)
    for one, both in zip(alone, first, strict=True):
        for key in ("loss", "rollout/f1", "train/samples_total", "stage2_ab/async/ver_current", "stage2_ab/async/step_kind_b"):
            assert both.get(key) == (pytest.approx(one[key], abs=1e-5) if key in one else None)
    assert [step["stage2_ab/async/step_kind_b"] for step in second] == [float(ChannelSchedule(0.75).is_b(step)) for step in range(6)]
    for step in second:
        if step["stage2_ab/async/step_kind_b"]:
            assert 0 <= step["stage2_ab/async/ver_lag"] <= 1
        assert step["stage2_ab/async/drop_stale_total"] == 0


SERVERS = ("rollout_matching.rollout_backend=vllm", "rollout_matching.vllm.mode=server")
GUARDS = [
    pytest.param((), "stage2_ab.channel_b.mode", "needs rollouts by vLLM servers", id="backend"),
    pytest.param((*SERVERS, "rollout_matching.vllm.sync.mode=adapter"), "rollout_matching.vllm.sync.mode", "sends all weights", id="adapter"),
    pytest.param((*SERVERS, f"{ASYNC}queue_limit=1"), f"{ASYNC}queue_limit", "less than prefetch_target_packs 2", id="queue"),
    pytest.param((*SERVERS, f"{ASYNC}version_window=0"), f"{ASYNC}version_window", "too old before any step could use them", id="window-0-without-waiting"),
    pytest.param(
        (*SERVERS, "training.gradient_accumulation_steps=3", "training.effective_batch_size=null"),
        f"{ASYNC}prefetch_target_packs",
        "less than the 3 packs that a step takes",
        id="target",
    ),
]


@pytest.mark.parametrize(("overrides", "key", "said"), GUARDS)
def test_what_cannot_work_is_said_before_anything_is_opened(make_ab: Stage1Maker, overrides: tuple[str, ...], key: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_ab("stage2_ab.channel_b.mode=async", *overrides)
    assert key in str(caught.value)
    assert said in str(caught.value)


def test_a_target_below_the_packs_of_a_step_is_a_configuration_error_whatever_the_step_is_made_of(make_ab: Stage1Maker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prefetch_target_packs: is 1, less than the 2 packs that a step takes on each device"):
        run_async(make_ab(f"{ASYNC}prefetch_target_packs=1").config, tmp_path / "run")
