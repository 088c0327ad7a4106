"""What the model would answer if everything before each token were right: its predictions under teacher forcing, measured as its own answers are.

The difference to its own answers is what wrong prefixes cost: an upper bound, roughly, of what training on its own outputs can bring while it sees no better.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coordexp.batching.collate import PaddedCollator
from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.types.files import write_text
from coordexp.types.records import Record
from coordexp.types.sequences import CoordSlot, Pack, Role, Segment
from stage2_study.scores import evaluated, numbers
from stage2_study.study import HERE, Study, overrides_of

_BATCH = 10


def teacher_forced(study: Study, checkpoint: Path) -> dict[str, float]:
    """The numbers of `scores.numbers` for predictions under teacher forcing; object counts are those of the ground truth by construction."""
    out = study.folder / "scores" / f"teacher-{checkpoint.name}" / "gt_vs_pred.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, "".join(json.dumps(line) + "\n" for line in _lines(study, checkpoint)))
    evaluated.cache_clear()
    return numbers(evaluated(out))


def _lines(study: Study, checkpoint: Path) -> Iterator[dict[str, Any]]:
    settings = {"model.model": checkpoint, "training.output_dir": study.folder / "unused", "custom.train_jsonl": study.records("val")}
    parts = prepare_stage1(load_config(HERE / "study.yaml", TrainConfig, overrides_of(settings)).config)
    loaded, source = parts.loaded_model, parts.train
    model: Any = loaded.model.eval()
    collator = PaddedCollator(pad_token_id=0, image_token_id=int(model.config.image_token_id), merge_size=int(loaded.processor.image_processor.merge_size))
    coord_ids = torch.tensor(loaded.coord_vocab.ids)
    for start in range(0, len(source), _BATCH):
        indices = range(start, min(start + _BATCH, len(source)))
        segments = [source.encode(index, epoch=0) for index in indices]
        inputs = {name: value for name, value in collator(Pack(tuple(segments))).model_inputs.items() if name != "logits_to_keep"}
        with torch.inference_mode():
            logits = model(**inputs, use_cache=False).logits
        for row, (index, segment) in enumerate(zip(indices, segments, strict=True)):
            yield _line(source.records[index], segment, logits[row], coord_ids=coord_ids, tokenizer=loaded.tokenizer)


def _line(record: Record, segment: Segment, logits: Tensor, *, coord_ids: Tensor, tokenizer: Any) -> dict[str, Any]:
    """A line as inference writes it. `logits` [L, V]: those at p - 1 predict position p."""

    def bins(slot: CoordSlot) -> list[int]:
        return logits[torch.tensor(slot.positions) - 1][:, coord_ids].argmax(-1).tolist()

    def name(slot: CoordSlot) -> str:
        last = next(place for place in range(slot.positions[0], 0, -1) if segment.roles[place] == Role.DESC)
        first = next(place for place in range(last, 0, -1) if segment.roles[place - 1] != Role.DESC)
        return tokenizer.decode(logits[first - 1 : last].argmax(-1).tolist())

    return {
        "image": record.id,
        "width": record.width,
        "height": record.height,
        "coord_mode": "norm1000",
        "gt": [{"type": item.kind, "points": list(item.points), "desc": item.desc} for item in record.objects],
        "pred": [{"type": slot.kind, "points": bins(slot), "desc": name(slot), "score": 1.0} for slot in segment.slots],
        "finish_reason": "stop",
    }
