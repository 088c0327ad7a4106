"""Sentences for what is wrong in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.types.errors import ConfigError

VALID = ["model.model=m", "training.output_dir=o", "training.run_name=r", "training.learning_rate=1e-4", "training.max_steps=3", "custom.train_jsonl=a"]


def _sentence(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(None, TrainConfig, [*VALID, *overrides])
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.max_stepz=5", "training.max_stepz: unknown key; did you mean training.max_steps?"),
        ("training.adam_beta=0.9", "training.adam_beta: unknown key; did you mean training.adam_beta2?"),
        ("train_jsonl=x", "train_jsonl: unknown key; did you mean custom.train_jsonl?"),
        ("custom.coord_soft_ce_w1.ce_wait=1", "custom.coord_soft_ce_w1.ce_wait: unknown key; did you mean custom.coord_soft_ce_w1.ce_weight?"),
        ("training.evaluation_strategy=steps", "training.evaluation_strategy: unknown key; write eval_strategy"),
        ("rollout_matching.temperature=1", "rollout_matching.temperature: unknown key; write decoding.temperature"),
        ("stage2_ab.schedule.b_ratio=2", "stage2_ab.schedule.b_ratio: must be at most 1.0, got 2"),
        ("training.max_steps=five", "training.max_steps: expected a whole number, got 'five'"),
        ("training.max_steps=1.5", "training.max_steps: expected a whole number, got 1.5"),
        ("training.learning_rate=true", "training.learning_rate: expected a number, got true"),
        ("training.learning_rate=.nan", "training.learning_rate: expected a number, got nan"),
        ("training.learning_rate=0", "training.learning_rate: must be greater than 0.0, got 0"),
        ("training.run_name=123", "training.run_name: expected a text, got 123; put it in quotes"),
        ("training.bf16=1", "training.bf16: expected true or false, got 1"),
        ("training.adam_beta1=x", "training.adam_beta1: expected a number, got 'x'"),
        ("custom.object_ordering=sort", "custom.object_ordering: expected sorted or random, got 'sort'; did you mean sorted?"),
        ("data.geometry_kinds=[box]", "data.geometry_kinds[0]: expected 'bbox_2d' or 'poly', got 'box'"),
        ("data.geometry_kinds=[bbox_2d, bbox_2d]", "data.geometry_kinds: expected bbox_2d, poly or both, each once"),
        ("data.geometry_kinds=[]", "data.geometry_kinds: expected bbox_2d, poly or both, each once"),
        ("tuner.target_modules=[]", "tuner.target_modules: expected a longer list, got a list"),
        ("tuner.lora_dropout=1.0", "tuner.lora_dropout: must be less than 1.0, got 1.0"),
        ("training.seed=4294967296", "training.seed: must be at most 4294967295, got 4294967296"),
        ("training.data_seed=-1", "training.data_seed: must be at least 0; remove it: training.seed decides then"),
        ("tuner.target_modules=5", "tuner.target_modules: expected a list of texts or all-linear, got 5"),
        ("custom.coord_tokens=true", "custom.coord_tokens: expected a section with 'key: value' lines, got true"),
        ("custom.train_jsonl=''", "custom.train_jsonl: expected a path, got an empty text"),
        ("model.model=null", "model.model: expected a text, got nothing"),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_its_key(override: str, sentence: str) -> None:
    assert _sentence(override) == f"command line: {sentence}"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("custom.train_jsonl=null", "custom.train_jsonl: is required; name the training file (or custom.fusion_config), not both"),
        ("training.max_steps=-1", "training.max_steps: the length of the training is missing; set training.max_steps or training.num_train_epochs"),
        ("training.eval_strategy=epoch", "custom.val_jsonl: is required when training.eval_strategy is not 'no'; name the validation file"),
        ("training.do_train=true", "training.do_train: is set by the trainer itself; remove it"),
        (
            "custom.eval_detection.enabled=true",
            "custom.eval_detection.enabled: needs evaluations, and training.eval_strategy is 'no'; set training.eval_strategy",
        ),
        (
            "training.metric_for_best_model=eval_det_f1",
            "training.metric_for_best_model: is a number of detection in evaluation, which is off; set custom.eval_detection.enabled: true",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_one_sentence(override: str, sentence: str) -> None:
    assert _sentence(override) == f"command line: {sentence}"


def test_both_places_of_the_rollout_section_are_an_error() -> None:
    sentence = _sentence("rollout_matching.max_new_tokens=5", "custom.extra.rollout_matching.max_new_tokens=5")
    assert "rollout_matching: is the same section as custom.extra.rollout_matching; give one of them" in sentence


def test_all_problems_of_a_file_are_listed_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("model: {model: m}\ntraining:\n  run_name: r\n  sed: 5\n  max_steps: many\n  adam_beta1: x\nbogus: 1\n")
    with pytest.raises(ConfigError) as error:
        load_config("a.yaml", TrainConfig)
    lines = [line.strip().partition(";")[0] for line in str(error.value).splitlines()]
    assert lines == [
        "a.yaml: 7 problems",
        "a.yaml: custom: is required",
        "a.yaml:2: training.output_dir: is required",
        "a.yaml:2: training.learning_rate: is required",
        "a.yaml:4: training.sed: unknown key",
        "a.yaml:5: training.max_steps: expected a whole number, got 'many'",
        "a.yaml:6: training.adam_beta1: expected a number, got 'x'",
        "a.yaml:7: bogus: unknown key",
    ]


def test_a_schema_class_refuses_unknown_names_without_a_file_too() -> None:
    values = {"output_dir": "o", "run_name": "r", "learning_rate": 1e-4, "max_steps": 3, "adam_beta": 0.9}
    with pytest.raises(ValueError, match="adam_beta"):
        TrainConfig.model_validate({"model": {"model": "m"}, "custom": {"train_jsonl": "a"}, "training": values})


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("stages={infer: false, eval: false, vis: false}", "stages: no stage is on"),
        ("infer=null", "infer: is required when stages.infer is true"),
        ("run.name=a/b", "run.name: must be a plain folder name"),
        ("eval.f1ish_iou_thrs=[0.5, 0.501]", "eval.f1ish_iou_thrs: two thresholds agree to two decimals"),
        ("eval.iou_thrs=[]", "eval.iou_thrs: is empty"),
        ("stages={infer: true}", "stages.eval: is required"),
        ("infer.labels=[cat]", "infer.labels: is a closed set, which only constrained decoding keeps; set infer.constrain: json"),
        ("infer.max_objects=5", "infer.max_objects: is a limit of constrained decoding"),
        ("infer={constrain: json, labels: [cat, ' '], gt_jsonl: a, model_checkpoint: m}", "infer.labels: no object can be called ' '"),
        ("infer={constrain: json, labels: [], gt_jsonl: a, model_checkpoint: m}", "infer.labels: is an empty list"),
        ("infer={constrain: json, pred_coord_mode: pixel, gt_jsonl: a, model_checkpoint: m}", "infer.pred_coord_mode: constrained answers hold bins"),
        ("infer.max_desc_tokens=8", "infer.max_desc_tokens: must be at least 16"),
    ],
)
def test_a_pipeline_that_cannot_run_is_refused(override: str, part: str) -> None:
    valid = ["run.name=r", "run.output_dir=o", "infer.gt_jsonl=a", "infer.model_checkpoint=m"]
    with pytest.raises(ConfigError) as error:
        load_config(None, InferConfig, [*valid, override])
    assert part in str(error.value)
