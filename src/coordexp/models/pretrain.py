"""Pretraining of the tiny model on a CPU: the vision tower alone with a throw-away head, then everything jointly. Stops and continues at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.data.synthetic import DIGIT_NAMES, SHAPE_NAMES, Sample
from coordexp.models.fast_forward import FastModel
from coordexp.models.pretrain_data import SceneCache, to_patches
from coordexp.models.pretrain_loss import CellHead, ResponseLoss, TargetBuilder
from coordexp.types.progress import NoProgress, Progress

AUXILIARY_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class PhaseSettings:
    """One phase: a warm-up and a cosine down to 2 %."""

    steps: int
    batch_size: int
    learning_rate: float = 2e-3
    warmup: int = 100
    digits_share: float = 0.6
    """Share of the batches that are digits; the rest are shapes."""

    def rate(self, step: int) -> float:
        """Learning rate of the step with this number, from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * share)))


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """The two phases: the vision part alone, then everything."""

    seed: int
    vision: PhaseSettings
    joint: PhaseSettings
    save_every_s: float = 180.0
    log_every: int = 50


@dataclass(slots=True)
class _Clock:
    """Rate and time left, over the last report."""

    started: float = field(default_factory=time.monotonic)
    at_step: int = 0

    def report(self, step: int, total: int) -> str:
        now = time.monotonic()
        rate = (step - self.at_step) / max(1e-9, now - self.started)
        self.started, self.at_step = now, step
        return f"{rate:.2f} steps/s, {(total - step) / max(1e-9, rate) / 60:.0f} min left"


class Pretrainer:
    """Holds the model, the head, the optimizer of the running phase and the step; everything that a resumed run needs is in one file."""

    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        *,
        prompt_ids: Tensor,
        side: int,
        caches: dict[str, SceneCache],
        settings: PretrainSettings,
        state_file: Path,
        progress: Progress | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.model = model
        self._rank, self._world = rank, world
        self._settings = settings
        self._caches = caches
        self._state_file = state_file
        self._progress = progress or NoProgress()
        vocabulary = CoordVocabulary.from_tokenizer(tokenizer)
        patches = side // model.config.vision_config.patch_size  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        self.fast = FastModel(model, prompt_ids=prompt_ids, grid=(patches, patches))
        self._builder = TargetBuilder(tokenizer, vocabulary)
        self._response_loss = ResponseLoss(vocabulary)
        torch.manual_seed(settings.seed)
        self.head = CellHead(model.config.text_config.hidden_size, (*SHAPE_NAMES, *DIGIT_NAMES))  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        self._next = {"vision": 0, "joint": 0}
        self._saved: tuple[str, dict[str, Any]] | None = None
        """Name of the phase that was interrupted, and its optimizer."""

    def run(self, *, stop: Callable[[], bool] = lambda: False) -> bool:
        """Train both phases from where they stand. False when `stop` said so before the end."""
        self._load()
        phases = (("vision", self._settings.vision, self._vision_terms), ("joint", self._settings.joint, self._joint_terms))
        for number, (name, phase, terms) in enumerate(phases):
            if self._next[name] >= phase.steps:
                continue
            if not self._run_phase(number, name, phase, terms, stop):
                return False
        return True

    def _run_phase(self, number: int, name: str, phase: PhaseSettings, terms_of: Callable[[list[Sample]], dict[str, Tensor]], stop: Callable[[], bool]) -> bool:
        modules: list[nn.Module] = [self.model.model.visual, self.head] if name == "vision" else [self.model, self.head]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        if self._saved is not None and self._saved[0] == name:
            optimizer.load_state_dict(self._saved[1])
        self._saved = None
        self.model.train()
        clock, sums, saved = _Clock(at_step=self._next[name]), dict[str, float](), time.monotonic()
        for step in range(self._next[name], phase.steps):
            for group in optimizer.param_groups:
                group["lr"] = phase.rate(step)
            samples = self._draw(number, step, phase, mixed=name == "vision")
            terms = terms_of(samples[self._rank :: self._world])
            torch.stack(list(terms.values())).sum().backward()
            if self._world > 1:
                _average_gradients(parameters, self._world)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            self._next[name] = step + 1
            for key, value in terms.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
            if (step + 1) % self._settings.log_every == 0 and self._rank == 0:
                shown = ", ".join(f"{key} {value / self._settings.log_every:.3f}" for key, value in sums.items())
                self._progress.say(f"{name} step {step + 1} of {phase.steps}: {shown}; {clock.report(step + 1, phase.steps)}")
                sums.clear()
            should_stop = stop()
            if should_stop or time.monotonic() - saved > self._settings.save_every_s:
                self._save(name, optimizer)
                saved = time.monotonic()
            if should_stop:
                return False
        self._save(name, optimizer)
        return True

    def _draw(self, number: int, step: int, phase: PhaseSettings, *, mixed: bool) -> list[Sample]:
        rng = np.random.Generator(np.random.PCG64([self._settings.seed, number, step]))
        cache = self._caches["digits" if rng.random() < phase.digits_share else "shapes"]
        return cache.draw_any(rng, phase.batch_size) if mixed else cache.draw(rng, phase.batch_size)

    def _vision_terms(self, samples: list[Sample]) -> dict[str, Tensor]:
        features, _ = self.fast.vision(torch.from_numpy(to_patches([sample.image for sample in samples])))
        return {"cells": self.head.loss(features, samples)}

    def _joint_terms(self, samples: list[Sample]) -> dict[str, Tensor]:
        targets = self._builder.build(samples)
        logits, features = self.fast(torch.from_numpy(to_patches([sample.image for sample in samples])), targets.ids)
        return self._response_loss(logits, targets) | {"cells": AUXILIARY_WEIGHT * self.head.loss(features, samples)}

    def _save(self, phase: str, optimizer: torch.optim.Optimizer) -> None:
        """The whole state, replaced in one step; the first process writes for all."""
        if self._rank > 0:
            return
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        part = self._state_file.with_suffix(".part")
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "phase": phase,
            "optimizer": optimizer.state_dict(),
            "next": dict(self._next),
        }
        torch.save(state, part)
        part.replace(self._state_file)

    def _load(self) -> None:
        if not self._state_file.is_file():
            return
        state = torch.load(self._state_file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self._next = dict(state["next"])
        self._saved = (state["phase"], state["optimizer"])
        self._progress.say("continues after " + ", ".join(f"{step} steps of {name}" for name, step in self._next.items()))


def _average_gradients(parameters: list[nn.Parameter], world: int) -> None:
    """Mean over the processes: equal to one process with the whole batch, since all terms are means over equally many tokens."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    torch.nn.utils.vector_to_parameters(flat / world, gradients)
