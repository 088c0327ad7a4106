"""Asynchronous runs without a server process: a second copy of the model in this process answers, and a push copies the learner's weights into it.

As a script, started by torchrun: `async_runs.py JOBS`, a JSON file with a list of [config file, overrides]; run folders are written beside it as `JOBS.runs`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import BackendInfo, GenerationRequest
from coordexp.models.load import LoadedModel, load_model
from coordexp.recipes.stage1 import build_trainer
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.recipes.stage2_async import RolloutEngine
from coordexp.training.async_loader import AsyncLoader
from coordexp.training.run_folder import LOG_NAME
from coordexp.types.errors import BackendError
from coordexp.types.progress import NoProgress
from coordexp.types.rollouts import GenerationSample, GenerationSettings

ASYNC = "stage2_ab.channel_b.async."


@dataclass
class CopyServer:
    """Answers with a copy of the learner's model, which only a push changes. It is down in the generations and pushes that a test names, by number."""

    learner: LoadedModel
    copy: LoadedModel
    batch_size: int
    down_generations: frozenset[int] = frozenset()
    down_pushes: frozenset[int] = frozenset()
    needs_sync: bool = False
    version: int = 0
    num_generations: int = 0
    num_pushes: int = 0
    seeds: list[int] = field(default_factory=list)
    """Of all requests, in order."""
    during_generation: Callable[[int], None] = lambda number: None

    def __post_init__(self) -> None:
        self._backend = HfBackend(self.copy, batch_size=self.batch_size)

    @property
    def info(self) -> BackendInfo:
        return self._backend.info

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool = False) -> list[GenerationSample]:
        number, self.num_generations = self.num_generations, self.num_generations + 1
        self.during_generation(number)
        if number in self.down_generations or self.needs_sync:
            self.needs_sync = True
            raise BackendError(f"server copy is down (generation {number})")
        self.seeds += [request.seed for request in requests]
        return self._backend.generate(requests, settings)

    def push(self, version: int) -> None:
        number, self.num_pushes = self.num_pushes, self.num_pushes + 1
        if number in self.down_pushes:
            raise BackendError(f"server copy takes no weights (push {number})")
        with torch.no_grad():
            for own, learned in zip(self.copy.model.parameters(), self.learner.model.parameters(), strict=True):
                own.copy_(learned)
        self.version, self.needs_sync = version, False

    def abort(self) -> None:
        return None

    def close(self) -> None:
        return None


def as_async(config: TrainConfig) -> TrainConfig:
    """The same with `channel_b.mode: async`, which a file may only ask for together with vLLM servers."""
    assert config.stage2_ab is not None
    channel = config.stage2_ab.channel_b.model_copy(update={"mode": "async"})
    return config.model_copy(update={"stage2_ab": config.stage2_ab.model_copy(update={"channel_b": channel})})


@dataclass
class AsyncRun:
    folder: Path
    server: CopyServer
    loader: AsyncLoader
    said: list[str]


class Said(NoProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, sentence: str) -> None:
        self.lines.append(sentence)


def run_async(config: TrainConfig, folder: Path, prepare: Callable[[CopyServer], None] = lambda server: None) -> AsyncRun:
    """Train to the end; the weights of the last step are in `folder / "last"`."""
    config = as_async(config)
    process = PartialState(cpu=True)
    parts = prepare_stage1(config, world_size=process.num_processes)
    assert config.rollout is not None
    server = CopyServer(parts.loaded_model, load_model(config.model.model), batch_size=config.rollout.rollout_infer_batch_size)
    prepare(server)
    folder.mkdir(parents=True, exist_ok=True)
    said = Said()
    trainer, loader = build_trainer(config, parts, folder=folder, progress=said, process=process, engine=RolloutEngine(server, server))
    assert isinstance(loader, AsyncLoader)
    run = AsyncRun(folder, server, loader, said.lines)
    try:
        trainer.train(resume_from_checkpoint=str(parts.resume) if parts.resume else None)
        trainer.save_model(str(folder / "last"))
    finally:
        loader.close()
    return run


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    runs: list[str] = []
    for number, (file, overrides) in enumerate(json.loads(jobs.read_text())):
        folder = jobs.parent / f"async-{number}"
        run_async(load_config(Path(file), TrainConfig, overrides).config, folder)
        assert (folder / LOG_NAME).is_file()
        runs.append(str(folder))
    if torch.distributed.get_rank() == 0:
        jobs.with_suffix(".runs").write_text(json.dumps(runs))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
