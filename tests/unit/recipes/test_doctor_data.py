"""`coordexp doctor data`: a checkpoint beside a data file. What is planted into either is named; what the page shows is what the model sees."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.cli.main import main
from coordexp.data.diagnosis.findings import Check, Severity
from coordexp.data.jsonl import read_records
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.doctor_data import DoctorReport, examine_data
from coordexp.types.errors import CheckpointError, DataError

Change = Callable[[Path], None]


@pytest.fixture
def data(scenes_jsonl: Path, tmp_path: Path) -> Path:
    """A copy of a sound data set that may be spoiled."""
    shutil.copytree(scenes_jsonl.parent, tmp_path / "data", ignore=shutil.ignore_patterns("*.html"))
    return tmp_path / "data" / "val.jsonl"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The shipped checkpoint without its weights, which the doctor never reads."""
    shutil.copytree(tiny_checkpoint(), tmp_path / "checkpoint", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path / "checkpoint"


def examine(data: Path, checkpoint: Path, **options: Any) -> DoctorReport:
    return examine_data(data, model=checkpoint, page=data.parent / "page.html", **options)


def test_sound_data_have_no_finding_and_every_sample_is_shown_as_the_model_sees_it(data: Path, checkpoint: Path) -> None:
    report = examine(data, checkpoint, num_samples=5, global_max_length=400)
    assert (report.findings, report.exit_code, report.samples.num_encoded) == ((), 0, 5)
    records = {f"val.jsonl:{number}": record for number, record in enumerate(read_records(data), start=1)}
    for view in report.samples.views:
        record = records[view.name]
        assert view.model is not None
        assert view.model.picture is not None
        assert sorted(item.path for item in view.model.outlines) == sorted(item.path for item in view.source.outlines)
        assert sorted(item.name for item in view.model.outlines) == sorted(item.desc for item in record.objects)
        shown = Image.open(io.BytesIO(base64.b64decode(view.model.picture.uri.partition(",")[2])))
        assert shown.size == Image.open(data.parent / record.image).size
        assert view.notes == ()
        assert view.prompt.startswith("<|im_start|>system\nDetect objects.")
        assert view.answer.endswith("}<|im_end|>")
    page = report.page.read_text()
    assert page.count("<img") == 10
    assert "Nothing found" in page


def test_pixels_are_shown_where_they_lie_in_the_file(data: Path, checkpoint: Path) -> None:
    from coordexp.data.convert import convert_file

    pixels = convert_file(data, to="pixel").output
    report = examine(pixels, checkpoint, num_samples=3)
    assert report.findings == ()
    for view in report.samples.views:
        assert view.model is not None
        for own, read in zip(sorted(view.source.outlines, key=str), sorted(view.model.outlines, key=str), strict=True):
            numbers = [[float(value) for value in re.findall(r"[\d.]+", item.path)] for item in (own, read)]
            assert numbers[0] == pytest.approx(numbers[1], abs=0.51)


def without_coordinates(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda text: text.replace("<|coord_", "<|other_"))


def as_plain_vocabulary(folder: Path) -> None:
    """Some coordinate tokens are in the vocabulary, but no text is ever cut there."""
    document = json.loads((folder / "tokenizer.json").read_text())
    plain = [token for token in document["added_tokens"] if token["content"] in {"<|coord_7|>", "<|coord_998|>"}]
    document["added_tokens"] = [token for token in document["added_tokens"] if token not in plain]
    size = len(document["model"]["vocab"])
    document["model"]["vocab"] |= {token["content"]: size + number for number, token in enumerate(plain)}
    (folder / "tokenizer.json").write_text(json.dumps(document))


def with_first_token(folder: Path) -> None:
    """The tokenizer puts a token before every text that is tokenized as usual."""
    document = json.loads((folder / "tokenizer.json").read_text())
    first = {"id": "<|endoftext|>", "ids": [476], "tokens": ["<|endoftext|>"]}
    template = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, *document["post_processor"]["single"]]
    document["post_processor"] |= {"single": template, "special_tokens": {"<|endoftext|>": first}}
    (folder / "tokenizer.json").write_text(json.dumps(document))


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


def thinking(folder: Path) -> None:
    edit(folder / "chat_template.jinja", lambda text: text.replace("assistant\\n' }}{%- endif %}", "assistant\\n<think>\\n' }}{%- endif %}"))


def dated(folder: Path) -> None:
    edit(folder / "chat_template.jinja", lambda text: "{%- if false %}{{ strftime_now('%d') }}{%- endif %}" + text)


