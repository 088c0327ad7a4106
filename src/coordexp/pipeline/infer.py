"""Records in, lines of `gt_vs_pred.jsonl` out: image, prompt, generation, salvage, pixels, score.

The unit is a window of consecutive input lines: it is generated, written and resumed as a whole. Every input line gives exactly one output line, in
order; a sample that fails gives a line with its error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.data.images import load_image
from coordexp.data.paths import resolve_image
from coordexp.data.rules import Rule
from coordexp.evaluation.score_calibration import ScoreCalibration
from coordexp.generation.protocol import GenerationBackend, GenerationRequest
from coordexp.generation.seeds import request_seed
from coordexp.pipeline.ahead import map_ahead
from coordexp.pipeline.attempts import generate_each
from coordexp.pipeline.counts import RunCounts, SampleError
from coordexp.pipeline.prompting import PromptPlan
from coordexp.pipeline.reading import AnswerReader
from coordexp.pipeline.results import answered_result, failed_result
from coordexp.pipeline.source import SourceLine
from coordexp.pipeline.standardize import Mode, PredCoordMode, ground_truth
from coordexp.types.errors import BackendError, DataError
from coordexp.types.predictions import SampleResult
from coordexp.types.records import Record
from coordexp.types.rollouts import GenerationSample, GenerationSettings

_ERROR_OF_RULE: dict[Rule, SampleError] = {
    Rule.JSON: SampleError.INVALID_JSON,
    Rule.SIZE: SampleError.MISSING_SIZE,
    Rule.IMAGES: SampleError.IMAGE_ERROR,
    Rule.GEOMETRY: SampleError.INVALID_GEOMETRY,
    Rule.REJECTED_KEY: SampleError.INVALID_GEOMETRY,
    Rule.ARITY: SampleError.INVALID_GEOMETRY,
    Rule.BOX_ORDER: SampleError.INVALID_GEOMETRY,
    Rule.POLY_ORDER: SampleError.INVALID_GEOMETRY,
    Rule.POLY_POINTS: SampleError.INVALID_GEOMETRY,
    Rule.VALUE: SampleError.INVALID_COORD,
    Rule.TOKEN: SampleError.INVALID_COORD,
}


@dataclass(frozen=True, slots=True)
class InferenceSettings:
    """What decides the output besides the model and the data."""

    mode: Mode
    pred_coord_mode: PredCoordMode
    generation: GenerationSettings
    window: int
    """Input lines that the backend gets at once."""
    prompts: PromptPlan
    image_root: Path
    expectation_window: int | None = None
    """Bins on each side of the most probable one over which a coordinate is the mean; None: the bin that was written."""
    calibration: ScoreCalibration | None = None
    """Makes probabilities of scores; None: raw scores."""
    num_loaders: int = 1
    """Threads that read and prepare images ahead."""
    num_windows: int = 1
    """Windows that are generated at a time; more than one only for a backend that serves several callers (`windows_under_way`)."""


def windows_under_way(*, concurrency: int, window: int) -> int:
    """For a backend with room for `concurrency` requests, windows of `window` samples that keep it full.

    A window is under way until its last sample is answered: with no more windows than there is room for, every short answer would leave a place empty.
    """
    return -(-2 * concurrency // window) + 1


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive input lines and the result of each."""

    lines: tuple[SourceLine, ...]
    results: tuple[SampleResult, ...]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A sample that can be generated."""

    record: Record
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A window before generation."""

    lines: tuple[SourceLine, ...]
    items: tuple[_Ready | SampleResult, ...]


@dataclass(frozen=True, slots=True)
class _Answered:
    """A window after it: an answer or failure for each sample that was ready, and when that was, in seconds of one clock."""

    prepared: _Prepared
    answers: tuple[GenerationSample | BackendError, ...]
    start: float
    end: float


