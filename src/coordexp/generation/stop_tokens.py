"""Where a response ends: the same tokens on every backend."""

from __future__ import annotations

from typing import Any

from coordexp.codec.serialize import END_TEXT


def stop_token_ids(generation_config: Any, tokenizer: Any) -> list[int]:
    """The end of a turn, and what else the checkpoint's own generation settings (None: it has none) end at (Qwen: also the end of a text)."""
    configured = generation_config.eos_token_id if generation_config is not None else None
    more = [] if configured is None else configured if isinstance(configured, list) else [configured]
    return list(dict.fromkeys([int(tokenizer.convert_tokens_to_ids(END_TEXT)), *map(int, more)]))
