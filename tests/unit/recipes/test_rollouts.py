"""From sections to rollouts: every setting arrives, and a text encoder that is not there is said once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.config.rollout import RolloutMatchingSection
from coordexp.config.stage2_ab import Stage2ABSection
from coordexp.config.train import TrainConfig
from coordexp.recipes.rollouts import desc_gate, desc_monitor, match_settings, target_settings
from coordexp.rollout.producer import MatchSettings, TargetSettings
from coordexp.semantics.lookup import find_encoder
from coordexp.targets.rollout import RolloutTargetOptions
from coordexp.targets.supervision import rollout_matching_table, stage2_ab_table
from coordexp.targets.transport import TransportSettings
from coordexp.types.errors import BackendError

ROLLOUT = {"ot_cost": "l1", "ot_epsilon": 3.0, "ot_iters": 7}
TRANSPORT = TransportSettings(cost="l1", epsilon=3.0, iterations=7)


def config(**sections) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": {"model": "m"},
            "training": {"output_dir": "o", "run_name": "r", "learning_rate": 1e-4, "max_steps": 3},
            "custom": {"train_jsonl": "a", "object_field_order": "geometry_first"},
            "global_max_length": 999,
            "rollout_matching": ROLLOUT,
            **sections,
        }
    )


def test_every_setting_of_matching_arrives() -> None:
    section = RolloutMatchingSection.model_validate(
        {"maskiou_gate": 0.4, "candidate_top_k": 9, "fp_cost": 0.5, "fn_cost": 2.0, "matching": {"iou": "mask"}, "maskiou_resolution": 64}
    )
    assert match_settings(section) == MatchSettings(gate=0.4, top_k=9, fp_cost=0.5, fn_cost=2.0, iou="mask", resolution=64)


def test_rollout_matching_teaches_slots_and_the_closure() -> None:
    options = RolloutTargetOptions(field_order="geometry_first", transport=TRANSPORT)
    assert target_settings(config()) == TargetSettings(table=rollout_matching_table(), options=options, max_length=999)


def test_every_setting_of_channel_b_arrives() -> None:
    channel = {
        "desc_ce_weight_matched": 0.25,
        "key_ce": "on",
        "closure_ce": "off",
        "prefix": "clean",
        "fn_position": "sorted",
        "cut_out_of_sequence_keys": True,
        "cut_surplus": True,
        "matched_names": "same",
        "unmatched": "drop",
        "renumber_keys": True,
        "drop_invalid_struct_ce_multiplier": 2.5,
    }
    section = {"schedule": {"b_ratio": 0.1}, "desc_ce_weight": 0.5, "channel_b": channel}
    assert target_settings(config(stage2_ab=section)) == TargetSettings(
        table=stage2_ab_table(desc_ce_weight=0.5, desc_ce_weight_matched=0.25, key_ce=True, closure_ce=False),
        prefix="clean",
        cut_out_of_sequence_keys=True,
        options=RolloutTargetOptions(
            field_order="geometry_first",
            missed_position="sorted",
            renumber_keys=True,
            cut_surplus=True,
            same_names=True,
            drop_unmatched=True,
            struct_ce_multiplier=2.5,
            transport=TRANSPORT,
        ),
        max_length=999,
    )


def gate_section(*, weight: float = 0.5, **gate) -> Stage2ABSection:
    return Stage2ABSection.model_validate({"schedule": {"b_ratio": 0.1}, "channel_b": {"semantic_desc_gate": gate, "desc_ce_weight_matched": weight}})


def test_judges_that_are_off_are_none_and_say_nothing() -> None:
    said: list[str] = []
    assert desc_monitor(RolloutMatchingSection(), say=said.append) is None
    assert desc_gate(gate_section(enabled=False), say=said.append) is None
    assert said == []


def test_judges_with_an_encoder_are_active_with_their_own_threshold() -> None:
    said: list[str] = []
    monitor = desc_monitor(RolloutMatchingSection.model_validate({"desc_monitor": {"enabled": True, "threshold": 0.99}}), say=said.append)
    gate = desc_gate(gate_section(enabled=True, threshold=0.1), say=said.append)
    assert monitor is not None
    assert gate is not None
    assert (monitor.is_active, gate.is_active) == (True, True)
    assert (monitor.agree([("kitten", "cat")]), gate.agree([("kitten", "cat")])) == ([False], [True])
    assert said == []


def test_a_gate_over_names_that_are_not_taught_is_one_warning_and_opens_no_encoder() -> None:
    said: list[str] = []
    assert desc_gate(gate_section(weight=0.0, enabled=True, model_name_or_path="no/such-encoder"), say=said.append) is None
    assert said == ["warning: stage2_ab.channel_b.semantic_desc_gate has no effect: with desc_ce_weight_matched 0 no name of a matched object is taught"]


def test_a_missing_encoder_is_one_warning_and_names_what_is_left() -> None:
    said: list[str] = []
    section = {"desc_monitor": {"enabled": True, "model_name_or_path": "no/such-encoder"}}
    monitor = desc_monitor(RolloutMatchingSection.model_validate(section), say=said.append)
    assert monitor is not None
    assert not monitor.is_active
    assert desc_gate(gate_section(enabled=True, model_name_or_path="no/such-encoder"), say=said.append) is None
    missing = "the text encoder 'no/such-encoder' is not on this machine: no such folder, no installed package with it, not in the Hugging Face cache"
    assert said == [
        f"warning: rollout_matching.desc_monitor: {missing}; names are compared by their text alone (rollout/desc_sem_enabled is 0)",
        f"warning: stage2_ab.channel_b.semantic_desc_gate: {missing}; only name tokens that equal the annotation are taught "
        "(stage2_ab/channel_b/semantic_desc_gate/is_active is 0)",
    ]


def test_a_monitor_of_texts_alone_looks_for_no_encoder() -> None:
    said: list[str] = []
    section = {"desc_monitor": {"enabled": True, "semantic": False, "model_name_or_path": "no/such-encoder"}}
    monitor = desc_monitor(RolloutMatchingSection.model_validate(section), say=said.append)
    assert monitor is not None
    assert (monitor.is_active, said) == (False, [])


def test_a_revision_is_looked_for_on_the_hub_cache_alone(tmp_path: Path) -> None:
    folder = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    (snapshot / "model.safetensors").write_text("weights")
    code = "from coordexp.semantics.lookup import find_encoder; print(find_encoder('all-MiniLM-L6-v2', revision='abc').folder)"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout.strip() == str(snapshot)
    with pytest.raises(BackendError, match="'all-MiniLM-L6-v2' is not in the Hugging Face cache at revision 'no-such'"):
        find_encoder("all-MiniLM-L6-v2", revision="no-such")
