"""Pretraining: its fast forward is the model's own, its losses are their formulas, an interrupted run ends like an uninterrupted one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen3VLForConditionalGeneration

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.data.synthetic import SHAPE_NAMES, Sample, SceneSettings, render_scene, scale_scene
from coordexp.models.fast_forward import FastModel
from coordexp.models.pretrain import PhaseSettings, Pretrainer, PretrainSettings
from coordexp.models.pretrain_data import SceneCache, open_cache, to_patches
from coordexp.models.pretrain_loss import CellHead, ResponseLoss, TargetBuilder
from coordexp.models.pretrain_tiny import encode_prompt, pretrain_tiny
from coordexp.models.tiny import build_tiny_model
from coordexp.models.tokenizer import train_tokenizer
from coordexp.types.records import DetObject

SHAPES = SceneSettings(name="pretrain-shapes", kind="shapes", seed=1, num_scenes=40, max_objects=2)
DIGITS = SceneSettings(name="pretrain-digits", kind="digits", seed=1, num_scenes=40, max_objects=2)
SETTINGS = PretrainSettings(seed=3, vision=PhaseSettings(2, 4, warmup=1), joint=PhaseSettings(4, 4, warmup=1), log_every=1)
TOKENIZER = train_tokenizer(0)
VOCABULARY = CoordVocabulary.from_tokenizer(TOKENIZER)


def samples_of(settings: SceneSettings, count: int) -> list[Sample]:
    samples = [scale_scene(render_scene(settings, index, num_objects=count), 96) for index in range(10)]
    return [sample for sample in samples if len(sample.objects) == count][:3]


@pytest.mark.parametrize("count", [0, 2])
def test_the_fast_forward_gives_the_models_own_logits(untrained: Path, count: int) -> None:
    model = Qwen3VLForConditionalGeneration.from_pretrained(untrained)
    samples = samples_of(SHAPES, count)
    patches = torch.from_numpy(to_patches([sample.image for sample in samples]))
    response = TargetBuilder(TOKENIZER, VOCABULARY).build(samples).ids
    prompt = encode_prompt(untrained, side=96)
    fast, _ = FastModel(model, prompt_ids=prompt, grid=(12, 12))(patches, response)
    ids = torch.cat((prompt.expand(len(samples), -1), response), dim=1)
    grids = torch.tensor([[1, 12, 12]] * len(samples))
    kinds = (ids == model.config.image_token_id).int()
    slow = model(input_ids=ids, pixel_values=patches.flatten(0, 1), image_grid_thw=grids, mm_token_type_ids=kinds, use_cache=False).logits
    torch.testing.assert_close(fast, slow[:, len(prompt) - 1 : -1], rtol=0, atol=1e-5)


def test_targets_say_what_each_token_is() -> None:
    image = np.zeros((96, 96, 3), dtype=np.uint8)
    objects = (DetObject("red circle", "bbox_2d", (1, 2, 30, 40)), DetObject("blue square", "bbox_2d", (5, 6, 70, 80)))
    targets = TargetBuilder(TOKENIZER, VOCABULARY).build([Sample(image, objects)])
    pieces = [TOKENIZER.decode([number]) for number in targets.ids[0].tolist()]
    assert [piece for piece, is_desc in zip(pieces, targets.is_desc[0], strict=True) if is_desc] == ["red", " circle", "blue", " square"]
    assert sum(targets.is_coord[0].tolist()) == 8
    assert [piece for piece, weight in zip(pieces, targets.structure_weight[0], strict=True) if weight > 1] == [', "object_', "}"]
    assert pieces[-1] == "<|im_end|>"


def test_the_coordinate_terms_are_their_formulas() -> None:
    image = np.zeros((96, 96, 3), dtype=np.uint8)
    targets = TargetBuilder(TOKENIZER, VOCABULARY).build([Sample(image, (DetObject("one", "bbox_2d", (0, 10, 500, 999)),))])
    logits = torch.randn(*targets.ids.shape, len(TOKENIZER), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = ResponseLoss(VOCABULARY)(logits, targets)
    bins = torch.arange(1000, dtype=torch.float64)
    soft, expected = 0.0, 0.0
    for row, goal in zip(logits[targets.is_coord], (0, 10, 500, 999), strict=True):
        log_probs = F.log_softmax(row, dim=-1)[torch.tensor(VOCABULARY.ids)]
        soft += -(torch.softmax(-0.5 * ((bins - goal) / 4.0) ** 2, 0) * log_probs).sum().item() / 4
        expected += 10 * (log_probs.exp() * (bins - goal).abs() / 999).sum().item() / 4
    assert terms["soft"].item() == pytest.approx(soft, rel=1e-5)
    assert terms["expected"].item() == pytest.approx(expected, rel=1e-5)


def test_a_cell_belongs_to_the_object_that_covers_it() -> None:
    head = CellHead(8, SHAPE_NAMES)
    sample = Sample(np.zeros((96, 96, 3), np.uint8), (DetObject(SHAPE_NAMES[4], "bbox_2d", (0, 0, 333, 333)),))
    labels, boxes = head._assign([sample], 6)
    assert labels.view(6, 6)[:2, :2].eq(5).all()
    assert labels.sum() == 20
    assert boxes.view(6, 6, 4)[0, 0].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3], abs=1e-3)


def test_a_drawn_cache_is_used_again_and_other_settings_draw_anew(tmp_path: Path) -> None:
    first = open_cache(SHAPES, tmp_path, side=96, workers=1)
    stamp = (tmp_path / "pretrain-shapes.npy").stat().st_mtime_ns
    again = open_cache(SHAPES, tmp_path, side=96, workers=1)
    assert (tmp_path / "pretrain-shapes.npy").stat().st_mtime_ns == stamp
    assert np.array_equal(first.images, again.images)
    assert list(first.objects) == list(again.objects)
    assert len(open_cache(replace(SHAPES, num_scenes=20), tmp_path, side=96, workers=1).objects) == 20


def test_a_batch_has_equally_many_objects_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    cache = open_cache(SHAPES, tmp_path, side=96, workers=1)
    first, second = (cache.draw(np.random.default_rng(5), 8) for _ in range(2))
    assert len({len(sample.objects) for sample in first}) == 1
    assert [sample.objects for sample in first] == [sample.objects for sample in second]


def test_the_rate_warms_up_and_ends_at_two_percent() -> None:
    phase = PhaseSettings(steps=100, batch_size=1, learning_rate=1.0, warmup=10)
    assert phase.rate(0) == pytest.approx(0.1)
    assert phase.rate(9) == phase.rate(10) == 1.0
    assert phase.rate(99) == pytest.approx(0.02, abs=1e-3)


@pytest.mark.slow
def test_an_interrupted_pretraining_ends_with_the_weights_of_an_uninterrupted_one(untrained: Path, tmp_path: Path) -> None:
    caches = {kind: open_cache(settings, tmp_path, side=96, workers=1) for kind, settings in (("shapes", SHAPES), ("digits", DIGITS))}
    straight = make_pretrainer(untrained, caches, tmp_path / "straight.pt")
    assert straight.run()
    weights = straight.model.state_dict()
    for stop_after in (1, 2, 4):
        calls = iter(range(100))
        resumed = make_pretrainer(untrained, caches, tmp_path / "resumed.pt")
        # asked twice a step: once whether to save, once whether to end
        resumed.run(stop=lambda calls=calls, limit=stop_after: next(calls) >= limit)
    resumed = make_pretrainer(untrained, caches, tmp_path / "resumed.pt")
    assert resumed.run()
    assert all(torch.equal(weights[name], value) for name, value in resumed.model.state_dict().items())


def make_pretrainer(checkpoint: Path, caches: dict[str, SceneCache], state_file: Path) -> Pretrainer:
    prompt = encode_prompt(checkpoint, side=96)
    return Pretrainer(build_tiny_model(TOKENIZER, seed=0), TOKENIZER, prompt_ids=prompt, side=96, caches=caches, settings=SETTINGS, state_file=state_file)


@pytest.mark.slow
def test_pretraining_writes_a_float16_checkpoint_and_two_processes_write_that_of_one(tmp_path: Path) -> None:
    settings = PretrainSettings(seed=0, vision=PhaseSettings(1, 4), joint=PhaseSettings(1, 4))
    splits = {"shapes": replace(SHAPES, num_scenes=10), "digits": replace(DIGITS, num_scenes=10)}
    first, second = (
        Qwen3VLForConditionalGeneration.from_pretrained(
            pretrain_tiny(tmp_path / f"tiny{processes}", seed=0, work=tmp_path / "work", splits=splits, settings=settings, processes=processes)
        )
        for processes in (1, 2)
    )
    assert first.dtype == torch.float16
    assert not (tmp_path / "work").exists()
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], rtol=0, atol=2e-3)
