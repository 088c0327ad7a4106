"""The pretraining that made the shipped checkpoint: its data, its two phases, its export. `coordexp model tiny --pretrain` runs it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from PIL import Image

from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.data.synthetic import SceneSettings
from coordexp.models.pretrain import PhaseSettings, Pretrainer, PretrainSettings
from coordexp.models.pretrain_data import open_cache
from coordexp.models.processor import load_processor
from coordexp.models.tiny import build_tiny_model, write_tiny
from coordexp.models.tokenizer import train_tokenizer
from coordexp.types.progress import NoProgress, Progress

SIDE: Final = 96
"""Pixels of the square pictures that the model is trained on."""
VISION_PHASE: Final = PhaseSettings(steps=1200, batch_size=32)
JOINT_PHASE: Final = PhaseSettings(steps=8000, batch_size=16)


def pretrain_tiny(
    dst: Path, *, seed: int, work: Path, splits: Mapping[str, SceneSettings], settings: PretrainSettings | None = None, progress: Progress | None = None
) -> Path:
    """Pretrain from scratch or from where `work` stands, and write the checkpoint as float16 to `dst`.

    Args:
        dst: folder of the checkpoint; replaced as a whole at the end.
        seed: of tokenizer, weights and order of the batches.
        work: folder for drawn scenes and the training state; kept when interrupted, removed at the end.
        splits: `shapes` and `digits`: what to draw.
        settings: shorter phases for a trial; the shipped ones by default.
        progress: gets a line with losses, rate and time left every 50 steps.

    Raises:
        OutputError: a folder cannot be written.
        BackendError: scikit-learn, which holds the digits, is not installed.
    """
    progress = progress or NoProgress()
    settings = settings or PretrainSettings(seed=seed, vision=VISION_PHASE, joint=JOINT_PHASE)
    tokenizer = train_tokenizer(seed)
    model = build_tiny_model(tokenizer, seed=seed)
    write_tiny(work / "untrained", model, tokenizer)
    prompt_ids = encode_prompt(work / "untrained", side=SIDE)
    workers = torch.get_num_threads()
    caches = {kind: open_cache(split, work / "scenes", side=SIDE, workers=workers, progress=progress) for kind, split in splits.items()}
    trainer = Pretrainer(
        model,
        tokenizer,
        prompt_ids=prompt_ids,
        side=SIDE,
        caches=caches,
        settings=replace(settings, seed=seed),
        state_file=work / "state.pt",
        progress=progress,
    )
    trainer.run()
    write_tiny(dst, model.eval(), tokenizer, dtype=torch.float16)
    shutil.rmtree(work)
    return dst


def encode_prompt(checkpoint: Path, *, side: int) -> torch.Tensor:
    """[P] ids of the default prompt with the placeholders of one picture, by the checkpoint's own processor and template."""
    processor = load_processor(checkpoint)
    prompt = build_prompt(PromptSpec())
    messages = [
        {"role": "system", "content": [{"type": "text", "text": prompt.system}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.user}]},
    ]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    encoded = processor(text=[text], images=[Image.new("RGB", (side, side))], return_tensors="pt")  # type: ignore[operator]
    return encoded["input_ids"][0]
