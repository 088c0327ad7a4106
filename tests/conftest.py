"""The two forms of the tests, and a tiny untrained checkpoint with a small data set of drawn boxes, shared by the tests of training.

`make test` runs every test in its short form, with the same examples each time. `make test-full` (COORDEXP_LONG=1) runs the same tests with twenty times as
many examples, other ones each time. A test with a long form carries the marker `long`: `COORDEXP_LONG=1 pytest -m long` runs these alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from PIL import Image, ImageDraw

from .workers import TwoWorkers, check_server_files, starts_server

if TYPE_CHECKING:
    from coordexp.config.loading import Loaded
    from coordexp.config.train import TrainConfig
    from coordexp.generation.server_process import ServerProcess

Stage1Maker = Callable[..., "Loaded[TrainConfig]"]

_IS_LONG = os.environ.get("COORDEXP_LONG", "0") not in {"", "0"}
_SHORT_EXAMPLES, _LONG_EXAMPLES = 100, 2000

settings.register_profile("short", max_examples=_SHORT_EXAMPLES, deadline=None, derandomize=True)
settings.register_profile("long", max_examples=_LONG_EXAMPLES, deadline=None, print_blob=True)
settings.load_profile("long" if _IS_LONG else "short")

_SIZES = ((64, 64), (96, 64), (48, 80))
_COLOURS = ("red", "green", "blue")
_left_out: set[str] = set()


def pytest_configure() -> None:
    """A test command that was started in the background ignores Ctrl-C, and so would every command that a test starts: interrupts are taken as usual."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"form: {'long' if _IS_LONG else 'short (COORDEXP_LONG=1 for the long one)'}"


