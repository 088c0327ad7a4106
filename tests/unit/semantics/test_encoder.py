from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from coordexp.semantics.bert import gelu
from coordexp.semantics.encoder import LazyEncoder, NumpyEncoder, TransformersEncoder, load_encoder
from coordexp.semantics.lookup import EncoderFiles, find_encoder
from coordexp.semantics.protocol import TextEncoder
from coordexp.types.errors import BackendError

TEXTS = ["cat", "traffic light", "", "straße", "羊 🐑", "a pizza with a very long description " * 60, "dog", "wineglass stem cup"]


def test_rows_have_length_one_and_stand_in_the_order_of_the_texts(encoder: TextEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(vectors[6], encoder.encode(["dog"])[0], atol=1e-6)


def test_the_batch_size_changes_no_vector(encoder: TextEncoder) -> None:
    np.testing.assert_allclose(load_encoder(batch_size=1).encode(TEXTS), encoder.encode(TEXTS), atol=1e-6)


def test_a_lone_surrogate_is_read_as_a_question_mark(encoder: TextEncoder) -> None:
    broken, replaced = encoder.encode(["cat \ud800", "cat ?"])
    assert np.array_equal(broken, replaced)


def test_no_text_makes_no_rows(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_gelu_is_the_exact_one() -> None:
    from scipy.special import erf

    x = np.linspace(-12, 12, 40_001, dtype=np.float32).reshape(1, -1, 1)
    np.testing.assert_allclose(gelu(x), x * (1 + erf(x.astype(np.float64) / 2**0.5)) / 2, atol=6e-7)


def test_the_name_says_which_weights() -> None:
    names = {load_encoder(name).name for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")}
    assert len(names) == 1
    assert names.pop().startswith("sentence-transformers/all-MiniLM-L6-v2@")


def test_evaluating_with_the_packaged_encoder_loads_no_torch() -> None:
    code = (
        "import sys; from coordexp.semantics.encoder import load_encoder; load_encoder().encode(['cat']); print({'torch', 'transformers'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_another_batch_size_than_a_positive_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        load_encoder(batch_size=0)


def test_broken_weights_are_named(tmp_path: Path) -> None:
    folder = _copy_of_the_encoder(tmp_path, without=("model.safetensors",))
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(BackendError, match=r"model\.safetensors: does not hold the weights of its config\.json"):
        load_encoder(str(folder)).encode(["cat"])


def test_a_configuration_that_does_not_fit_the_weights_is_named(tmp_path: Path) -> None:
    folder = _copy_of_the_encoder(tmp_path)
    _edit(folder / "config.json", num_hidden_layers=7)
    with pytest.raises(BackendError, match=r"encoder\.layer\.6"):
        load_encoder(str(folder)).encode(["cat"])


@pytest.mark.slow
def test_numpy_and_transformers_agree(encoder: TextEncoder) -> None:
    import torch

    torch.set_num_threads(1)
    theirs = TransformersEncoder(find_encoder("all-MiniLM-L6-v2"), batch_size=3).encode(TEXTS)
    np.testing.assert_allclose(encoder.encode(TEXTS), theirs, atol=1e-5)


@pytest.mark.slow
def test_a_model_that_is_not_bert_is_opened_by_transformers(tmp_path: Path) -> None:
    from transformers import DistilBertConfig, DistilBertModel

    folder = _copy_of_the_encoder(tmp_path, without=("config.json", "model.safetensors"))
    DistilBertModel(DistilBertConfig(dim=16, hidden_dim=32, n_layers=1, n_heads=2)).save_pretrained(folder)
    loaded = load_encoder(str(folder))
    assert isinstance(loaded, TransformersEncoder)
    np.testing.assert_allclose(np.linalg.norm(loaded.encode(["cat", "a stop sign"]), axis=1), 1.0, atol=1e-6)


@pytest.mark.slow
def test_weights_that_transformers_cannot_read_are_one_sentence(tmp_path: Path) -> None:
    folder = _copy_of_the_encoder(tmp_path, without=("model.safetensors",))
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(BackendError, match="cannot be opened as a text encoder"):
        TransformersEncoder(find_encoder(str(folder))).encode(["cat"])


@pytest.mark.slow
@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_one_sentence(device: str) -> None:
    with pytest.raises(BackendError, match=rf"the text encoder cannot run on device '{device}': .*; choose --semantic-device cpu"):
        load_encoder(device=device)


@pytest.mark.parametrize(
    ("device", "absent", "sentence"),
    [
        ("cpu", "tokenizers", "a text encoder needs tokenizers; pip install 'coordexp[semantic]', or choose --label-match exact"),
        ("cuda", "torch", "the text encoder 'all-MiniLM-L6-v2' on device 'cuda' needs torch; pip install 'coordexp[train]', or choose --label-match exact"),
    ],
)
def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, device: str, absent: str, sentence: str) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(BackendError) as caught:
        load_encoder("all-MiniLM-L6-v2", device=device)
    assert str(caught.value) == sentence


def test_the_first_encode_reads_the_weights_and_not_the_loading(tmp_path: Path) -> None:
    encoder = NumpyEncoder(EncoderFiles("empty", tmp_path, "folder"))
    assert encoder.name.startswith("empty@")


def test_a_lazy_encoder_is_looked_for_at_the_first_use() -> None:
    missing = LazyEncoder("nowhere", device="nonsense")
    for use in (lambda: missing.name, lambda: missing.encode(["cat"])):
        with pytest.raises(BackendError, match="'nowhere' is not on this machine"):
            use()


def test_a_lazy_encoder_hands_on_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        LazyEncoder(batch_size=0).encode(["cat"])
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match="on device 'cuda' needs torch"):
        LazyEncoder(device="cuda").encode(["cat"])


def test_a_lazy_encoder_reads_from_disk_what_was_encoded_before(encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDEXP_CACHE", str(tmp_path))
    first, second = LazyEncoder(), LazyEncoder()
    assert first.name == encoder.name
    vectors = first.encode(["cat", "dog"])
    monkeypatch.setattr(NumpyEncoder, "encode", None)  # whoever asks it fails
    assert np.array_equal(second.encode(["dog", "cat"]), vectors[::-1])


def _copy_of_the_encoder(tmp_path: Path, *, without: tuple[str, ...] = ()) -> Path:
    """A real copy, 90 MB with the weights: through a link a test could change the installed package."""
    source = find_encoder("all-MiniLM-L6-v2").folder
    return shutil.copytree(source, tmp_path / "encoder", ignore=lambda _, names: [name for name in names if name in without])


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
