"""The numbers of the model card come out of one command."""

import json
import re
from pathlib import Path

import pytest
import torch

from coordexp.recipes.tiny_scores import run_tiny_score

CARD = Path(__file__).parents[2] / "docs" / "models" / "tiny.md"
COLUMNS = ("f1_det@0.50", "f1_det@0.75", "f1_det_miou", "mean_matched_iou")


@pytest.mark.slow
def test_the_command_reproduces_the_scores_of_the_model_card(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    scores = json.loads(run_tiny_score(tmp_path / "scores").read_text())
    card = CARD.read_text(encoding="utf-8")
    for name, score in scores.items():
        row = re.search(rf"^\| {name} \| {score['num_scenes']} \| {score['num_objects']} \|(.*)\|$", card, flags=re.MULTILINE)
        assert row is not None, name
        # another processor may round a coordinate differently: one object in a hundred
        assert [float(cell) for cell in row[1].split("|")] == pytest.approx([score[key] for key in COLUMNS], abs=0.01)
    assert scores["shapes-val"]["f1_det@0.50"] >= 0.93
    assert scores["shapes-val"]["mean_matched_iou"] >= 0.88
    assert scores["digits-val"]["f1_det@0.50"] >= 0.70
