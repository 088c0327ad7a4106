from __future__ import annotations

import re
from pathlib import Path

import pytest

from coordexp.codec.salvage import Broken
from coordexp.types.rollouts import DropReason

FOLDER = Path(__file__, "../../../../docs/concepts").resolve()
PAGE = (FOLDER / "assistant-language.md").read_text()


@pytest.mark.parametrize("name", ["assistant-language.md", "rollout-targets.md"])
def test_the_snippets_on_the_page_run(name: str) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (FOLDER / name).read_text(), flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, name, "exec"), {})


def test_the_page_names_every_reason() -> None:
    assert [reason for reason in [*DropReason, *Broken] if reason not in PAGE] == []
