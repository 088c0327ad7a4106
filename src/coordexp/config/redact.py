"""Secrets out of what is written or printed: values of keys that name a secret, well-known token shapes, credentials inside URLs and headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

HIDDEN = "***"

_KEYS = r"(?:api|access|private|secret|signing|encryption)[_\-]?keys?"
_WORDS = rf"passwords?|passwd|pwd|passphrase|secrets?|credentials?|{_KEYS}|authorization|auth|cookies?|bearer"
_SECRET_KEY = re.compile(rf"(?:^|[_\-.])(?:tokens?|{_WORDS})$", re.IGNORECASE)
_NEVER_NUMBERS = re.compile(r"tokens?$", re.IGNORECASE)
"""Keys whose numbers are counts."""
_NOT_SECRET = frozenset({"coord_tokens", "max_new_tokens", "min_new_tokens", "private_key_path"})
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAME = rf"(?<![\w.\-])[\w.\-]*(?:token|password|passwd|pwd|passphrase|secret|credentials?|{_KEYS})"
_SECRET_VALUE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_\-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9\-]{10,}|AKIA[0-9A-Z]{16}|eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]*)"
)
_URL_CREDENTIALS = re.compile(r"(?P<scheme>(?<![a-zA-Z0-9+.\-])[a-zA-Z][a-zA-Z0-9+.\-]*://?)[^/\s]+@")
_QUERY_SECRET = re.compile(r"(?P<name>[?&](?:[\w\-]*(?:token|key|password|secret|signature|sig))=)[^&#\s]+", re.IGNORECASE)
_QUOTED_SECRET = re.compile(rf"""(?P<name>["']{_NAME}["']\s*[:=]\s*(?P<quote>["']))(?:\\.|(?!(?P=quote)).)*""", re.IGNORECASE)
_FLAG_SECRET = re.compile(rf"(?P<name>{_NAME}(?:=|:(?=[^\s/])))[^&\s]+", re.IGNORECASE)
_HEADER = re.compile(r"(?P<name>\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|digest|token)\s+)?)[^\s\"',]+", re.IGNORECASE)
_BEARER = re.compile(r"(?P<name>\bbearer\s+)\S+", re.IGNORECASE)


def redact(value: Any) -> Any:
    """A copy of JSON-like `value` without secrets.

    Example: `redact({"hub_token": "hf_abc", "url": "https://me:pw@host/v1"})` is `{"hub_token": "***", "url": "https://***@host/v1"}`.
    """
    if isinstance(value, dict):
        items = cast(dict[Any, Any], value).items()
        return {str(key): _hide(str(key), inner) if _names_secret(str(key)) else redact(inner) for key, inner in items}
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in cast(list[Any], value)]
    return value


def redact_text(text: str) -> str:
    """`text` without tokens and credentials; works on URLs, command-line arguments, headers and JSON."""
    text = _URL_CREDENTIALS.sub(rf"\g<scheme>{HIDDEN}@", text)
    for pattern in (_QUERY_SECRET, _QUOTED_SECRET, _FLAG_SECRET, _HEADER, _BEARER):
        text = pattern.sub(rf"\g<name>{HIDDEN}", text)
    return _SECRET_VALUE.sub(HIDDEN, text)


def redact_arguments(argv: Sequence[str]) -> list[str]:
    """A command line without secrets: `--hub-token x` and `training.hub_token=x` alike."""
    result: list[str] = []
    hide_next = False
    for argument in argv:
        result.append(HIDDEN if hide_next else _redact_argument(argument))
        hide_next = not hide_next and argument.startswith("-") and "=" not in argument and _names_secret(argument.lstrip("-"))
    return result


def _redact_argument(argument: str) -> str:
    """The whole value of an assignment is one secret, white space and all."""
    name, sign, value = argument.partition("=")
    return f"{name}={HIDDEN}" if sign and value and _names_secret(name.lstrip("-")) else redact_text(argument)


def _hide(key: str, value: Any) -> Any:
    """The value of a key that names a secret: its texts, and its numbers where they cannot be counts."""
    if isinstance(value, dict):
        return {str(inner): _hide(key, item) for inner, item in cast(dict[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_hide(key, item) for item in cast(list[Any], value)]
    if value is None or isinstance(value, bool) or value == "":
        return value
    return value if isinstance(value, int | float) and _NEVER_NUMBERS.search(key) else HIDDEN


def _names_secret(key: str) -> bool:
    return key.rpartition(".")[2].lower() not in _NOT_SECRET and _SECRET_KEY.search(_HUMP.sub("_", key)) is not None
