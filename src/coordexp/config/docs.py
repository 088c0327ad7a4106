"""Renders the reference page of configuration from the schema."""

from __future__ import annotations

from collections.abc import Iterator

from coordexp.config.evaluation import EvalConfig
from coordexp.config.fusion import FusionConfig
from coordexp.config.infer import InferConfig
from coordexp.config.prepare import PrepareConfig
from coordexp.config.schema import Setting, list_settings
from coordexp.config.sections import FileSection
from coordexp.config.train import TrainConfig
from coordexp.config.unbuilt import show

_HEAD = """# Configuration

<!-- Generated from coordexp.config by `make docs`; do not edit. -->

Five kinds of file, all YAML: training (`coordexp train`), mixtures of data sets for it, inference pipeline (`coordexp infer`), evaluation
(`coordexp eval`), preparation of a data set (`coordexp data prepare`).

- `coordexp config show <yaml> [key=value …]` prints the resolved file with the origin of each value;
  `coordexp config keys train|infer|eval|prepare` lists every setting (and `fusion`).
- An unknown key, a value of the wrong type and a duplicate key are errors that name the key, the file with its line, and the nearest
  known key. All problems of a file are listed.
- A setting that this version cannot do is an error that says so; the table at the end of each kind lists them.
- Words follow YAML 1.2: `1e-4` is a number, `no` and `off` are words; a switch takes true, false, yes, no, on, off.
- Relative paths count from the folder where the command runs; those in `extends` from the file that says them.
- `key=value` on the command line wins over files: `training.max_steps=5`, `eval.f1ish_iou_thrs=[0.5,0.75]`.
- Passwords, tokens, API keys and credentials in URLs are printed and recorded as `***`.
"""

_TRAIN_HEAD = """## Training file

`extends: <path>` or a list of paths: later files win over earlier ones, the file itself over all of them; sections merge key by key,
lists and values are replaced; circles are errors.

In `training`, every other name of `transformers.TrainingArguments` is accepted, checked and passed on.
`custom.extra.rollout_matching` is the same section as `rollout_matching`; give one of them.
"""

_FUSION_HEAD = """## Fusion file

Data sets that are mixed for training, named by `custom.fusion_config`; `extends` merges them by `name`.
What happens: [mixing data sets](../training/README.md#mixing-data-sets).
"""

_INFER_HEAD = """## Inference pipeline

One file, without `extends`. Flags of `coordexp infer` win over it.
"""

_EVAL_HEAD = """## Evaluation

One file; the same names as the flags of `coordexp eval`, with underscores. Flags win over it.
"""

_PREPARE_HEAD = """## Preparation of a data set

Annotations as they are found become record files: import, rescale, filter, coordinate tokens, validate. `extends` works as in a training file.
"""

_FIRST_SECTION = "top level"


def render_config_docs() -> str:
    """The text of docs/reference/configuration.md."""
    kinds: tuple[tuple[str, type[FileSection]], ...] = (
        (_TRAIN_HEAD, TrainConfig),
        (_FUSION_HEAD, FusionConfig),
        (_INFER_HEAD, InferConfig),
        (_EVAL_HEAD, EvalConfig),
        (_PREPARE_HEAD, PrepareConfig),
    )
    return "\n".join([_HEAD, *(line for head, model in kinds for line in _kind(head, model))])


def _kind(head: str, model: type[FileSection]) -> Iterator[str]:
    yield head
    groups: dict[str, list[Setting]] = {}
    for setting in list_settings(model):
        if setting.section is None and not setting.key.startswith("custom.extra.rollout_matching."):
            groups.setdefault(setting.key.rpartition(".")[0] or _FIRST_SECTION, []).append(setting)
    for section, settings in groups.items():
        yield f"### {section if section == _FIRST_SECTION else f'`{section}`'}\n"
        yield "| key | value | default | meaning |\n|---|---|---|---|"
        for setting in settings:
            yield _row(setting)
        yield ""
    if not model.unbuilt:
        return
    yield "### Not supported by this version\n"
    yield "| key | what works | what is missing |\n|---|---|---|"
    for row in model.unbuilt:
        yield f"| `{row.key}` | {', '.join('absent' if value is None else f'`{show(value)}`' for value in row.supported)} | {row.feature} |"
    yield ""


def _row(setting: Setting) -> str:
    values = ", ".join(f"`{show(choice)}`" for choice in setting.choices) or setting.type_words
    default = setting.default if setting.default == "required" else "absent" if setting.default == "null" else f"`{setting.default}`"
    return f"| `{setting.key.rpartition('.')[2]}` | {values} | {default} | {setting.meaning} |".replace("||", "|")
