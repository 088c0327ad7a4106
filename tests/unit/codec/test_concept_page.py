from __future__ import annotations

import re
from pathlib import Path

from coordexp.codec.salvage import Broken
from coordexp.types.rollouts import DropReason

PAGE = Path(__file__, "../../../../docs/concepts/assistant-language.md").resolve().read_text()


def test_the_snippet_on_the_page_runs() -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(snippet, "assistant-language.md", "exec"), {})


def test_the_page_names_every_reason() -> None:
    assert [reason for reason in [*DropReason, *Broken] if reason not in PAGE] == []
