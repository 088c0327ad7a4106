"""Files, extends and overrides to one configuration with origins."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from coordexp.config.evaluation import EvalConfig
from coordexp.config.infer import InferConfig
from coordexp.config.loading import Override, load_config
from coordexp.config.train import TrainConfig
from coordexp.config.yaml_source import Origin
from coordexp.types.errors import ConfigError

MINIMAL = """\
model:
  model: ckpt
training:
  output_dir: out
  run_name: r
  learning_rate: 1e-4
  max_steps: 3
custom:
  train_jsonl: a.jsonl
"""


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _error(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, TrainConfig, overrides)
    return str(error.value)


def test_values_are_typed_and_the_rest_has_its_default(tmp_path: Path) -> None:
    loaded = load_config(_write(tmp_path, "a.yaml", MINIMAL), TrainConfig)
    assert loaded.config.training.learning_rate == 1e-4
    assert loaded.config.custom.train_jsonl == Path("a.jsonl")
    assert loaded.config.custom.coord_soft_ce_w1.target_sigma == 2.0


def test_a_later_file_wins_and_sections_merge_key_by_key(tmp_path: Path) -> None:
    _write(tmp_path, "base/one.yaml", MINIMAL)
    _write(tmp_path, "two.yaml", "training: {max_steps: 7, seed: 1}\n")
    top = _write(tmp_path, "top.yaml", "extends: [base/one.yaml, two.yaml]\ntraining: {seed: 2}\n")
    loaded = load_config(top, TrainConfig)
    training = loaded.config.training
    assert (training.max_steps, training.seed, training.run_name) == (7, 2, "r")
    assert [item.path.name for item in loaded.files] == ["top.yaml", "one.yaml", "two.yaml"]
    assert loaded.files[1].sha256 == hashlib.sha256(MINIMAL.encode()).hexdigest()


def test_a_list_is_replaced_as_a_whole(tmp_path: Path) -> None:
    _write(tmp_path, "base.yaml", MINIMAL + "tuner: {target_modules: [a, b, c]}\n")
    top = _write(tmp_path, "top.yaml", "extends: base.yaml\ntuner: {target_modules: [d]}\n")
    assert load_config(top, TrainConfig).config.tuner.target_modules == ("d",)


def test_each_value_knows_where_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path, "base.yaml", MINIMAL)
    _write(tmp_path, "top.yaml", "extends: base.yaml\n\ntraining:\n  seed: 2\n")
    loaded = load_config("top.yaml", TrainConfig, ["training.max_steps=5", Override("training.weight_decay", 0.1, Origin("--decay"))])
    keys = ("model.model", "training.seed", "training.max_steps", "training.weight_decay", "training.bf16")
    assert [str(loaded.origin(f"{key}")) for key in keys] == ["base.yaml:2", "top.yaml:4", "command line", "--decay", "default"]
    assert loaded.overrides == ("training.max_steps=5",)


def test_a_circle_of_extends_is_an_error_that_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path, "a.yaml", "extends: b.yaml\n")
    _write(tmp_path, "b.yaml", "extends: a.yaml\n")
    assert _error(Path("a.yaml")) == "a.yaml: 'extends' goes in a circle: a.yaml -> b.yaml -> a.yaml; remove one of these 'extends'"


def test_two_files_may_extend_the_same_one(tmp_path: Path) -> None:
    _write(tmp_path, "base.yaml", MINIMAL)
    _write(tmp_path, "left.yaml", "extends: base.yaml\n")
    _write(tmp_path, "right.yaml", "extends: base.yaml\ntraining: {seed: 9}\n")
    loaded = load_config(_write(tmp_path, "top.yaml", "extends: [left.yaml, right.yaml]\n"), TrainConfig)
    assert loaded.config.training.seed == 9
    assert len(loaded.files) == 4


@pytest.mark.parametrize("value", ["5", "[]", "[a.yaml, 3]", "null"])
def test_extends_takes_paths_only(tmp_path: Path, value: str) -> None:
    assert "a.yaml:1: extends: expected a path or a list of paths" in _error(_write(tmp_path, "a.yaml", f"extends: {value}\n"))


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    assert "gone.yaml: no such file" in _error(_write(tmp_path, "a.yaml", "extends: gone.yaml\n"))


def test_a_pipeline_file_stands_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="extends: this kind of file stands alone"):
        load_config(_write(tmp_path, "a.yaml", "extends: b.yaml\n"), InferConfig)


@pytest.mark.parametrize("text", ["training.max_steps", "=5", "training..seed=5"])
def test_an_override_that_is_not_key_and_value_is_an_error(tmp_path: Path, text: str) -> None:
    assert f"cannot read the override '{text}'" in _error(_write(tmp_path, "a.yaml", MINIMAL), text)


def test_an_override_may_open_a_section_and_spell_a_list(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.yaml", MINIMAL)
    loaded = load_config(path, TrainConfig, ["--tuner.target_modules=[q_proj, v_proj]", "custom.coord_soft_ce_w1.ce_weight=0.5"])
    assert loaded.config.tuner.target_modules == ("q_proj", "v_proj")
    assert loaded.config.custom.coord_soft_ce_w1.ce_weight == 0.5


def test_flags_alone_make_a_configuration() -> None:
    flags = [Override("pred_jsonl", "p.jsonl", Origin("--pred_jsonl")), Override("out_dir", "o", Origin("--out_dir"))]
    loaded = load_config(None, EvalConfig, flags)
    assert loaded.path is None
    assert loaded.config.out_dir == Path("o")


def test_a_missing_flag_is_asked_for_as_a_flag() -> None:
    with pytest.raises(ConfigError, match=r"^command line: out_dir: is required; give --out_dir$"):
        load_config(None, EvalConfig, [Override("pred_jsonl", "p.jsonl", Origin("--pred_jsonl"))])


def test_a_file_that_is_not_text_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert _error(path).endswith("a.yaml: is not UTF-8 text; name a YAML file")
    assert "is a folder" in _error(tmp_path)
