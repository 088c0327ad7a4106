"""A Qwen3-VL folder gets the coordinate tokens: tied or not, padded or not, in one file or several."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.models.expand_vocab import expand_vocab
from coordexp.models.load import load_model, weight_files
from coordexp.models.tiny import build_tiny
from coordexp.recipes.stage1 import run_stage1
from coordexp.types.errors import CheckpointError

EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
TEXTS = ('{"object_1": {"desc": "red circle", "bbox_2d": ["', "System prompts, 1234567890 and\nünïcode", "<|im_start|>user\n<|vision_start|><|image_pad|>")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like a published checkpoint: no coordinate tokens."""
    return build_tiny(tmp_path_factory.mktemp("plain") / "plain", seed=0, with_coord_tokens=False)


def variant(plain: Path, dst: Path, *, num_padded: int = 0, is_tied: bool = True, dtype: torch.dtype = torch.float32, shard: str = "1GB") -> Path:
    shutil.copytree(plain, dst)
    (dst / "model.safetensors").unlink()
    model = Qwen3VLForConditionalGeneration.from_pretrained(plain, dtype=dtype)
    old = model.get_input_embeddings().weight
    with torch.no_grad():
        wider = torch.cat((old, torch.full((num_padded, old.shape[1]), 7.0, dtype=dtype)))
        model.resize_token_embeddings(len(wider), mean_resizing=False)
        model.get_input_embeddings().weight.copy_(wider)
        if not is_tied:
            model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(2.0 * wider + 0.01)
    model.save_pretrained(dst, max_shard_size=shard)
    return dst


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as stored:
            found |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    return found


CASES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"is_tied": False},
    "padded-with-enough": {"num_padded": 1100},
    "padded-with-some": {"num_padded": 41, "is_tied": False},
    "bfloat16-shards": {"num_padded": 41, "is_tied": False, "dtype": torch.bfloat16, "shard": "1MB"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_only_the_coordinate_rows_are_new(plain: Path, tmp_path: Path, case: dict[str, Any]) -> None:
    src = variant(plain, tmp_path / "src", **case)
    before = tensors(src)
    done = expand_vocab(src, tmp_path / "dst")
    after = tensors(tmp_path / "dst")
    loaded = load_model(tmp_path / "dst", dtype="float32")
    ids, num_old, num_tokens = list(loaded.coord_vocab.ids), len(before[EMBEDDING]), len(AutoTokenizer.from_pretrained(src))
    assert ids == list(range(num_tokens, num_tokens + 1000))
    num_rows = max(num_old, num_tokens + 1000)
    assert (done.rows_before, done.rows_after, done.first_id, done.last_id) == (num_old, num_rows, ids[0], ids[-1])
    assert set(done.matrices) == ({EMBEDDING, HEAD} if not case.get("is_tied", True) else {EMBEDDING})
    assert after.keys() == before.keys()
    for name, old in before.items():
        new = after[name]
        assert new.dtype == old.dtype
        if name not in done.matrices:
            assert torch.equal(new, old)
            continue
        kept = [row for row in range(num_old) if row not in set(ids)]
        assert len(new) == num_rows
        assert torch.equal(new[kept], old[kept])
        check_new_rows(new.float(), ids, digits=[TextTokenizer.of(loaded.tokenizer).encode(str(digit)).ids[0] for digit in range(10)])
    assert len(list((tmp_path / "dst").glob("*.safetensors"))) == len(weight_files(src))


def check_new_rows(matrix: torch.Tensor, ids: list[int], *, digits: list[int]) -> None:
    """They lie around the digits' mean at the digits' distance from it, neighbours are near each other, and no two are equal."""
    rows, numbers = matrix[ids], matrix[digits]
    spread = (numbers - numbers.mean(dim=0)).norm(dim=1).mean()
    assert (rows.mean(dim=0) - numbers.mean(dim=0)).norm() < 0.3 * spread
    assert 0.7 < (rows - numbers.mean(dim=0)).norm(dim=1).mean() / spread < 1.4
    steps = (rows[1:] - rows[:-1]).norm(dim=1)
    assert steps.min() > 0
    assert steps.max() < 0.3 * spread
    assert (rows[500:] - rows[:500]).norm(dim=1).min() > 3 * steps.max()


def test_files_agree_with_the_new_vocabulary(plain: Path, tmp_path: Path) -> None:
    src = variant(plain, tmp_path / "src", shard="1MB")
    (src / "optimizer.pt").write_bytes(b"state")
    (src / "vocab.json").write_text("{}")
    dst = tmp_path / "dst"
    done = expand_vocab(src, dst)
    config = json.loads((dst / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == done.rows_after
    assert "vocab_size" not in config
    index = json.loads((dst / "model.safetensors.index.json").read_text())
    stored = tensors(dst)
    assert index["metadata"]["total_size"] == sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    assert index["weight_map"].keys() == stored.keys()
    assert (dst / "generation_config.json").read_bytes() == (src / "generation_config.json").read_bytes()
    assert not (dst / "optimizer.pt").exists()
    assert not (dst / "vocab.json").exists()
    old, new = (TextTokenizer.of(AutoTokenizer.from_pretrained(folder)) for folder in (src, dst))
    assert [new.encode(text).ids for text in TEXTS] == [old.encode(text).ids for text in TEXTS]
    joined = "".join(coord_tokens())
    assert new.encode(joined).ids == load_model(dst).coord_vocab.ids
    assert new.encode(f'["{coord_tokens()[7]}", "{coord_tokens()[70]}"]').ids.count(load_model(dst).coord_vocab.ids[7]) == 1


def test_old_tokens_keep_their_logits(plain: Path, tmp_path: Path) -> None:
    expand_vocab(plain, tmp_path / "dst")
    old = Qwen3VLForConditionalGeneration.from_pretrained(plain, dtype=torch.float32).eval()
    new = load_model(tmp_path / "dst").model
    ids = torch.arange(40)[None]
    with torch.no_grad():
        expected, found = old(input_ids=ids).logits, new(input_ids=ids).logits
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, rtol=0, atol=1e-6)


def test_number_format_and_row_count_can_be_chosen(plain: Path, tmp_path: Path) -> None:
    done = expand_vocab(plain, tmp_path / "dst", dtype="bfloat16", pad_to_multiple_of=64)
    assert done.rows_after % 64 == 0
    stored = tensors(tmp_path / "dst")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "dst" / "config.json").read_text())
    assert (config["dtype"], config["text_config"]["vocab_size"]) == ("bfloat16", done.rows_after)
    padding = stored[EMBEDDING][done.last_id + 1 :].float()
    assert len(padding) == done.rows_after - done.last_id - 1 > 0
    assert padding.std(dim=0).max() == 0
    assert load_model(tmp_path / "dst", dtype="auto").model.dtype == torch.bfloat16


