"""Files appear complete, under names known before the run, with bytes that depend on the result alone."""

import json
from pathlib import Path

import pytest

from coordexp.pipeline.artifacts import ArtifactPaths, check_writable, find_image_root, result_to_line, write_manifest
from coordexp.pipeline.finished import fingerprint, is_finished
from coordexp.types.errors import OutputError
from coordexp.types.predictions import Detection, SampleResult, ScoreParts

RESULT = SampleResult(
    image="a.png",
    width=64,
    height=32,
    mode="coord",
    coord_mode="pixel",
    gt=(Detection("cat", "bbox_2d", (0, 0, 63, 16), (0.0, 0.0, 63.0, 15.6)),),
    pred=(Detection("Käse", "bbox_2d", (0, 0, 63, 15), (0.0, 0.0, 63.0, 15.25), 0.25, ScoreParts(0.5, 0.5)),),
    raw_output='{"a"\u2028}',
    finish_reason="stop",
    score_source="token_probs",
)


def test_a_line_has_the_promised_keys_in_order() -> None:
    line = json.loads(result_to_line(RESULT))
    promised = ["image", "width", "height", "mode", "coord_mode", "gt", "pred", "raw_output", "errors"]
    assert list(line)[:9] == promised
    assert line["gt"] == [{"type": "bbox_2d", "points": [0, 0, 63, 16], "points_exact": [0.0, 0.0, 63.0, 15.6], "desc": "cat"}]
    parts = {"desc": 0.5, "coord": 0.5}
    exact = [0.0, 0.0, 63.0, 15.25]
    assert line["pred"] == [{"type": "bbox_2d", "points": [0, 0, 63, 15], "points_exact": exact, "desc": "Käse", "score": 0.25, "score_parts": parts}]
    assert list(line["pred"][0]) == ["type", "points", "points_exact", "desc", "score", "score_parts"]


def test_explicit_paths_replace_the_usual_ones() -> None:
    paths = ArtifactPaths.under(Path("out/run"), summary=Path("elsewhere/s.json"), eval_dir=None)
    assert paths.summary == Path.cwd() / "elsewhere/s.json"
    assert paths.eval_dir == Path.cwd() / "out/run/eval"


@pytest.mark.parametrize(
    ("environment", "configured", "gt", "expected"),
    [
        ({"ROOT_IMAGE_DIR": "/env"}, Path("/conf"), Path("/data/val.jsonl"), ("/env", "env")),
        ({"ROOT_IMAGE_DIR": ""}, Path("/conf"), Path("/data/val.jsonl"), ("/conf", "config")),
        ({}, None, Path("/data/val.jsonl"), ("/data", "gt_parent")),
        ({}, None, None, ("None", "none")),
    ],
)
def test_the_image_root_names_its_source(environment: dict, configured: Path | None, gt: Path | None, expected: tuple[str, str]) -> None:
    root = find_image_root(environment=environment, configured=configured, gt_jsonl=gt)
    assert (str(root.folder), root.source) == expected


def test_a_probe_of_the_output_leaves_no_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        check_writable(tmp_path / "file" / "run")


def test_paths_come_back_from_the_manifest(tmp_path: Path) -> None:
    paths = ArtifactPaths.under(tmp_path / "run", summary=tmp_path / "s.json")
    assert ArtifactPaths.from_dict(paths.as_dict()) == paths


def test_a_finished_run_is_recognized_and_another_one_protected(tmp_path: Path) -> None:
    data, checkpoint = tmp_path / "val.jsonl", tmp_path / "ckpt"
    data.write_text("{}\n")
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    paths = ArtifactPaths.under(tmp_path / "run")
    mark = fingerprint({"limit": 5}, gt_jsonl=data, checkpoint=checkpoint)
    assert not is_finished(paths, mark)
    write_manifest(
        paths, stages={"infer": True}, image_root=find_image_root(environment={}, configured=None, gt_jsonl=data), config={}, details={"fingerprint": mark}
    )
    paths.gt_vs_pred.write_text("")
    assert not is_finished(paths, mark)
    paths.summary.write_text("{}")
    assert is_finished(paths, mark)
    data.write_text("{} \n")
    with pytest.raises(OutputError, match="other settings, data or weights"):
        is_finished(paths, fingerprint({"limit": 5}, gt_jsonl=data, checkpoint=checkpoint))
