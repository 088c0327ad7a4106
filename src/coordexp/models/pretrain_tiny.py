"""The pretraining that made the shipped checkpoint: its data, its two phases, its export. `coordexp model tiny --pretrain` runs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
import torch.distributed
import torch.multiprocessing
from PIL import Image
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.data.synthetic import SceneSettings
from coordexp.models.pretrain import PhaseSettings, Pretrainer, PretrainSettings
from coordexp.models.pretrain_data import open_cache
from coordexp.models.processor import load_processor
from coordexp.models.tiny import build_tiny, build_tiny_model, write_tiny
from coordexp.models.tokenizer import train_tokenizer
from coordexp.types.files import ensure_output_folder
from coordexp.types.progress import NoProgress, Progress

SIDE: Final = 96
"""Pixels of the square pictures that the model is trained on."""
VISION_PHASE: Final = PhaseSettings(steps=1200, batch_size=32)
JOINT_PHASE: Final = PhaseSettings(steps=8000, batch_size=16)


@dataclass(frozen=True, slots=True)
class _Job:
    """What every process of a pretraining needs; travels to the others by pickle."""

    work: Path
    splits: Mapping[str, SceneSettings]
    settings: PretrainSettings
    world: int


def pretrain_tiny(
    dst: Path,
    *,
    seed: int,
    work: Path,
    splits: Mapping[str, SceneSettings],
    settings: PretrainSettings | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Pretrain from scratch or from where `work` stands, and write the checkpoint as float16 to `dst`.

    Args:
        dst: folder of the checkpoint; replaced as a whole at the end.
        seed: of tokenizer, weights and order of the batches.
        work: folder for drawn scenes and the training state; kept when interrupted, removed at the end.
        splits: `shapes` and `digits`: what to draw.
        settings: shorter phases for a trial; the shipped ones by default.
        processes: that share every batch, with one thread each: two by default, which on a busy machine is faster than two threads of one process.
        progress: gets a line with losses, rate and time left every 50 steps.

    Raises:
        OutputError: a folder cannot be written.
        BackendError: scikit-learn, which holds the digits, is not installed.
    """
    progress = progress or NoProgress()
    settings = settings or PretrainSettings(seed=seed, vision=VISION_PHASE, joint=JOINT_PHASE)
    world = processes or min(2, os.cpu_count() or 1)
    ensure_output_folder(work)
    build_tiny(work / "untrained", seed=seed)
    for split in splits.values():
        open_cache(split, work / "scenes", side=SIDE, workers=world, progress=progress)
    model, tokenizer = _train(_Job(work, dict(splits), replace(settings, seed=seed), world), progress)
    write_tiny(dst, model.eval(), tokenizer, dtype=torch.float16)
    shutil.rmtree(work)
    return dst


def _train(job: _Job, progress: Progress) -> tuple[Qwen3VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """Run rank 0 here and the other ranks in processes of their own, which end with this one."""
    if job.world == 1:
        return _train_rank(0, job, progress)
    (job.work / "meeting").unlink(missing_ok=True)
    context = torch.multiprocessing.get_context("spawn")
    others = [context.Process(target=_train_rank, args=(rank, job), daemon=True) for rank in range(1, job.world)]
    for process in others:
        process.start()
    threads = torch.get_num_threads()
    try:
        return _train_rank(0, job, progress)
    finally:
        torch.set_num_threads(threads)
        for process in others:
            process.terminate()
            process.join()


def _train_rank(rank: int, job: _Job, progress: Progress | None = None) -> tuple[Qwen3VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """One process of a pretraining: the whole schedule on its share of every batch."""
    if job.world > 1:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", init_method=f"file://{(job.work / 'meeting').resolve()}", rank=rank, world_size=job.world)
    try:
        tokenizer = train_tokenizer(job.settings.seed)
        model = build_tiny_model(tokenizer, seed=job.settings.seed)
        trainer = Pretrainer(
            model,
            tokenizer,
            prompt_ids=encode_prompt(job.work / "untrained", side=SIDE),
            side=SIDE,
            caches={kind: open_cache(split, job.work / "scenes", side=SIDE, workers=1) for kind, split in job.splits.items()},
            settings=job.settings,
            state_file=job.work / "state.pt",
            progress=progress,
            rank=rank,
            world=job.world,
        )
        trainer.run()
        if job.world > 1:
            torch.distributed.barrier()
        return model, tokenizer
    finally:
        if job.world > 1:
            torch.distributed.destroy_process_group()


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
