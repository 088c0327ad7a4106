"""Detection in the evaluations of a training: greedy answers to a fixed sample of the validation set, measured as `coordexp eval` measures them.

It draws no random number and leaves the model in the mode that it was in: a run with it trains to the same bits as one without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from coordexp.codec.salvage import salvage_text
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.result import EvaluationResult
from coordexp.generation.protocol import GenerationBackend, GenerationRequest
from coordexp.generation.scores import score_objects
from coordexp.training.faults import OnError, attempt
from coordexp.training.ranks import gather_objects
from coordexp.types.errors import BackendError
from coordexp.types.records import Record
from coordexp.types.rollouts import GenerationSample, GenerationSettings
from coordexp.types.sequences import PromptInputs

_KEYS = {
    "det_f1": "f1_det@0.50",
    "det_f1@0.75": "f1_det@0.75",
    "det_f1@0.95": "f1_det@0.95",
    "det_f1_miou": "f1_det_miou",
    "det_precision": "f1_det@0.50_precision",
    "det_recall": "f1_det@0.50_recall",
    "det_bbox_AP": "bbox_AP",
    "det_bbox_AP50": "bbox_AP50",
}
"""Key of the log → key of the evaluator."""


class PromptSource(Protocol):
    """Records in bins, and the prompt that each gets in evaluation."""

    @property
    def records(self) -> Sequence[Record]: ...

    def encode_prompt(self, index: int) -> PromptInputs: ...


class DetectionEval:
    """Called by the trainer inside each evaluation, on every rank at the same time: it waits for the answers of the other ranks.

    Example: `DetectionEval(source, backend, tokenizer=backend.text_tokenizer, limit=200, max_new_tokens=1024)()["det_f1"] == 0.41`
    """

    def __init__(
        self,
        source: PromptSource,
        backend: GenerationBackend,
        *,
        tokenizer: TextTokenizer,
        limit: int,
        max_new_tokens: int,
        window: int = 8,
        is_required: bool = False,
        rank: int = 0,
        world_size: int = 1,
        say: Callable[[str], None] = print,
        on_error: OnError | None = None,
    ) -> None:
        """Args beside the obvious.

        limit: records of the sample, spread evenly over `source`; 0: all.
        window: prompts that are held and generated together.
        is_required: the run chooses its best checkpoint by these numbers, so that a failure ends it.
        say: takes the warning when generation fails and the run goes on without it.
        on_error: takes note of records whose image cannot be read, which are left out; None: they are errors.
        """
        self._source, self._backend, self._tokenizer = source, backend, tokenizer
        self._sample = spread(len(source.records), limit)
        self._settings = GenerationSettings(max_new_tokens=max_new_tokens)
        self._window, self._is_required = window, is_required
        self._rank, self._world_size = rank, world_size
        self._say = say
        self._on_error = on_error
        self._is_off = False

    def __call__(self) -> dict[str, float]:
        """The values of `coordexp.metrics.detection`, the same on every rank; empty after generation has failed once.

        Raises:
            BackendError: generation failed and `is_required`.
        """
        if self._is_off:
            return {}
        start = time.perf_counter()
        shares = gather_objects(self._answer_or_failure(), world_size=self._world_size)
        failures = [share for share in shares if isinstance(share, str)]
        if failures:
            return self._give_up(failures[0])
        answered = sorted((pair for share in shares if not isinstance(share, str) for pair in share), key=lambda pair: pair[0])
        lines = [line for _, line in answered]
        result = evaluate(lines, settings=EvalSettings(with_f1ish=False))
        return _values(result, lines) | {"det_runtime": time.perf_counter() - start}

    def _answer_or_failure(self) -> list[tuple[int, dict[str, Any]]] | str:
        """(index, line as in `gt_vs_pred.jsonl`) for this rank's share of the sample, or why generation failed: the other ranks must learn of it."""
        mine = self._sample[self._rank :: self._world_size]
        try:
            return [pair for start in range(0, len(mine), self._window) for pair in self._answer(mine[start : start + self._window])]
        except BackendError as error:
            return error.what

    def _answer(self, indices: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
        asked = [(index, request) for index in indices if (request := self._request(index)) is not None]
        answers = self._backend.generate([request for _, request in asked], self._settings, with_trace=True) if asked else []
        return [(index, _line(self._source.records[index], answer, self._tokenizer)) for (index, _), answer in zip(asked, answers, strict=True)]

    def _request(self, index: int) -> GenerationRequest | None:
        record = self._source.records[index]
        return attempt(lambda: GenerationRequest(record.id, self._source.encode_prompt(index), seed=0), on_error=self._on_error)

    def _give_up(self, reason: str) -> dict[str, float]:
        if self._is_required:
            raise BackendError(
                f"detection in evaluation failed ({reason}), and training.metric_for_best_model needs it",
                where="custom.eval_detection",
                fix="lower batch_size or max_new_tokens there",
            )
        self._is_off = True
        self._say(f"warning: detection in evaluation failed ({reason}) and is switched off; lower custom.eval_detection.batch_size or max_new_tokens")
        return {}


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` (0: all) places spread evenly over `count`. Example: `spread(10, 3) == [0, 3, 6]`"""
    chosen = min(limit, count) if limit else count
    return [number * count // chosen for number in range(chosen)]


def _line(record: Record, answer: GenerationSample, tokenizer: TextTokenizer) -> dict[str, Any]:
    """One line of `gt_vs_pred.jsonl`, in bins: the evaluator turns them into pixels by the rule of inference."""
    salvaged = salvage_text(answer.text)
    confidences = score_objects(answer, salvaged.objects, tokenizer=tokenizer)
    return {
        "image": record.id,
        "width": record.width,
        "height": record.height,
        "coord_mode": "norm1000",
        "gt": [{"type": item.kind, "points": list(item.points), "desc": item.desc} for item in record.objects],
        "pred": [
            {"type": item.kind, "points": list(item.values), "desc": item.desc, "score": confidence.score}
            for item, confidence in zip(salvaged.objects, confidences, strict=True)
        ],
        "finish_reason": answer.finish_reason,
        "broken": dict(salvaged.broken),
    }


def _values(result: EvaluationResult, lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    num_broken = sum(sum(line["broken"].values()) for line in lines)
    num_read, num_used = sum(len(line["pred"]) for line in lines), len(result.data.pred)
    return {
        **{name: result.metrics[key] for name, key in _KEYS.items()},
        "det_images": float(len(lines)),
        "det_gt_objects": float(len(result.data.gt)),
        "det_pred_objects": float(num_used),
        "det_invalid_objects": float(num_read - num_used + num_broken),
        "det_truncated_rate": sum(line["finish_reason"] == "length" for line in lines) / max(1, len(lines)),
    }