def narrow(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", lambda text: text.replace("1048576", "4096"))


def stock(folder: Path) -> None:
    """The limits of published checkpoints."""
    edit(folder / "preprocessor_config.json", lambda text: text.replace('"shortest_edge": 1024', '"shortest_edge": 65536').replace("1048576", "16777216"))


def coarse(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", lambda text: text.replace('"patch_size": 8', '"patch_size": 20'))


FAULTS: dict[str, tuple[Change, Check, Severity, str]] = {
    "no coordinate tokens": (without_coordinates, Check.COORD_TOKENS, Severity.ERROR, "the tokenizer has 0 of the 1000 coordinate tokens"),
    "tokens that text is not cut at": (as_plain_vocabulary, Check.COORD_TOKENS, Severity.ERROR, "2 of the 1000 coordinate tokens are cut into several tokens"),
    "a first token": (with_first_token, Check.PROMPT_IDS, Severity.ERROR, "7 of 7 prompts differ between training and inference"),
    "an answer that thinks first": (thinking, Check.CHAT_TEMPLATE, Severity.WARNING, "the chat template writes an answer differently: "),
    "a date in the prompt": (dated, Check.CHAT_TEMPLATE, Severity.WARNING, "the date of the day"),
    "a limit of pixels": (narrow, Check.PROCESSOR_RESIZES, Severity.ERROR, "7 of 7 images once more (7 outside of its pixel limits)"),
    "images that are too small": (stock, Check.PROCESSOR_RESIZES, Severity.ERROR, "7 of 7 images once more (7 outside of its pixel limits)"),
    "larger patches": (coarse, Check.PROCESSOR_RESIZES, Severity.WARNING, "(7 with sides that are no multiples of 40)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_checkpoint_is_the_one_that_is_named(data: Path, checkpoint: Path, name: str) -> None:
    change, check, severity, evidence = FAULTS[name]
    change(checkpoint)
    report = examine(data, checkpoint)
    assert [(finding.check, finding.severity) for finding in report.findings] == [(check, severity)]
    assert evidence in report.findings[0].what
    assert report.exit_code == (2 if severity is Severity.ERROR else 3)
    if check is Check.PROCESSOR_RESIZES:
        becomes = {"a limit of pixels": "64x64", "images that are too small": "256x256", "larger patches": "80x80"}[name]
        assert report.findings[0].places[0].note == f"96x96 becomes {becomes}"
    if name == "larger patches":
        assert report.samples.views[0].notes == ("The processor resizes this image from 96x96 to 80x80.",)


def test_samples_that_are_too_long_are_named_longest_first(data: Path, checkpoint: Path) -> None:
    tokens = sorted(examine(data, checkpoint).lengths.tokens.tolist(), reverse=True)
    (finding,) = examine(data, checkpoint, global_max_length=tokens[3]).findings
    assert (finding.check, finding.severity) == (Check.MAX_LENGTH, Severity.ERROR)
    assert [place.note for place in finding.places] == [f"{length} tokens" for length in tokens if length > tokens[3]]
    assert f"the longest has {tokens[0]} tokens" in finding.what
    assert examine(data, checkpoint, global_max_length=tokens[0]).findings == ()


def test_lengths_are_those_of_training(data: Path, checkpoint: Path) -> None:
    report = examine(data, checkpoint, num_samples=7)
    said = {view.name: sum(int(fact.partition(" ")[0]) for fact in view.facts if "tokens" in fact) for view in report.samples.views}
    assert [said[f"val.jsonl:{line}"] for line in report.lengths.lines] == report.lengths.tokens.tolist()


def test_a_record_that_training_refuses_is_shown_with_the_reason(data: Path, checkpoint: Path) -> None:
    (data.parent / "2.png").unlink()
    report = examine(data, checkpoint, num_samples=7)
    (view,) = [view for view in report.samples.views if view.image == "2.png"]
    assert (view.model, view.source.picture) == (None, None)
    assert "does not exist" in view.notes[0]
    assert "Training refuses this record." in report.page.read_text()
    assert report.samples.views[0] is view  # what has a finding comes first


def test_the_command_prints_findings_and_ends_with_the_code_of_the_worst(data: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["doctor", "data", str(data), "--model", str(checkpoint), "--samples", "2"]
    assert main(command) == 0
    page = data.parent / "val.doctor.html"
    assert capsys.readouterr().out == f"{data}: 7 records, 13 objects: 0 errors, 0 warnings, 0 notes; 2 samples in {page}\n"
    assert page.is_file()
    edit(data, lambda text: text.replace('"desc":"', '"desc":" ', 1))
    assert main([*command, "--output", str(data.parent / "other.html")]) == 3
    said = capsys.readouterr().out
    assert said.startswith("warning: label_spaces: 1 of 13 objects have names with leading")
    assert f"\n  {data}:" in said
    assert "\n  fix: strip the names" in said
    assert main([*command, "--json", "--global-max-length", "9"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert [finding["check"] for finding in report["findings"]] == ["max_length", "label_spaces"]
    assert (report["severity"], report["exit_code"], report["num_records"], len(report["samples"])) == ("error", 2, 7, 2)


def test_the_page_of_the_documentation_explains_every_check_and_its_command_runs(data: Path, checkpoint: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "data" / "doctor.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`", text, re.MULTILINE)
    assert [check.value for check in Check if check.value not in rows] == []
    command = text.partition("```bash\ncoordexp ")[2].partition("\n")[0]
    assert main([{"<checkpoint>": str(checkpoint)}.get(part, str(data) if part.endswith(".jsonl") else part) for part in command.split()]) == 0


def test_what_is_not_there_is_one_sentence(tmp_path: Path, checkpoint: Path, data: Path) -> None:
    with pytest.raises(DataError, match="the data file does not exist"):
        examine(tmp_path / "none.jsonl", checkpoint)
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
        examine(data, tmp_path)


def test_a_sample_whose_picture_ends_early_is_an_error(data: Path, checkpoint: Path) -> None:
    image = data.parent / read_records(data)[0].image
    image.write_bytes(image.read_bytes()[:-200])
    report = examine(data, checkpoint, num_samples=len(read_records(data)))
    (finding,) = [found for found in report.findings if found.check is Check.IMAGE_FILE]
    assert (finding.severity, [place.line for place in finding.places], report.exit_code) == (Severity.ERROR, [1], 2)
    assert "cannot be decoded" in finding.places[0].note
