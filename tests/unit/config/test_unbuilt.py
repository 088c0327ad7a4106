"""Every row of the table of what is not there yet: the setting is refused, its proposed value is not."""

from __future__ import annotations

import json

import pytest

from coordexp.config.evaluation import EvalConfig
from coordexp.config.infer import InferConfig
from coordexp.config.loading import Override, load_config
from coordexp.config.sections import FileSection
from coordexp.config.train import TrainConfig
from coordexp.config.unbuilt import Unbuilt
from coordexp.types.errors import ConfigError

VALID: dict[type[FileSection], list[str]] = {
    TrainConfig: [
        "model.model=m",
        "training.output_dir=o",
        "training.run_name=r",
        "training.learning_rate=1e-4",
        "training.max_steps=3",
        "custom.train_jsonl=a",
    ],
    InferConfig: ["run.name=r", "run.output_dir=o", "infer.gt_jsonl=a", "infer.model_checkpoint=m"],
    EvalConfig: ["pred_jsonl=p", "out_dir=o"],
}
STAGE2 = ["custom.trainer_variant=stage2_ab_training", "stage2_ab.schedule.b_ratio=0.5"]
"""What settings of rollouts need around them."""
CASES = [pytest.param(model, row, id=f"{model.__name__}-{row.key}") for model in VALID for row in model.unbuilt]


def around(model: type[FileSection], row: Unbuilt) -> list[str]:
    """The rest of a valid file."""
    return VALID[model] + (STAGE2 if row.key.startswith(("stage2_ab", "rollout_matching", "custom.extra")) else [])


@pytest.mark.parametrize(("model", "row"), CASES)
def test_a_setting_that_is_not_built_is_refused_by_name(model: type[FileSection], row: Unbuilt) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, model, [*around(model, row), Override(row.key, row.example)])
    assert f"command line: {row.key}: {row.feature} is not supported by this version; {row.fix}" in str(error.value)


@pytest.mark.parametrize(("model", "row"), CASES)
def test_what_the_sentence_proposes_works(model: type[FileSection], row: Unbuilt) -> None:
    load_config(None, model, [*around(model, row), *(Override(row.key, value) for value in row.supported if value is not None)])


def test_the_switch_and_not_the_details_is_what_is_refused() -> None:
    loaded = load_config(None, TrainConfig, [*VALID[TrainConfig], "training.packing_buffer=64", f"training.packing={json.dumps(False)}"])
    assert loaded.config.training.packing_buffer == 64
