"""Secrets never reach a file or the console."""

from __future__ import annotations

import pytest

from coordexp.config.loading import load_config
from coordexp.config.redact import redact, redact_arguments, redact_text
from coordexp.config.train import TrainConfig


@pytest.mark.parametrize("key", ["hub_token", "password", "api_key", "API_KEY", "apiKey", "aws_secret", "authorization", "access-key"])
def test_the_value_of_a_key_that_names_a_secret_is_hidden(key: str) -> None:
    assert redact({"outer": [{key: "abc"}]}) == {"outer": [{key: "***"}]}


@pytest.mark.parametrize(
    ("key", "value"), [("max_new_tokens", 128), ("coord_tokens", {"enabled": True}), ("hub_token", None), ("tokenizer", "fast"), ("author", "me")]
)
def test_other_keys_keep_their_values(key: str, value: object) -> None:
    assert redact({key: value}) == {key: value}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://me:pw@host:8000/v1", "https://***@host:8000/v1"),
        ("http://host/x?api_key=abc&n=1", "http://host/x?api_key=***&n=1"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("training.hub_token=abc", "training.hub_token=***"),
        ("use hf_" + "a" * 30, "use ***"),
        ("sk-" + "b" * 24, "***"),
        ("rollout_matching.max_new_tokens=128", "rollout_matching.max_new_tokens=128"),
        ("someone@example.org", "someone@example.org"),
    ],
)
def test_secrets_inside_a_text_are_hidden(text: str, hidden: str) -> None:
    assert redact_text(text) == hidden


def test_a_command_line_is_hidden_flag_by_flag() -> None:
    assert redact_arguments(["coordexp", "--hub-token", "abc", "--limit", "5"]) == ["coordexp", "--hub-token", "***", "--limit", "5"]


def test_the_resolved_configuration_holds_no_secret() -> None:
    settings = ["model.model=m", "training.output_dir=o", "training.run_name=r", "training.learning_rate=1e-4", "training.max_steps=3", "custom.train_jsonl=a"]
    resolved = load_config(None, TrainConfig, [*settings, "training.hub_token=abc"]).resolved()
    assert resolved["training"]["hub_token"] == "***"
    assert resolved["training"]["output_dir"] == "o"
