"""Secrets in configuration, environment and command lines reach no file of a run and no line on the console, whatever they are called and look like."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.cli.main import main
from coordexp.cli.progress import LineProgress
from coordexp.config.redact import redact, redact_arguments, redact_text
from coordexp.training.metadata import RunFacts, add_resume, write_metadata

_WORDS = (
    "token", "api_key", "api-key", "apikey", "password", "passwd", "pwd", "passphrase", "secret", "credential", "credentials", "access_key", "private_key",
    "secret_key", "authorization",
)  # fmt: skip
_BEFORE = ("", "hub_", "hf-", "my.", "db_", "x-", "AWS_", "training.")
# as they are made: no word of the texts around them, no mark that ends a value in a command line
_values = st.text("abcXYZ0123456789_-.+~", min_size=12, max_size=60).map(lambda text: f"Zq{text}9k")
_camel = st.sampled_from(["apiKey", "accessToken", "clientSecret", "dbPassword", "hubToken", "secretKey"])
_names = st.one_of(
    st.builds(lambda before, word, change: change(before + word), st.sampled_from(_BEFORE), st.sampled_from(_WORDS), st.sampled_from([str.lower, str.upper])),
    _camel,
    st.just("Authorization"),
)


@given(name=_names, value=_values, number=st.integers(10**9, 10**12))
def test_a_value_is_hidden_wherever_a_mapping_has_it(name: str, value: str, number: int) -> None:
    hidden = json.dumps(redact({"outer": [{name: value, "several": {name: [value, {"inner": value}]}}], "kept": "epochs"}))
    assert value not in hidden
    assert "epochs" in hidden
    if not name.lower().endswith("token"):
        assert str(number) not in json.dumps(redact({name: number}))


@given(name=_names, value=_values, spaced=st.booleans())
def test_a_value_is_hidden_in_every_form_of_a_command_line(name: str, value: str, spaced: bool) -> None:
    parts = [value, value] if spaced else [value]
    forms = [["--" + name, " ".join(parts)], [f"--{name}={' '.join(parts)}"], [f"{name}={' '.join(parts)}"], ["-H", f"Authorization: Bearer {value}"]]
    forms += [["--header", f"Authorization: Basic {value}"], ["--extra", json.dumps({name: value})], [f"https://me:{quote(value)}@host:8000/v1"]]
    forms += [[f"http://host/path?api_key={value}&page=1"], [f"url=https://{value}@host/x"], [f"--extra={json.dumps({'password': value})}"]]
    for form in forms:
        shown = redact_arguments(["coordexp", "train", *form, "--limit", "5"])
        assert value not in " ".join(shown)
        assert shown[-2:] == ["--limit", "5"]


@given(value=_values)
def test_a_password_may_hold_the_marks_of_an_address(value: str) -> None:
    assert value not in redact_text(f"no server at http://me:{value}@{value}@127.0.0.1:8000, try again")


@settings(max_examples=12)
@given(name=_names, value=_values)
def test_a_manifest_holds_no_secret(name: str, value: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "run_metadata.json"
    config = {"training": {name: value, "url": f"http://me:{value}@host:1"}, "custom": {"extra": {name: {"deep": [value]}}}}
    facts = RunFacts(
        config_path=None,
        config_files=(),
        resolved_config=config,
        overrides=[f"training.{name}={value}"],
        argv=["coordexp", "train", f"--{name}", value, f"Authorization: Bearer {value}"],
        world_size=1,
        seeds={"training": 1},
        details={"data": {name: value}},
    )
    write_metadata(path, facts)
    add_resume(path, facts, checkpoint=path.parent, step=1)
    assert value not in path.read_text()
    assert "***" in path.read_text()


def test_a_training_writes_and_says_no_secret(write_stage1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    secret = "Zq81secretvalue55k"
    for name in ("HF_TOKEN", "COORDEXP_SERVER_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, secret)
    arguments = ["train", "--config", str(write_stage1(tmp_path)), "training.max_steps=1", f"training.hub_token={secret}", "custom.val_jsonl=null"]
    monkeypatch.setattr("sys.argv", ["coordexp", *arguments])
    assert main(arguments) == 0
    said = capfd.readouterr()
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert any(path.name == "run_metadata.json" and b"***" in path.read_bytes() for path in written)
    assert any("tfevents" in path.name for path in written)
    assert [path.name for path in written if secret.encode() in path.read_bytes()] == []
    assert secret not in said.out + said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["infer", "--backend", "vllm", "--vllm-base-url", "http://me:Zq81secretvalue55k@127.0.0.1:{port}"],
        ["infer", "--backend", "vllm", "--vllm-base-url", "ftp://me:Zq81secretvalue55k@127.0.0.1:{port}"],
        ["infer", "--backend", "vllm", "--vllm-base-url", "http://127.0.0.1/?api_key=Zq81secretvalue55k"],
        ["infer", "--hub-token=Zq81secretvalue55k"],
        ["train", "--config", "nowhere.yaml", "training.hub_token:Zq81secretvalue55k"],
        ["train", "--config", "https://me:Zq81secretvalue55k@host/train.yaml"],
        ["train", "--config", "nowhere.yaml", "--debug", "training.api_key=Zq81secretvalue55k"],
    ],
    ids=["address", "scheme", "query", "flag", "colon", "path", "traceback"],
)
def test_an_error_says_no_secret(arguments: list[str], scenes_jsonl: Path, closed_port: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from coordexp.models.assets import tiny_checkpoint

    files = ["--gt_jsonl", str(scenes_jsonl), "--model_checkpoint", str(tiny_checkpoint()), "--mode", "coord", "--out", str(tmp_path / "out.jsonl")]
    full = [part.format(port=closed_port) for part in arguments] + (files if arguments[0] == "infer" else [])
    assert main(full) == 2
    said = capfd.readouterr().err
    assert "error: " in said
    assert "secretvalue" not in said


def test_a_line_of_progress_says_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    LineProgress(sys.stderr).say("push to http://me:Zq81secretvalue55k@host:8000 with Authorization: Bearer Zq81secretvalue55k")
    assert capsys.readouterr().err == "push to http://***@host:8000 with Authorization: Bearer ***\n"


def test_what_is_no_secret_stays() -> None:
    kept = {
        "max_new_tokens": 128,
        "gen_tokens": 7,
        "coord_tokens": {"enabled": True, "skip_bbox_norm": True},
        "tokenizer": "fast",
        "author": "me",
        "key": "object_1",
        "note": "train.jsonl:3: objects[0].bbox_2d: a coordinate token: expected <|coord_5|>",
    }
    assert redact(kept) == kept


def test_a_long_text_takes_time_that_grows_with_it() -> None:
    length = 200_000  # with the square of it, this test would take hours
    text = "a" * length + " " + "http" * length + "=:" + "_-." * length
    assert redact_text(text) == text
