"""`coordexp data`: the whole chain from drawn shapes to a valid token file, and one sentence for each wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from coordexp.cli.main import main
from coordexp.data.jsonl import read_records


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs `coordexp data …` in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> tuple[int, str, str]:
        code = main(["data", *line.split()])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_chain_of_the_documentation_runs_and_ends_each_step_with_numbers(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = (Path(__file__).parents[2] / "docs" / "data" / "README.md").read_text(encoding="utf-8")
    commands = page.partition("```bash\n")[2].partition("```")[0].splitlines()
    results = [run(command.removeprefix("coordexp data ")) for command in commands]
    assert [code for code, _, _ in results] == [0] * 5
    outputs = [out for _, out, _ in results]
    assert outputs[0].startswith("wrote raw/instances_shapes.json: 20 images, ")
    assert outputs[1].startswith("wrote public_data/shapes/source/train.jsonl: 20 images (")
    assert outputs[2].endswith("objects, 20 images changed size\n")
    assert outputs[3].startswith("wrote public_data/shapes/rescale_32_768/train.coord.jsonl: 20 records, ")
    assert outputs[4].endswith("no errors\n")
    records = read_records(tmp_path / "public_data/shapes/rescale_32_768/train.coord.jsonl")
    assert {(record.width, record.height, record.coord_space) for record in records} == {(256, 256, "token")}


def test_the_record_of_the_documentation_is_valid(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    page = (Path(__file__).parents[2] / "docs" / "data" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "train.jsonl").write_text(page.partition("```json\n")[2].partition("```")[0])
    assert run("validate train.jsonl --no-images")[1] == "train.jsonl: 1 records (1 in pixel), 2 objects, 0 without objects, no errors\n"


def test_an_import_takes_the_options_of_its_format_and_those_of_all_formats(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.01 0.5\n")
    (tmp_path / "data.yaml").write_text("val: images\nnames: [cat, dog]\n")
    (tmp_path / "labels.yaml").write_text("cat: feline\n")
    line = "import yolo data.yaml --split val --output out/val.jsonl --labels labels.yaml --min-side 2 --max-objects 1 --over-limit first"
    code, out, _ = run(line)
    assert (code, out) == (
        0,
        "wrote out/val.jsonl: 1 images (0 without objects), 1 objects, 1 objects left out, smaller than 2 pixels, 1 images linked\n",
    )
    (record,) = read_records(tmp_path / "out" / "val.jsonl")
    assert (record.objects[0].desc, record.objects[0].points) == ("feline", (10, 5, 30, 15))
    assert run("import yolo data.yaml --output out/train.jsonl")[2] == "error: data.yaml: there is no split 'train'; choose one of: val\n"


@pytest.mark.slow
def test_digits_are_made_with_their_settings_on_the_command_line(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("make digits --output digits --scenes 2 --size 96 --max-side 40 --fold val --max-objects 2 --name mine")
    assert (code, (tmp_path / "digits" / "instances_mine.json").is_file()) == (0, True)
    assert "2 images" in out


def test_a_split_that_the_package_does_not_have_is_named(run) -> None:  # type: ignore[no-untyped-def]
    code, _, err = run("make split nothing --output x")
    assert code == 2
    assert "no split 'nothing'; use one of " in err


def test_make_refuses_a_folder_that_holds_something_else(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    code, _, err = run("make shapes --output home --scenes 1")
    assert (code, err) == (2, "error: home: the folder would be replaced, but it holds thesis.tex; choose a new folder\n")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years"


def write(folder: Path, **fields: object) -> None:
    record = {"images": ["a.png"], "objects": [], "width": 8, "height": 6, "coord_space": "pixel"} | fields
    (folder / "train.jsonl").write_text(json.dumps(record) + "\n")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("coord nowhere.jsonl", "error: nowhere.jsonl: the data file does not exist; check the path"),
        ("import coco nowhere.json --images . --output out/a.jsonl", "error: nowhere.json: the COCO file does not exist; check the path"),
        ("rescale train.jsonl --into out --preset tall", "error: rescale preset: 'tall' is not a preset; name it rescale_<multiple>_<blocks>"),
        ("rescale train.jsonl --into out", "error: train.jsonl:1: the image a.png does not exist; image paths are relative to"),
        ("coord train.jsonl --to degrees", "error: Invalid value for '--to': "),
        ("coord broken.jsonl", "error: broken.jsonl:1: objects[0].bbox_2d: x2=1 < x1=5; run 'coordexp data validate broken.jsonl' to list all"),
    ],
)
def test_wrong_input_is_one_sentence_exit_code_two_and_nothing_written(run, tmp_path: Path, line: str, sentence: str) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path, objects=[{"desc": "cat", "bbox_2d": [5, 1, 1, 3]}])
    (tmp_path / "train.jsonl").rename(tmp_path / "broken.jsonl")
    write(tmp_path)
    code, out, err = run(line)
    last = err.strip().splitlines()[-1]
    assert (code, out) == (2, "")
    assert last.startswith(sentence)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jsonl", "train.jsonl"]


def test_validate_lists_errors_then_sums_up_and_ends_with_two(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path, width=0, height=0)
    code, out, _ = run("validate train.jsonl --no-images --max-errors 1")
    assert code == 2
    assert out.splitlines() == [
        "train.jsonl:1: width: 0 is not a whole number above 0; write the width of the image in pixels",
        "... and 1 more errors (--max-errors 0 prints all)",
        "train.jsonl: 1 records, 0 objects, 0 without objects, 2 errors (size: 2)",
    ]
    code, out, _ = run("validate train.jsonl --no-images --json")
    assert (code, json.loads(out)["errors_by_rule"]) == (2, {"size": 2})


def test_help_of_the_data_commands_loads_nothing_heavy() -> None:
    code = "import sys, coordexp.cli.data; print(sorted({'numpy', 'PIL', 'msgspec', 'pycocotools', 'sklearn', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