def with_some_tokens(src: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(src)
    tokenizer.add_tokens(list(coord_tokens()[:3]), special_tokens=True)
    tokenizer.save_pretrained(src)


def with_few_rows(src: Path) -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(src)
    model.resize_token_embeddings(100)
    model.save_pretrained(src)


def with_broken_weights(src: Path) -> None:
    (src / "model.safetensors").write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("damage", "settings", "message"),
    [
        pytest.param(with_some_tokens, {}, "the tokenizer has 3 of the 1000 coordinate tokens; start from the published", id="some-tokens"),
        pytest.param(with_few_rows, {}, "goes up to id .* and the embedding has 100 rows", id="few-rows"),
        pytest.param(with_broken_weights, {}, "cannot be read", id="broken"),
        pytest.param(None, {"dtype": "int8"}, "unknown dtype 'int8'; use one of float32", id="dtype"),
    ],
)
def test_folders_that_cannot_be_expanded_are_refused(
    plain: Path, tmp_path: Path, damage: Callable[[Path], None] | None, settings: dict[str, Any], message: str
) -> None:
    src = Path(shutil.copytree(plain, tmp_path / "src"))
    if damage is not None:
        damage(src)
    with pytest.raises(CheckpointError, match=message):
        expand_vocab(src, tmp_path / "dst", **settings)
    assert not (tmp_path / "dst").exists()


def test_a_folder_that_has_the_tokens_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has the coordinate tokens already; train on it as it is"):
        expand_vocab(tiny_folder, tmp_path / "dst")
    with pytest.raises(CheckpointError, match="would replace the old one"):
        expand_vocab(tiny_folder, tiny_folder)


@pytest.mark.slow
def test_an_expanded_folder_is_trained_and_opened(plain: Path, tmp_path: Path, make_stage1: Callable[..., Loaded[TrainConfig]]) -> None:
    src = variant(plain, tmp_path / "src", num_padded=41, is_tied=False)
    expand_vocab(src, tmp_path / "wide")
    settings = ("custom.coord_offset.enabled=true", "custom.coord_offset.tie_head=false", "tuner.train_type=lora", "tuner.lora_rank=4")
    run = run_stage1(make_stage1(f"model.model={tmp_path}/wide", *settings, "training.max_steps=6", "training.learning_rate=0.01", "training.save_steps=6"))
    losses = [json.loads(line)["loss"] for line in (run / "logging.jsonl").read_text().splitlines() if '"loss"' in line]
    assert losses[-1] < losses[0]
    assert load_model(run / "final").coord_vocab == load_model(tmp_path / "wide").coord_vocab
