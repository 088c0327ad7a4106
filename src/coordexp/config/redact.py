"""Secrets out of what is written or printed: values of keys that name a secret, well-known token shapes, credentials inside URLs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

HIDDEN = "***"

_SECRET_KEY = re.compile(
    r"(?:^|[_\-.])(?:tokens?|passwords?|passwd|secrets?|credentials?|api[_\-]?keys?|access[_\-]?keys?|private[_\-]?keys?|authorization|auth)$", re.IGNORECASE
)
_NOT_SECRET = frozenset({"coord_tokens", "max_new_tokens", "min_new_tokens", "private_key_path"})
_SECRET_VALUE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_\-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9\-]{10,}|AKIA[0-9A-Z]{16}|eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]*)"
)
_URL_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.\-]*://)[^/\s@]+@")
_QUERY_SECRET = re.compile(r"(?P<name>[?&](?:[\w\-]*(?:token|key|password|secret|signature|sig))=)[^&#\s]+", re.IGNORECASE)
_FLAG_SECRET = re.compile(r"(?P<name>[\w.\-]*(?:token|password|secret|api_?key)=)[^&\s]+", re.IGNORECASE)
_BEARER = re.compile(r"(?P<name>\bbearer\s+)\S+", re.IGNORECASE)


def redact(value: Any) -> Any:
    """A copy of JSON-like `value` without secrets.

    Example: `redact({"hub_token": "hf_abc", "url": "https://me:pw@host/v1"})` is `{"hub_token": "***", "url": "https://***@host/v1"}`.
    """
    if isinstance(value, dict):
        items = cast(dict[Any, Any], value).items()
        return {str(key): HIDDEN if _is_secret(str(key), inner) else redact(inner) for key, inner in items}
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in cast(list[Any], value)]
    return value


def redact_text(text: str) -> str:
    """`text` without tokens and credentials; works on URLs, command-line arguments and headers."""
    text = _URL_CREDENTIALS.sub(rf"\g<scheme>{HIDDEN}@", text)
    for pattern in (_QUERY_SECRET, _FLAG_SECRET, _BEARER):
        text = pattern.sub(rf"\g<name>{HIDDEN}", text)
    return _SECRET_VALUE.sub(HIDDEN, text)


def redact_arguments(argv: Sequence[str]) -> list[str]:
    """A command line without secrets: `--hub-token x` and `training.hub_token=x` alike."""
    result: list[str] = []
    hide_next = False
    for argument in argv:
        result.append(HIDDEN if hide_next else redact_text(argument))
        hide_next = not hide_next and argument.startswith("-") and "=" not in argument and _is_secret(argument.lstrip("-"), argument)
    return result


def _is_secret(key: str, value: Any) -> bool:
    has_content = isinstance(value, str) and value != ""
    return has_content and key.lower() not in _NOT_SECRET and _SECRET_KEY.search(key) is not None
