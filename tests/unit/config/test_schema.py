"""The schema: names of transformers, switches, and a meaning for every setting."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from coordexp.config.evaluation import EvalConfig
from coordexp.config.hf_arguments import HF_ARGUMENTS
from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.config.schema import list_settings
from coordexp.config.sections import FileSection
from coordexp.config.stage2_ab import Stage2ABSection
from coordexp.config.train import TrainConfig
from coordexp.config.training import TrainingSection

VALID = ["model.model=m", "training.output_dir=o", "training.run_name=r", "training.learning_rate=1e-4", "training.max_steps=3", "custom.train_jsonl=a"]


def _installed_names() -> list[str]:
    """Read from the source: importing it would load torch."""
    package = importlib.util.find_spec("transformers")
    assert package is not None
    assert package.origin is not None
    tree = ast.parse((Path(package.origin).parent / "training_args.py").read_text())
    cls = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments")
    return [node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]


def test_the_names_that_pass_through_are_those_of_the_installed_transformers() -> None:
    assert list(HF_ARGUMENTS) == _installed_names()


def test_every_declared_training_setting_is_ours_or_theirs() -> None:
    declared = set(TrainingSection.model_fields)
    assert declared - set(HF_ARGUMENTS) == TrainingSection.ours
    assert TrainingSection.managed <= set(HF_ARGUMENTS)


def test_what_goes_to_transformers_holds_passed_through_names_and_nothing_of_ours() -> None:
    config = load_config(None, TrainConfig, [*VALID, "training.adam_beta1=0.8", "training.effective_batch_size=8"]).config
    arguments = config.training.hf_arguments()
    assert arguments["adam_beta1"] == 0.8
    assert arguments["learning_rate"] == 1e-4
    assert set(arguments) <= set(HF_ARGUMENTS)


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("on", True), ("no", False), ("Off", False), ("true", True)])
def test_a_switch_reads_the_usual_words(word: str, value: bool) -> None:
    assert load_config(None, TrainConfig, [*VALID, f"training.bf16={word}"]).config.training.bf16 is value


@pytest.mark.parametrize(("value", "word"), [(True, "on"), (False, "off"), ("off", "off")])
def test_a_word_on_or_off_may_be_a_switch(value: object, word: str) -> None:
    section = Stage2ABSection.model_validate({"schedule": {"b_ratio": 0.5}, "channel_b": {"closure_ce": value, "async": {"queue_limit": 3}}})
    assert section.channel_b.closure_ce == word
    assert section.channel_b.async_.queue_limit == 3


@pytest.mark.parametrize("model", [TrainConfig, InferConfig, EvalConfig, PrepareConfig])
def test_every_setting_says_what_it_means(model: type[FileSection]) -> None:
    assert [setting.key for setting in list_settings(model) if setting.section is None and not setting.meaning] == []


def test_a_configuration_never_changes() -> None:
    config = load_config(None, EvalConfig, ["pred_jsonl=p", "out_dir=o"]).config
    with pytest.raises(ValueError, match="frozen"):
        config.metrics = "coco"  # type: ignore[misc]


def test_the_rollout_section_is_found_in_both_places() -> None:
    settings = {"model": {"model": "m"}, "training": {"output_dir": "o", "run_name": "r", "learning_rate": 1e-4}, "custom": {"train_jsonl": "a"}}
    top = TrainConfig.model_validate({**settings, "rollout_matching": {"max_new_tokens": 7}})
    extra = TrainConfig.model_validate({**settings, "custom": {"extra": {"rollout_matching": {"max_new_tokens": 8}}}})
    assert [section.max_new_tokens for section in (top.rollout, extra.rollout) if section] == [7, 8]
