"""What the evaluator says about answers is read from the very lines that inference writes."""

import json
from pathlib import Path

from coordexp.evaluation.evaluate import evaluate
from coordexp.pipeline.artifacts import result_to_line
from coordexp.pipeline.source import iter_source

CAT = '"desc": "cat", "bbox_2d": ["<|coord_0|>", "<|coord_0|>", "<|coord_999|>", "<|coord_500|>"]'


def test_health_is_that_of_the_answers(make_inference, draw, tmp_path: Path) -> None:
    answers = {
        1: f'{{"object_1": {{{CAT}}}, "object_2": {{{CAT}}}}}',
        2: f'{{"object_1": {{{CAT}}}, "object_2": {{"desc": "x", "line": [1, 2]}}, "object_3": {{"de',
        3: '{"object_1": {"desc": "y", "bbox_2d": ["<|coord_9|>", "<|coord_9|>", "<|coord_1|>", "<|coord_1|>"]}}',
    }
    images = [draw("a.png"), draw("b.png"), draw("c.png"), "missing.png"]
    records = [{"images": [image], "width": 64, "height": 32, "objects": []} for image in images]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    inference, _ = make_inference(answers)
    lines = [result_to_line(result) for window in inference.run(list(iter_source(tmp_path / "val.jsonl"))) for result in window.results]
    health = evaluate([json.loads(line) for line in lines]).analysis.health
    assert (health.num_images, health.num_answers, health.finish_reasons, health.failed) == (4, 3, {"stop": 3}, 0.25)
    assert health.malformed_entries == {"geometry_kind": 1, "invalid_json": 1, "degenerate": 1}
    assert (health.malformed, health.empty) == (0.5, 1 / 3)
    assert (health.num_duplicates, health.duplicates, health.pred_objects.max) == (1, 1 / 3, 2)
