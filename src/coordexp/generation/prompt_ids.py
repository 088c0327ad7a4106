"""Every backend must have generated from the prompt that training encodes: the same ids, or what is learned is about another prompt."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.generation.protocol import BackendLostError

_CONTEXT = 6
"""Tokens that are shown before and after the first difference."""


class PromptMismatchError(BackendLostError):
    """The backend works, on other prompts than the training: trying again changes nothing."""


def check_prompt_ids(used: Sequence[int], expected: Sequence[int], *, name: str) -> None:
    """Compare the ids that a backend says it generated from with those of the training encoding.

    Raises:
        PromptMismatchError: they differ; shows both sequences around the first difference.
    """
    if len(used) == len(expected) and all(int(a) == int(b) for a, b in zip(used, expected, strict=True)):
        return
    at = next((place for place, (a, b) in enumerate(zip(used, expected, strict=False)) if int(a) != int(b)), min(len(used), len(expected)))
    raise PromptMismatchError(
        f"the backend's prompt differs from the training encoding at token {at}: training ({len(expected)} tokens) {_around(expected, at)}, "
        f"backend ({len(used)} tokens) {_around(used, at)}",
        where=f"rollout of {name}",
        fix="let the backend use the checkpoint of the training: its tokenizer, chat template and image settings",
    )


def _around(ids: Sequence[int], at: int) -> str:
    start, end = max(0, at - _CONTEXT), at + _CONTEXT + 1
    shown = [f">{int(token)}<" if place == at else str(int(token)) for place, token in enumerate(ids[start:end], start=start)]
    if at >= len(ids):
        shown.append(">end<")
    return f"[{'… ' if start else ''}{' '.join(shown)}{' …' if end < len(ids) else ''}]"
