"""Every shipped YAML parses under its schema, and the generated pages are current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.config.evaluation import EvalConfig
from coordexp.config.fusion import FusionConfig
from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.config.sections import FileSection
from coordexp.config.train import TrainConfig
from coordexp.types.errors import ConfigError

REPO = Path(__file__).parents[2]
SCHEMAS: dict[str, type[FileSection]] = {
    "stage1": TrainConfig,
    "stage2_ab": TrainConfig,
    "demo/stage2_ab.yaml": TrainConfig,
    "demo/stage1.yaml": TrainConfig,
    "demo/stage1_packed.yaml": TrainConfig,
    "demo/infer.yaml": InferConfig,
    "journey": TrainConfig,
    "journey/infer.yaml": InferConfig,
    "bench": InferConfig,
    "fusion": FusionConfig,
    "infer": InferConfig,
    "eval": EvalConfig,
    "data": PrepareConfig,
}
FILES = sorted(str(path.relative_to(REPO / "configs")) for path in (REPO / "configs").rglob("*.yaml") if path.name != "base.yaml")


def _schema(name: str) -> type[FileSection]:
    return SCHEMAS.get(name) or SCHEMAS[name.partition("/")[0]]


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_file_parses_and_needs_only_what_is_built(name: str) -> None:
    load_config(REPO / "configs" / name, _schema(name))


def test_the_base_lacks_nothing_but_what_decides_an_experiment() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(REPO / "configs/base.yaml", TrainConfig)
    problems = [line.partition(": ")[2].partition(";")[0] for line in str(error.value).splitlines()[1:]]
    assert problems == [
        "model.model: is required",
        "training.output_dir: is required",
        "training.run_name: is required",
        "training.learning_rate: is required",
    ]


@pytest.mark.parametrize(("name", "weights"), [("softce_w1_gate", (1, 1, 0, 1)), ("pure_ce", (0, 0, 1, 1)), ("mixed", (1, 1, 0.1, 1))])
def test_each_loss_recipe_is_what_its_name_says(name: str, weights: tuple[float, ...]) -> None:
    losses = load_config(REPO / f"configs/stage1/{name}.yaml", TrainConfig).config.custom.coord_soft_ce_w1
    assert (losses.soft_ce_weight, losses.w1_weight, losses.ce_weight, losses.gate_weight) == weights


def test_the_generated_pages_are_current() -> None:
    result = subprocess.run([sys.executable, "tools/generate_docs.py", "--check"], cwd=REPO, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
