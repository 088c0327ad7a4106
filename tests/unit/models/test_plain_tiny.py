"""The shipped checkpoint without its coordinate tokens: what a published Qwen3-VL is."""

from pathlib import Path

import pytest
import torch

from coordexp.cli.main import main
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import load_model

TEXT = '{"object_1": {"desc": "red circle", "bbox_2d": [1, 2, 33, 44]}}'


def test_everything_but_the_coordinate_rows_is_kept_and_expanding_gives_a_model_that_can_be_trained(tmp_path: Path) -> None:
    assert main(["model", "tiny", "--trained", "--without-coord-tokens", "-o", str(tmp_path / "plain")]) == 0
    shipped, plain = (load_model(folder, dtype="float32", needs_coord_tokens=False) for folder in (tiny_checkpoint(), tmp_path / "plain"))
    assert not plain.coord_vocab.ids
    hidden = []
    for loaded in (shipped, plain):
        ids = torch.tensor([loaded.tokenizer.encode(TEXT, add_special_tokens=False)])
        with torch.no_grad():
            hidden.append(loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[-1])
    assert torch.equal(hidden[0], hidden[1])
    assert main(["model", "expand-vocab", "--src", str(tmp_path / "plain"), "--dst", str(tmp_path / "coord")]) == 0
    assert len(load_model(tmp_path / "coord", dtype="float32").coord_vocab.ids) == 1000


@pytest.mark.parametrize("words", [["--trained"], ["--trained", "--pretrain", "--without-coord-tokens"]])
def test_trained_alone_means_the_checkpoint_of_the_package(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "tiny", "-o", str(tmp_path / "x"), *words]) == 2
    assert "--trained goes with --without-coord-tokens alone" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
