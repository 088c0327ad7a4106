"""The reference page says everything that the schema knows."""

from __future__ import annotations

import pytest

from coordexp.config.docs import render_config_docs
from coordexp.config.evaluation import EvalConfig
from coordexp.config.infer import InferConfig
from coordexp.config.prepare import PrepareConfig
from coordexp.config.schema import list_settings
from coordexp.config.sections import FileSection
from coordexp.config.train import TrainConfig


@pytest.mark.parametrize("model", [TrainConfig, InferConfig, EvalConfig, PrepareConfig])
def test_every_setting_and_every_missing_feature_has_a_row(model: type[FileSection]) -> None:
    lines = render_config_docs().splitlines()
    for setting in list_settings(model):
        if setting.section is None:
            assert any(line.startswith(f"| `{setting.key.rpartition('.')[2]}` |") for line in lines), setting.key
    for row in model.unbuilt:
        assert any(line.startswith(f"| `{row.key}` |") and line.endswith(f"| {row.feature} |") for line in lines), row.key
