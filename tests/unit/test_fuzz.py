"""Damaged inputs: the readers of records, YAML, model answers and manifests refuse in a sentence or read what is there; none of them crashes or hangs.

Each input is a valid one with some bytes changed, cut, doubled or replaced by what is awkward. Nightly (`make test-full`) more than a million of them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from coordexp.codec.salvage import salvage_text
from coordexp.codec.scanner import scan_value
from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.config.yaml_source import parse_yaml
from coordexp.data.jsonl import read_line
from coordexp.data.rules import RecordReader
from coordexp.pipeline.finished import _fingerprint_of  # pyright: ignore[reportPrivateUsage]
from coordexp.types.errors import UserError

AWKWARD = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u", b"\\ud800", b"\x00", b"\xff\xfe", b"\xe2\x82", b"\r\n", b"\n", b"\t", b" "),
    *(b"NaN", b"-Infinity", b"1e999", b"-0", b"0x10", b"99999999999999999999", b"null", b"true", b"[" * 300, b"{" * 300, b'{"a":' * 300),
    *(
        b"<|coord_5|>",
        b"<|coord_1000|>",
        b"<|im_end|>",
        b"object_99999999999",
        b"&a *a",
        b"!!python/object:os.system",
        b"<<: *x",
        b"- ",
        b"? ",
        b"| ",
        b"%YAML 9.9",
    ),
)
RECORD = (
    b'{"images": ["a/b.png"], "width": 640, "height": 480, "coord_space": "pixel", "objects": [{"desc": "black cat", "bbox_2d": [1, 2, 30.5, 40]},'
    b' {"desc": "\xc3\xbc", "poly": [5, 5, 90, 5, 90, 80], "poly_points": 3}], "summary": "s", "metadata": {"k": [1, null]}}'
)
TOKENS = (
    b'{"images": ["b.png"], "width": 64, "height": 48, "objects": [{"desc": "dog", "bbox_2d": ["<|coord_1|>", "<|coord_2|>", "<|coord_30|>", "<|coord_40|>"]}]}'
)
ANSWER = (
    b'{"object_1": {"desc": "black cat", "bbox_2d": ["<|coord_110|>", "<|coord_310|>", "<|coord_410|>", "<|coord_705|>"]},'
    b' "object_2": {"desc": "a \\"quoted\\" \xe6\x97\xa5", "poly":'
    b' [["<|coord_1|>", "<|coord_2|>"], ["<|coord_3|>", "<|coord_4|>"], ["<|coord_5|>", "<|coord_6|>"]]}}'
)
YAML = b"""run: {name: a, output_dir: out}
stages: {infer: true, eval: false, vis: false}
infer:
  gt_jsonl: val.jsonl   # comment
  model_checkpoint: ckpt
  backend: {type: hf}
  generation: {temperature: 0.5, max_new_tokens: 12, seed: 1}
  prompt_labels: ["a", 'b', |
    c]
"""
MANIFEST = json.dumps(
    {"schema_version": 1, "fingerprint": "ab" * 32, "stages": {"infer": True}, "artifacts": {"gt_vs_pred": "x"}, "config": {"infer": {}}}
).encode()
LONGEST_S = 20.0
"""No single small input may take this long: what hangs takes for ever, and a busy machine is slow."""


def damaged(seeds: Iterable[bytes], *, count: int, rng: random.Random) -> Iterable[bytes]:
    originals = list(seeds)
    for _ in range(count):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            start = rng.randrange(len(data) + 1)
            end = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 40)))
            piece = rng.choice((b"", bytes(data[start:end]) * 2, rng.choice(AWKWARD), rng.randbytes(rng.randrange(1, 4))))
            data[start:end] = piece
        yield bytes(data)


def never_crashes(read: Callable[[bytes], object], inputs: Iterable[bytes]) -> int:
    """How many inputs were read without a complaint."""
    num_read = 0
    for data in inputs:
        start = time.process_time()
        try:
            num_read += read(data) is not None
        except UserError as error:
            if not str(error).strip():
                raise AssertionError(f"an error without a sentence for {data!r}") from error
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} for {data!r}") from error
        assert time.process_time() - start < LONGEST_S, data
    return num_read


def test_a_damaged_line_of_records_is_read_or_named(long_count) -> None:
    def read(data: bytes) -> object:
        reader = RecordReader("train")
        record = read_line(data.replace(b"\n", b" "), reader, number=2)
        assert (record is None) == bool(reader.violations), data
        return record

    count = long_count(3_000, 400_000)
    num_read = never_crashes(read, damaged([RECORD, TOKENS], count=count, rng=random.Random(1)))
    assert 0 < num_read < count


def test_a_damaged_answer_gives_what_can_be_saved(long_count) -> None:
    def read(data: bytes) -> object:
        text = data.decode("utf-8", errors="replace")
        scan_value(text)
        found = salvage_text(text)
        for item in found.objects:
            assert 0 <= item.char_span[0] < item.char_span[1] <= len(text)
        return found.objects or None

    count = long_count(2_000, 300_000)
    num_read = never_crashes(read, damaged([ANSWER], count=count, rng=random.Random(2)))
    assert 0 < num_read < count


def test_damaged_yaml_is_read_or_named(long_count) -> None:
    count = long_count(600, 250_000)
    num_read = never_crashes(
        lambda data: parse_yaml(data.decode("utf-8", errors="replace"), source="x.yaml"), damaged([YAML], count=count, rng=random.Random(3))
    )
    assert 0 < num_read < count


def test_a_damaged_configuration_file_is_loaded_or_refused(long_count, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return load_config(path, InferConfig)

    never_crashes(read, damaged([YAML], count=long_count(150, 20_000), rng=random.Random(4)))


def test_a_damaged_manifest_is_none(long_count, tmp_path: Path) -> None:
    path = tmp_path / "resolved_config.json"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return _fingerprint_of(path)

    count = long_count(1_000, 100_000)
    num_read = never_crashes(read, damaged([MANIFEST], count=count, rng=random.Random(5)))
    assert 0 < num_read < count
