"""Beam search, of which the best answer is taken. The algorithm of transformers' `generate(num_beams=…, length_penalty=1, early_stopping=False)`:

- every step looks at the best `(1 + number of stop tokens) * num_beams` continuations of a request's beams, by the sum of log p;
- one that ends and is among the best `num_beams` competes for the answer with (sum of log p) / (number of new tokens, the stop token included);
- a request is done when its best running beam, at its present length, is behind all of its `num_beams` best ended ones.

Requests share forwards and nothing else; one that is done leaves the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from coordexp.codec.answer_automaton import AnswerRow
from coordexp.generation.decoding import FinishReason
from coordexp.generation.forward import CachedForward
from coordexp.generation.prompt_batch import PromptBatch
from coordexp.generation.repeat import RepeatGuard
from coordexp.generation.sampling import penalize, seen_tokens
from coordexp.types.errors import BackendError

_NEVER = -1.0e9
"""Score of what is out of the race."""
_OUT = _NEVER / 2
"""What scores less is out of the race."""


@dataclass(frozen=True, slots=True)
class BestBeam:
    """The answer to one request."""

    ids: tuple[int, ...]
    """Without the stop token."""
    finish_reason: FinishReason


@dataclass(slots=True)
class _Race:
    """The beams of the R requests that are not done, B for each, the best first; and the best B that have ended."""

    requests: Tensor
    """[R] place of each request in the batch."""
    rows: Tensor
    """[R, B] row of each beam in the forward."""
    tokens: Tensor
    """[R, B, steps]"""
    scores: Tensor
    """[R, B] sum of log p; `_NEVER` or less for a beam that may not go on."""
    is_seen: Tensor | None
    """[R, B, V] tokens that the repetition penalty counts."""
    guards: list[list[RepeatGuard]] | None
    ended_tokens: Tensor
    """[R, B, steps]"""
    ended_scores: Tensor
    """[R, B] mean of log p; `_NEVER` where no beam has ended yet."""
    ended_lengths: Tensor
    """[R, B] tokens, a stop token included."""
    ended_by_loop: Tensor
    """[R, B]"""
    answers: list[list[AnswerRow | None]] | None
    """[R, B] where each beam is in its document, when answers are constrained; None for a beam that is out of the race."""
    ended_short: Tensor
    """[R, B] the limit took some of the choice away."""

    def keep(self, kept: Tensor) -> None:
        """Go on with the requests of these indices, with one row in the forward for each beam."""
        for name in ("requests", "tokens", "scores", "ended_tokens", "ended_scores", "ended_lengths", "ended_by_loop", "ended_short"):
            setattr(self, name, getattr(self, name)[kept])
        self.is_seen = None if self.is_seen is None else self.is_seen[kept]
        self.guards = None if self.guards is None else [self.guards[index] for index in kept.tolist()]
        self.answers = None if self.answers is None else [self.answers[index] for index in kept.tolist()]
        self.rows = torch.arange(self.scores.numel(), device=kept.device).view_as(self.scores)


@dataclass(frozen=True, slots=True)
class _Continuations:
    """The best K continuations of each request, the best first."""

    scores: Tensor
    """[R, K] sum of log p."""
    beams: Tensor
    """[R, K] the beam that each goes on from."""
    tokens: Tensor
    """[R, K]"""
    is_loop: Tensor
    """[R, K] the guard ends it here."""
    is_end: Tensor
    """[R, K] it goes no further, for whatever reason."""
    guards: list[list[RepeatGuard]] | None
    answers: list[list[AnswerRow | None]] | None


class BeamSearch:
    """One batch of prompts; `run` once.

    Example: `BeamSearch(CachedForward(model), batch, num_beams=4, stop_ids=ids, max_new_tokens=512).run(prompt_ids)[0].finish_reason == "stop"`
    """

    def __init__(
        self,
        forward: CachedForward,
        batch: PromptBatch,
        *,
        num_beams: int,
        stop_ids: Tensor,
        max_new_tokens: int,
        repetition_penalty: float = 1.0,
        guards: Sequence[RepeatGuard] | None = None,
        answers: Sequence[AnswerRow] | None = None,
    ) -> None:
        """`stop_ids` [S] is on the device of the model; `guards` and `answers` have a fresh one for each request."""
        self._forward, self._batch, self._num_beams, self._stop_ids = forward, batch, num_beams, stop_ids
        self._max_new_tokens, self._penalty, self._guards = max_new_tokens, repetition_penalty, guards
        self._answers = answers

    def run(self, prompt_ids: Sequence[Sequence[int]]) -> list[BestBeam]:
        """The best beam of each request."""
        answers: dict[int, BestBeam] = {}
        _, logits = self._forward.admit(self._stop_ids.new_zeros(0, dtype=torch.bool), self._batch)
        race = self._start(prompt_ids, vocab_size=logits.shape[-1])
        for step in range(self._max_new_tokens):
            found = self._continue(race, logits, is_last=step + 1 == self._max_new_tokens)
            self._collect_ended(race, found, step=step)
            parents = self._extend(race, found, step=step)
            is_behind = race.scores[:, 0] / (step + 1) <= race.ended_scores.min(dim=-1).values
            is_done = is_behind | (race.scores[:, 0] < _OUT)
            for index in is_done.nonzero().squeeze(-1).tolist():
                answers[int(race.requests[index])] = self._answer(race, index)
            if bool(is_done.all()):
                break
            kept = (~is_done).nonzero().squeeze(-1)
            race.keep(kept)
            self._forward.keep_rows(parents[kept].flatten())
            logits = self._forward.advance(race.tokens[:, :, step].flatten())
        return [answers[index] for index in range(len(prompt_ids))]

    def _start(self, prompt_ids: Sequence[Sequence[int]], *, vocab_size: int) -> _Race:
        device, shape = self._stop_ids.device, (len(prompt_ids), self._num_beams)
        requests = torch.arange(shape[0], device=device)
        scores = torch.zeros(shape, device=device)
        # all beams are still the same one: only the first may go on
        scores[:, 1:] = _NEVER
        tokens = torch.zeros(*shape, self._max_new_tokens, dtype=torch.long, device=device)
        is_seen = None
        if self._penalty != 1.0:
            is_seen = seen_tokens(prompt_ids, vocab_size=vocab_size, device=device)[:, None].expand(*shape, vocab_size).clone()
        return _Race(
            requests=requests,
            rows=requests[:, None].expand(shape),
            tokens=tokens,
            scores=scores,
            is_seen=is_seen,
            guards=None if self._guards is None else [[guard.copy() for _ in range(self._num_beams)] for guard in self._guards],
            ended_tokens=tokens.clone(),
            ended_scores=torch.full(shape, _NEVER, device=device),
            ended_lengths=torch.zeros(shape, dtype=torch.long, device=device),
            ended_by_loop=torch.zeros(shape, dtype=torch.bool, device=device),
            answers=None if self._answers is None else [[answer, *[None] * (self._num_beams - 1)] for answer in self._answers],
            ended_short=torch.zeros(shape, dtype=torch.bool, device=device),
        )

    def _continue(self, race: _Race, logits: Tensor, *, is_last: bool) -> _Continuations:
        logprobs = logits.log_softmax(dim=-1)[race.rows]
        if race.is_seen is not None:
            logprobs = torch.where(race.is_seen, penalize(logprobs, self._penalty), logprobs)
        vocab_size = logprobs.shape[-1]
        if race.answers is not None:
            logprobs = torch.where(_allowed(race.answers, vocab_size=vocab_size).to(logprobs.device), logprobs, _NEVER)
        num_kept = max(2, 1 + len(self._stop_ids)) * self._num_beams
        scores, places = (logprobs + race.scores[..., None]).flatten(1).topk(num_kept)
        beams, tokens = places // vocab_size, places % vocab_size
        guards, loops = self._watch(race, beams, tokens)
        is_stop = (tokens[..., None] == self._stop_ids).any(-1)
        if race.answers is None:
            is_end, answers = torch.ones_like(is_stop) if is_last else is_stop | loops, None
        else:
            is_end, answers = is_stop & (scores > _OUT), _follow(race.answers, beams, tokens, is_in_race=scores > _OUT, loops=loops)
        return _Continuations(scores=scores, beams=beams, tokens=tokens, is_loop=loops & ~is_stop, is_end=is_end, guards=guards, answers=answers)

    def _watch(self, race: _Race, beams: Tensor, tokens: Tensor) -> tuple[list[list[RepeatGuard]] | None, Tensor]:
        """A guard for each continuation, and whether it fires."""
        if race.guards is None:
            return None, torch.zeros_like(tokens, dtype=torch.bool)
        guards = [[known[beam].copy() for beam in chosen] for known, chosen in zip(race.guards, beams.tolist(), strict=True)]
        fires = [[guard.push(token) for guard, token in zip(row, new, strict=True)] for row, new in zip(guards, tokens.tolist(), strict=True)]
        return guards, torch.tensor(fires, device=tokens.device)

    def _collect_ended(self, race: _Race, found: _Continuations, *, step: int) -> None:
        """Let the continuations that end here, of the best B, compete with those that ended before."""
        first = slice(0, self._num_beams)
        scores = torch.where(found.is_end, found.scores / (step + 1), _NEVER)[:, first]
        tokens = _gather(race.tokens, found.beams[:, first])
        tokens[:, :, step] = found.tokens[:, first]
        best_scores, best = torch.cat((race.ended_scores, scores), dim=1).topk(self._num_beams)
        race.ended_scores = best_scores
        race.ended_tokens = _gather(torch.cat((race.ended_tokens, tokens), dim=1), best)
        race.ended_lengths = torch.cat((race.ended_lengths, torch.full_like(race.ended_lengths, step + 1)), dim=1).gather(1, best)
        by_loop, is_short = found.is_loop[:, first], torch.zeros_like(found.is_loop[:, first])
        if found.answers is not None:
            by_loop = self._marks([[answer is not None and answer.is_hurried for answer in row[first]] for row in found.answers])
            is_short = self._marks([[answer is not None and answer.is_short for answer in row[first]] for row in found.answers])
        race.ended_by_loop = torch.cat((race.ended_by_loop, by_loop), dim=1).gather(1, best)
        race.ended_short = torch.cat((race.ended_short, is_short), dim=1).gather(1, best)

    def _extend(self, race: _Race, found: _Continuations, *, step: int) -> Tensor:
        """Make the best B continuations that do not end here the running beams; returns the rows [R, B] that they go on from."""
        race.scores, chosen = (found.scores + found.is_end * _NEVER).topk(self._num_beams)
        beams, tokens = found.beams.gather(1, chosen), found.tokens.gather(1, chosen)
        race.tokens = _gather(race.tokens, beams)
        race.tokens[:, :, step] = tokens
        if race.is_seen is not None:
            race.is_seen = _gather(race.is_seen, beams)
            race.is_seen.scatter_(2, tokens[..., None], True)
        if found.guards is not None:
            race.guards = [[guards[place] for place in places] for guards, places in zip(found.guards, chosen.tolist(), strict=True)]
        if found.answers is not None:
            race.answers = [[answers[place] for place in places] for answers, places in zip(found.answers, chosen.tolist(), strict=True)]
        return race.rows.gather(1, beams)

    def _answer(self, race: _Race, index: int) -> BestBeam:
        ids = race.ended_tokens[index, 0, : int(race.ended_lengths[index, 0])].tolist()
        by_loop, is_short = bool(race.ended_by_loop[index, 0]), bool(race.ended_short[index, 0])
        if ids[-1] in self._stop_ids.tolist():
            return BestBeam(tuple(ids[:-1]), "repeat" if by_loop else "length" if is_short else "stop")
        return BestBeam(tuple(ids), "repeat" if by_loop else "length")

    def _marks(self, values: list[list[bool]]) -> Tensor:
        return torch.tensor(values, device=self._stop_ids.device)


def _allowed(answers: Sequence[Sequence[AnswerRow | None]], *, vocab_size: int) -> Tensor:
    """[R, B, V] what each beam may take next; one that is out of the race may take anything."""
    mask = np.ones((len(answers), len(answers[0]), vocab_size), dtype=bool)
    for lines, row in zip(mask, answers, strict=True):
        for line, answer in zip(lines, row, strict=True):
            if answer is not None:
                answer.fill(line)
    return torch.from_numpy(mask)


def _follow(answers: Sequence[Sequence[AnswerRow | None]], beams: Tensor, tokens: Tensor, *, is_in_race: Tensor, loops: Tensor) -> list[list[AnswerRow | None]]:
    """The document of each continuation [R, K]; one that loops takes the shortest way to its end."""
    followed: list[list[AnswerRow | None]] = []
    for known, *columns in zip(answers, beams.tolist(), tokens.tolist(), is_in_race.tolist(), loops.tolist(), strict=True):
        followed.append([_continue_answer(known[beam], token, is_loop=loop) if is_in else None for beam, token, is_in, loop in zip(*columns, strict=True)])
    return followed


def _continue_answer(answer: AnswerRow | None, token: int, *, is_loop: bool) -> AnswerRow:
    assert answer is not None, "a beam in the race has a document"
    twin = answer.copy()
    if not twin.push(token):
        raise BackendError(f"the token {token} is against the constraint: its logits are not finite", fix="check the weights of the checkpoint")
    if is_loop and not twin.is_done:
        twin.close_soon()
    return twin


def _gather(beams: Tensor, chosen: Tensor) -> Tensor:
    """`beams` [R, B, …] at the beams `chosen` [R, K]: [R, K, …]."""
    return beams[torch.arange(len(beams), device=beams.device)[:, None], chosen]