class Inference:
    """Runs windows through one backend; `counts` tells what happened so far.

    Example:
        inference = Inference(backend, PromptEncoder(processor), tokenizer=TextTokenizer.of(tokenizer), settings=settings)
        for window in inference.run(iter_source(path)):
            print(window.results)
    """

    def __init__(self, backend: GenerationBackend, encoder: PromptEncoder, *, tokenizer: TextTokenizer, settings: InferenceSettings) -> None:
        self._backend = backend
        self._encoder = encoder
        self._settings = settings
        self._reader = AnswerReader(
            tokenizer,
            mode=settings.mode,
            pred_coord_mode=settings.pred_coord_mode,
            expectation_window=settings.expectation_window,
            calibration=settings.calibration,
        )
        self._generated_until = 0.0
        self.counts = RunCounts()

    def run(self, lines: Iterable[SourceLine]) -> Iterator[Window]:
        """The results of one window after the other. Images are prepared ahead by threads; a backend that serves many callers gets several windows at once.

        Raises:
            BackendError: nothing could be generated for the first samples, or the backend is lost for all: what was given out stays valid.
        """
        settings = self._settings
        # the images of the next window wait while one is generated
        prepared = _windows(map_ahead(self._prepare, lines, num_threads=settings.num_loaders, depth=settings.window + settings.num_loaders), settings.window)
        answered: Iterable[_Answered] = map(self._generate, prepared)
        if settings.num_windows > 1:
            answered = map_ahead(self._generate, prepared, num_threads=settings.num_windows, depth=settings.num_windows + 2)
        for window in answered:
            self._note_generation(window)
            answers = iter(window.answers)
            results = [self._result(item, next(answers)) if isinstance(item, _Ready) else item for item in window.prepared.items]
            self.counts.note_results(results)
            yield Window(window.prepared.lines, tuple(results))

    def _prepare(self, line: SourceLine) -> tuple[SourceLine, _Ready | SampleResult]:
        return line, self._ready_or_failed(line)

    def _ready_or_failed(self, line: SourceLine) -> _Ready | SampleResult:
        record = line.record
        if record is None:
            violation = line.violations[0]
            return self._refused_line(line, _ERROR_OF_RULE.get(violation.rule, SampleError.INVALID_RECORD), f"{violation.field}: {violation.what}")
        mode = self._settings.mode
        if mode != "native" and record.objects and (record.coord_space == "pixel") != (mode == "text"):
            return self._failed(record, SampleError.MODE_GT_MISMATCH, f"ground truth in {record.coord_space} in mode {mode}")
        try:
            image = load_image(resolve_image(self._settings.image_root, record.image))
            if image.size != (record.width, record.height):
                sizes = f"the image has {image.width}x{image.height} pixels, its record says {record.width}x{record.height}"
                return self._failed(record, SampleError.SIZE_MISMATCH, sizes)
            prompt = self._encoder.encode(self._settings.prompts.prompt(record), image)
        except (DataError, ValueError) as error:  # ValueError: an image processor refuses extreme aspect ratios so
            return self._failed(record, SampleError.IMAGE_ERROR, error.what if isinstance(error, DataError) else str(error))
        seed = request_seed(self._settings.generation.seed, record.id)
        return _Ready(record, GenerationRequest(id=record.id, prompt=prompt, seed=seed))

    def _generate(self, window: _Prepared) -> _Answered:
        ready = [item for item in window.items if isinstance(item, _Ready)]
        start = time.perf_counter()
        answers = generate_each(self._backend, [item.request for item in ready], self._settings.generation)
        return _Answered(window, tuple(answers), start, time.perf_counter())

    def _note_generation(self, window: _Answered) -> None:
        # windows overlap when several are under way: time that was counted for one is not counted again
        self.counts.generation_s += max(0.0, window.end - max(window.start, self._generated_until))
        self._generated_until = max(self._generated_until, window.end)
        failures = [answer for answer in window.answers if isinstance(answer, BackendError)]
        if failures and len(failures) == len(window.answers) and self.counts.num_answered == 0:
            raise failures[0]
        self.counts.num_tokens += sum(len(answer.response_ids) for answer in window.answers if isinstance(answer, GenerationSample))

    def _result(self, item: _Ready, answer: GenerationSample | BackendError) -> SampleResult:
        record = item.record
        if isinstance(answer, BackendError):
            return self._failed(record, SampleError.GENERATION_FAILED, answer.what)
        read = self._reader.read(answer, width=record.width, height=record.height)
        self.counts.note_objects(num_read=read.num_read, num_kept=len(read.detections), dropped=read.dropped, broken=read.broken)
        return answered_result(answer, read, gt=ground_truth(record), **self._place(record))

    def _failed(self, record: Record, error: SampleError, message: str) -> SampleResult:
        return failed_result(error, message, gt=ground_truth(record), **self._place(record))

    def _place(self, record: Record) -> dict[str, Any]:
        return {"image": record.image, "width": record.width, "height": record.height, "mode": self._settings.mode}

    def _refused_line(self, line: SourceLine, error: SampleError, message: str) -> SampleResult:
        images = line.raw.get("images")
        image = images[0] if isinstance(images, list) and images and isinstance(images[0], str) else ""
        width, height = (value if type(value := line.raw.get(name)) is int and value > 0 else None for name in ("width", "height"))
        return failed_result(error, message, image=image, width=width, height=height, mode=self._settings.mode)


def _windows(items: Iterable[tuple[SourceLine, _Ready | SampleResult]], size: int) -> Iterator[_Prepared]:
    source = iter(items)
    while window := list(islice(source, size)):
        lines, prepared = zip(*window, strict=True)
        yield _Prepared(lines, prepared)
