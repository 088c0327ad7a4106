"""The table flag → key → default in the guide of evaluation, rendered from the command and its schema, so that it names every flag and none that is gone."""

from __future__ import annotations

import typer

from coordexp.cli.evaluate import app
from coordexp.config.evaluation import EvalConfig
from coordexp.config.schema import Setting, list_settings
from coordexp.config.unbuilt import show

BEGIN, END = "<!-- flags: generated from the command by `make docs`; do not edit -->\n", "<!-- end of flags -->"


def with_eval_flags(page: str) -> str:
    """`page` with the current table between its two marks.

    Raises:
        ValueError: a mark is missing.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the marks {BEGIN.strip()!r} and {END!r}")
    return f"{head}{begin}{render_eval_flags()}{end}{tail}"


def render_eval_flags() -> str:
    """One row a setting, in the order of the schema; `--config` alone has no key."""
    flags = eval_flags()
    rows = (_row(flags[setting.key], setting) for setting in list_settings(EvalConfig))
    config = "| `--config` | – | absent | Evaluation file (YAML); flags win over it. |"
    return "\n".join(["| flag | YAML key | default | meaning |", "|---|---|---|---|", config, *rows, ""])


def eval_flags() -> dict[str, str]:
    """Key → flag as the help spells it first: `{"overlay": "`--overlay` / `--no-overlay`"}`"""
    parameters = [parameter for parameter in typer.main.get_command(app).params if parameter.name]
    return {str(parameter.name): " / ".join(f"`{part[0]}`" for part in (parameter.opts, parameter.secondary_opts) if part) for parameter in parameters}


def _row(flag: str, setting: Setting) -> str:
    values = f" ({', '.join(f'`{show(choice)}`' for choice in setting.choices)})" if setting.choices else ""
    default = setting.default if setting.default == "required" else "absent" if setting.default == "null" else f"`{setting.default}`"
    return f"| {flag} | `{setting.key}` | {default} | {setting.meaning}{values} |"
