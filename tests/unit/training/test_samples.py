from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.data.augmentation import Augmentation, Crop
from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import read_records
from coordexp.models.load import LoadedModel, load_model
from coordexp.training.samples import SampleSettings, SegmentSource, sample_seed
from coordexp.types.errors import DataError
from coordexp.types.records import DetObject, Record


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> LoadedModel:
    return load_model(tiny_folder)


@pytest.fixture(scope="module")
def records(boxes_folder: Path) -> list[Record]:
    return [to_norm1000(record) for record in read_records(boxes_folder / "train.jsonl", dataset="boxes")]


@pytest.fixture
def make_source(loaded: LoadedModel, records: list[Record], boxes_folder: Path):
    def make(items: list[Record] | None = None, *, cache_bytes: int = 1 << 30, **settings: Any) -> SegmentSource:
        return SegmentSource(
            items if items is not None else records,
            image_root=boxes_folder,
            encoder=PromptEncoder(loaded.processor),
            tokenizer=loaded.tokenizer,  # type: ignore[arg-type]
            coord_vocab=loaded.coord_vocab,
            settings=SampleSettings(**settings),
            labels=["red square", "green square", "blue square"],
            cache_bytes=cache_bytes,
        )

    return make


def test_a_segment_is_prompt_then_answer(make_source: Any, loaded: LoadedModel, records: list[Record]) -> None:
    segment = make_source().encode(3, epoch=0)
    answer = loaded.tokenizer.decode(segment.token_ids[segment.ce_weight.nonzero()[0][0] :].tolist())
    assert answer.startswith('{"object_1": {"desc": "')
    assert answer.endswith("}}<|im_end|>")
    assert segment.sample_id == "train:4"
    assert segment.dataset == "boxes"
    assert len(segment.slots) == len(records[3].objects) == 3


def test_the_slots_hold_the_bins_of_the_tokens(make_source: Any, loaded: LoadedModel) -> None:
    segment = make_source().encode(3, epoch=0)
    for slot in segment.slots:
        assert [loaded.coord_vocab.bin_of(int(segment.token_ids[p])) for p in slot.positions] == list(slot.target_bins)


def test_random_order_depends_on_the_epoch_and_on_nothing_else(make_source: Any) -> None:
    source = make_source(ordering="random", seed=5)
    orders = [source.encode(3, epoch=epoch).slots for epoch in range(6)]
    assert len(set(orders)) > 1
    assert [make_source(ordering="random", seed=5).encode(3, epoch=epoch).slots for epoch in range(6)] == orders


def test_static_segments_are_kept_and_bounded_by_memory(make_source: Any) -> None:
    kept, not_kept = make_source(), make_source(cache_bytes=0)
    assert kept.encode(1, epoch=0) is kept.encode(1, epoch=1)
    assert not_kept.encode(1, epoch=0) is not not_kept.encode(1, epoch=1)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("none", None), ("all", ["blue square", "green square", "red square"]), ("gt", ["green square", "red square"])],
)
def test_the_prompt_lists_the_categories_that_were_asked_for(make_source: Any, records: list[Record], mode: str, expected: list[str] | None) -> None:
    user = make_source(prompt_labels=mode).prompt(records[2], epoch=0).user
    for label in ("red square", "green square", "blue square"):
        assert (label in user) is (expected is not None and label in expected)


def test_negative_categories_are_drawn_by_seed(make_source: Any, records: list[Record]) -> None:
    prompts = [make_source(prompt_labels="gt+negatives", seed=1).prompt(records[1], epoch=epoch) for epoch in range(8)]
    assert all("red square" in prompt.user for prompt in prompts)
    assert {sum(name in prompt.user for name in ("green square", "blue square")) for prompt in prompts} == {1}
    assert len(set(prompts)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"image": "images/nothing.png"}, r"train:3: the image .*nothing\.png does not exist", id="missing"),
        pytest.param({"image": "../x.png"}, "train:3: .*leaves the folder", id="outside"),
        pytest.param({"width": 64}, "train:3: .*has 48x80 pixels, the record says 64x80", id="size"),
        pytest.param({"objects": (DetObject(desc="a", kind="poly", points=(0, 0, 9, 0, 9, 9)),)}, r"train:3: objects\[0\]: the geometry is poly", id="kind"),
    ],
)
def test_a_bad_record_is_found_before_training(make_source: Any, records: list[Record], change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        make_source([records[0], replace(records[2], **change)]).check(name="data")


def test_good_records_pass_the_check(make_source: Any) -> None:
    make_source(max_length=400).check(name="data")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_pixels": 4000}, "outside template.min_pixels None and template.max_pixels 4000"), ({"max_length": 60}, "more than global_max_length 60")],
)
def test_limits_are_checked_before_training(make_source: Any, settings: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=f"^train:.*{message}"):
        make_source(**settings).check(name="data")


def test_a_corrupt_image_names_its_record(make_source: Any, records: list[Record], boxes_folder: Path) -> None:
    Image.new("RGB", (48, 80)).save(boxes_folder / "images" / "broken.png")
    content = (boxes_folder / "images" / "broken.png").read_bytes()
    (boxes_folder / "images" / "broken.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"^train:3: the image .*broken\.png cannot be decoded"):
        make_source([replace(records[2], image="images/broken.png")]).encode(0, epoch=0)


def test_a_sample_seed_is_the_same_on_every_machine() -> None:
    assert sample_seed(1, 2, "train:3") == 5167397497673355806
    assert len({sample_seed(1, 2, "train:3"), sample_seed(1, 3, "train:3"), sample_seed(2, 2, "train:3"), sample_seed(1, 2, "train:4")}) == 4


AUGMENTATION = Augmentation(hflip=0.5, vflip=0.5, crop=Crop(probability=0.5, min_scale=0.6, min_coverage=0.0))


def test_augmented_samples_depend_on_seed_epoch_and_record_alone(make_source: Any) -> None:
    source, again = make_source(augmentation=AUGMENTATION, seed=5), make_source(augmentation=AUGMENTATION, seed=5)
    epochs = [source.encode(3, epoch=epoch) for epoch in range(4)]
    with ThreadPoolExecutor(4) as pool:
        others = list(pool.map(lambda epoch: again.encode(3, epoch=epoch), reversed(range(4))))[::-1]
    for first, second in zip(epochs, others, strict=True):
        assert first.slots == second.slots
        assert np.array_equal(first.images[0].pixel_values, second.images[0].pixel_values)
    assert len({segment.images[0].pixel_values.tobytes() for segment in epochs}) > 1
    assert make_source(augmentation=AUGMENTATION, seed=6).encode(3, epoch=0).images[0].pixel_values.tobytes() != epochs[0].images[0].pixel_values.tobytes()


def test_an_augmented_sample_is_never_longer_and_its_picture_has_as_many_tokens(make_source: Any) -> None:
    plain, augmented = make_source(), make_source(augmentation=AUGMENTATION, seed=2)
    for index in range(len(plain)):
        whole = plain.encode(index, epoch=0)
        for epoch in range(3):
            segment = augmented.encode(index, epoch=epoch)
            assert segment.length <= whole.length
            assert segment.images[0].grid_thw == whole.images[0].grid_thw


def test_slots_of_a_mirrored_sample_hold_mirrored_bins(make_source: Any, records: list[Record]) -> None:
    segment = make_source(augmentation=Augmentation(hflip=1.0)).encode(1, epoch=0)
    x1, y1, x2, y2 = records[1].objects[0].points
    assert segment.slots[0].target_bins == (999 - x2, y1, 999 - x1, y2)