def pytest_itemcollected(item: pytest.Item) -> None:
    """What has a long form carries the marker `long`: property tests, and loops that take their count from `long_count`."""
    is_property = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
    if is_property or "long_count" in getattr(item, "fixturenames", ()):
        item.add_marker("long")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TwoWorkers | None:
    return TwoWorkers(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    check_server_files(items)
    if os.environ.get("NO_BROWSER") == "1":
        _leave_out_browser(config, items)


def _leave_out_browser(config: pytest.Config, items: list[pytest.Item]) -> None:
    browser = [item for item in items if item.get_closest_marker("browser")]
    items[:] = [item for item in items if item not in browser]
    config.hook.pytest_deselected(items=browser)
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = [item.nodeid for item in browser]  # pyright: ignore[reportAttributeAccessIssue]
    else:
        _left_out.update(item.nodeid for item in browser)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _left_out.update(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name in sorted(_left_out):
        terminalreporter.write_line(f"NO_BROWSER=1: not run: {name}")


@pytest.fixture(scope="session")
def long_count() -> Callable[[int, int], int]:
    """How many cases a loop runs. Example: `for seed in range(long_count(200, 20_000)):`"""
    return lambda short, long: long if _IS_LONG else short


@pytest.fixture(scope="session", autouse=True)
def _own_embedding_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """Text embeddings of tests, also of commands that tests start, stay out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COORDEXP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """Whether two nested states of tensors, arrays and plain values are equal to the last bit."""
    return _is_same


def _is_same(first: Any, second: Any) -> bool:
    import torch

    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_is_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_is_same, first, second))
    return bool((first == second).all()) if hasattr(first, "all") else first == second


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from coordexp.models.tiny import build_tiny

    return build_tiny(tmp_path_factory.mktemp("shared") / "tiny", seed=0)


@pytest.fixture(scope="session")
def untied_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """The tiny checkpoint with a head of its own, other numbers than the embedding's."""
    import torch

    from coordexp.models.export import save_checkpoint
    from coordexp.models.load import load_model
    from coordexp.models.merge import untie_head

    loaded = load_model(tiny_folder)
    untie_head(loaded.model)
    head = loaded.model.lm_head.weight
    with torch.no_grad():
        head += 0.02 * torch.randn(head.shape, generator=torch.Generator().manual_seed(1))
    return save_checkpoint(loaded, tmp_path_factory.mktemp("shared") / "untied")


@pytest.fixture(scope="session")
def boxes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train.jsonl` with 10 records and `val.jsonl` with 5, images of three sizes, 0 to 3 objects each."""
    folder = tmp_path_factory.mktemp("boxes")
    (folder / "images").mkdir()
    generator = random.Random(0)
    for split, count in (("train", 10), ("val", 5)):
        lines = [json.dumps(_draw_record(folder, f"{split}{number}", number, generator)) + "\n" for number in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def encode_boxes(boxes_folder: Path) -> Callable[..., list[Any]]:
    """The first records of `boxes_folder` as segments of a checkpoint. Example: `encode_boxes(loaded, 4)`"""
    from coordexp.batching.prompt import PromptEncoder
    from coordexp.data.convert import to_norm1000
    from coordexp.data.jsonl import read_records
    from coordexp.training.samples import SampleSettings, SegmentSource

    def encode(loaded: Any, count: int) -> list[Any]:
        records = [to_norm1000(record) for record in read_records(boxes_folder / "train.jsonl", dataset="boxes")]
        encoder = PromptEncoder(loaded.processor)
        source = SegmentSource(
            records, image_root=boxes_folder, encoder=encoder, tokenizer=loaded.tokenizer, coord_vocab=loaded.coord_vocab, settings=SampleSettings()
        )
        return [source.encode(index, epoch=0) for index in range(count)]

    return encode


@pytest.fixture(scope="session")
def scenes_jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data file with 7 drawn scenes of the kind that the shipped checkpoint knows, 96 x 96 pixels, coordinates in bins."""
    from coordexp.data.synthetic import SceneSettings, write_scene_records

    settings = SceneSettings(name="tests", kind="shapes", seed=5, num_scenes=7, max_objects=3)
    return write_scene_records(settings, tmp_path_factory.mktemp("scenes") / "val.jsonl", side=96, space="norm1000")


@pytest.fixture(scope="session")
def write_stage1(tiny_folder: Path, boxes_folder: Path) -> Callable[[Path], Path]:
    """Writes `stage1.yaml` of a short run into a folder; its runs go to `runs` beside it."""

    def write(folder: Path) -> Path:
        file = folder / "stage1.yaml"
        file.write_text(
            f"model: {{model: {tiny_folder}, torch_dtype: float32}}\n"
            f"training: {{output_dir: {folder}/runs, run_name: boxes, learning_rate: 1.0e-3, max_steps: 4, per_device_train_batch_size: 2,"
            " effective_batch_size: 4, logging_steps: 1, save_strategy: steps, save_steps: 2, warmup_steps: 1, use_cpu: true, seed: 3}\n"
            f"custom: {{train_jsonl: {boxes_folder}/train.jsonl, val_jsonl: {boxes_folder}/val.jsonl, coord_soft_ce_w1: {{ce_weight: 0.1}}}}\n"
        )
        return file

    return write


@pytest.fixture
def make_stage1(tmp_path: Path, write_stage1: Callable[[Path], Path]) -> Stage1Maker:
    """Configuration of a short run into `tmp_path / "runs"`; arguments are dotted overrides such as `"training.seed=1"`."""
    file = write_stage1(tmp_path)

    def make(*overrides: str) -> Loaded[TrainConfig]:
        from coordexp.config.loading import load_config
        from coordexp.config.train import TrainConfig

        return load_config(file, TrainConfig, overrides)

    return make


@pytest.fixture
def make_ab(make_stage1: Stage1Maker, scenes_jsonl: Path) -> Stage1Maker:
    """Configuration of a run of both channels in turn from the shipped checkpoint; overrides win."""
    from coordexp.models.assets import tiny_checkpoint

    settings = (
        f"model.model={tiny_checkpoint()}",
        f"custom.train_jsonl={scenes_jsonl}",
        f"custom.val_jsonl={scenes_jsonl}",
        "custom.trainer_variant=stage2_ab_training",
        "training.learning_rate=1e-4",
        "stage2_ab.schedule.b_ratio=0.5",
        "stage2_ab.coord_ce_weight=1.0",
        "rollout_matching.max_new_tokens=128",
        "rollout_matching.rollout_infer_batch_size=4",
    )
    return lambda *overrides: make_stage1(*settings, *overrides)


@pytest.fixture
def train_with_two_processes(tmp_path: Path) -> Callable[..., Path]:
    """Trains a file, with overrides, in two processes under torchrun into `tmp_path / "both"`; the run folder."""

    def train(config: Path | None, *overrides: str) -> Path:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--module", "coordexp"]
        command = [*launcher, "train", "--config", str(config), *overrides, f"training.output_dir={tmp_path}/both"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (run,) = (tmp_path / "both").glob("v0-*/boxes")
        return run

    return train


def _draw_record(folder: Path, name: str, number: int, generator: random.Random) -> dict[str, Any]:
    width, height = _SIZES[number % len(_SIZES)]
    image = Image.new("RGB", (width, height), "white")
    objects: list[dict[str, Any]] = []
    for index in range(number % 4):
        x, y = generator.randrange(width - 16), generator.randrange(height - 16)
        box = [x, y, x + generator.randrange(8, 16), y + generator.randrange(8, 16)]
        ImageDraw.Draw(image).rectangle(box, fill=_COLOURS[index])
        objects.append({"desc": f"{_COLOURS[index]} square", "bbox_2d": box})
    image.save(folder / "images" / f"{name}.png")
    return {"images": [f"images/{name}.png"], "objects": objects, "width": width, "height": height, "coord_space": "pixel"}


@pytest.fixture(scope="session")
def starting_vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """`vllm_server` from the moment when its process begins."""
    from coordexp.generation.engine import find_python
    from coordexp.generation.server_process import ServerOptions, ServerProcess
    from coordexp.models.assets import tiny_checkpoint
    from coordexp.recipes.doctor import free_port

    options = ServerOptions(model=tiny_checkpoint(), port=free_port(), dtype="float32", max_model_len=2048, max_num_seqs=32, lora=True, constrained=True)
    with ServerProcess(find_python(), options, log=tmp_path_factory.mktemp("vllm") / "server.log") as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def _starts_while_other_tests_run(request: pytest.FixtureRequest) -> None:  # pyright: ignore[reportUnusedFunction]
    """The first test of a run starts the server, if one of them wants it: it is ready when that one comes."""
    from coordexp.types.errors import BackendError

    if starts_server() and any("vllm_server" in getattr(item, "fixturenames", ()) for item in request.session.items):
        with contextlib.suppress(BackendError):  # whoever wants it will hear of it
            request.getfixturevalue("starting_vllm_server")


@pytest.fixture(scope="session")
def vllm_server(starting_vllm_server: ServerProcess) -> ServerProcess:
    """One real vLLM server for all tests of a run, with the shipped checkpoint in float32.

    Tests push the weights that they need: what an earlier one has left there is not theirs.
    """
    starting_vllm_server.wait_ready(timeout_s=300)
    return starting_vllm_server


@pytest.fixture
def closed_port() -> int:
    """A port of this machine on which nothing listens."""
    from coordexp.recipes.doctor import free_port

    return free_port()
