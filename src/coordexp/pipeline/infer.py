"""Records in, lines of `gt_vs_pred.jsonl` out: image, prompt, generation, salvage, pixels, score.

The unit is a window of consecutive input lines: it is generated, written and (later) resumed as a whole. Every input line gives exactly one output line, in
order; a sample that fails gives a line with its error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.salvage import salvage_text
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.data.images import load_image
from coordexp.data.paths import resolve_image
from coordexp.data.rules import Rule
from coordexp.generation.protocol import GenerationBackend, GenerationRequest
from coordexp.generation.scores import Confidence, score_objects
from coordexp.generation.seeds import request_seed
from coordexp.pipeline.counts import RunCounts, SampleError
from coordexp.pipeline.prompting import PromptPlan
from coordexp.pipeline.source import SourceLine
from coordexp.pipeline.standardize import Mode, PixelObject, PredCoordMode, ground_truth, standardize
from coordexp.types.errors import BackendError, DataError
from coordexp.types.predictions import Detection, SampleResult
from coordexp.types.records import Record
from coordexp.types.rollouts import GenerationSample, GenerationSettings, SalvagedObject

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
    """Input lines that are generated together."""
    prompts: PromptPlan
    image_root: Path


@dataclass(frozen=True, slots=True)
class _Ready:
    """A sample that can be generated."""

    record: Record
    request: GenerationRequest


class Inference:
    """Runs windows through one backend; `counts` tells what happened so far.

    Example:
        inference = Inference(backend, PromptEncoder(processor), tokenizer=TextTokenizer.of(tokenizer), settings=settings)
        for results in inference.run(iter_source(path)):
            writer.append(results)
    """

    def __init__(self, backend: GenerationBackend, encoder: PromptEncoder, *, tokenizer: TextTokenizer, settings: InferenceSettings) -> None:
        self._backend = backend
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._settings = settings
        self.counts = RunCounts()

    def run(self, lines: Iterable[SourceLine]) -> Iterator[list[SampleResult]]:
        """The results of one window after the other.

        Raises:
            BackendError: nothing could be generated for the first samples: the backend does not work.
        """
        source = iter(lines)
        while window := list(islice(source, self._settings.window)):
            results = self._run_window(window)
            self.counts.note_results(results)
            yield results

    def _run_window(self, window: Sequence[SourceLine]) -> list[SampleResult]:
        prepared = [self._prepare(line) for line in window]
        ready = [item for item in prepared if isinstance(item, _Ready)]
        answers = iter(self._generate(ready))
        return [self._result(item, next(answers)) if isinstance(item, _Ready) else item for item in prepared]

    def _prepare(self, line: SourceLine) -> _Ready | SampleResult:
        record = line.record
        if record is None:
            violation = line.violations[0]
            return self._refused_line(line, _ERROR_OF_RULE.get(violation.rule, SampleError.INVALID_RECORD), f"{violation.field}: {violation.what}")
        expects_pixels = self._settings.mode == "text"
        if record.objects and (record.coord_space == "pixel") != expects_pixels:
            return self._failed(record, SampleError.MODE_GT_MISMATCH, f"ground truth in {record.coord_space} in mode {self._settings.mode}")
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

    def _generate(self, ready: Sequence[_Ready]) -> list[GenerationSample | BackendError]:
        """One answer or failure for each; when a batch fails, its samples are tried one by one."""
        if not ready:
            return []
        start = time.perf_counter()
        try:
            answers: list[GenerationSample | BackendError] = list(self._generate_batch(ready))
        except BackendError as error:
            answers = [error] if len(ready) == 1 else [self._generate_alone(item) for item in ready]
        self.counts.generation_s += time.perf_counter() - start
        failures = [answer for answer in answers if isinstance(answer, BackendError)]
        if len(failures) == len(answers) and self.counts.num_answered == 0:
            raise failures[0]
        self.counts.num_tokens += sum(len(answer.response_ids) for answer in answers if isinstance(answer, GenerationSample))
        return answers

    def _generate_batch(self, ready: Sequence[_Ready]) -> list[GenerationSample]:
        return self._backend.generate([item.request for item in ready], self._settings.generation, with_trace=True)

    def _generate_alone(self, item: _Ready) -> GenerationSample | BackendError:
        try:
            return self._generate_batch([item])[0]
        except BackendError as error:
            return error

    def _result(self, item: _Ready, answer: GenerationSample | BackendError) -> SampleResult:
        record = item.record
        if isinstance(answer, BackendError):
            return self._failed(record, SampleError.GENERATION_FAILED, answer.what)
        salvaged = salvage_text(answer.text)
        pixels = standardize(
            salvaged.objects, mode=self._settings.mode, pred_coord_mode=self._settings.pred_coord_mode, width=record.width, height=record.height
        )
        self.counts.note_objects(num_read=len(salvaged.objects), num_kept=len(pixels.objects), dropped=pixels.errors, broken=salvaged.broken)
        scores = score_objects(answer, [salvaged.objects[kept.index] for kept in pixels.objects], tokenizer=self._tokenizer)
        pred = tuple(_detection(kept, salvaged.objects[kept.index], score) for kept, score in zip(pixels.objects, scores, strict=True))
        gt = ground_truth(record)
        return SampleResult(
            image=record.image,
            width=record.width,
            height=record.height,
            mode=self._settings.mode,
            coord_mode="pixel" if gt or pred else None,
            gt=gt,
            pred=pred,
            raw_output=answer.text,
            errors=tuple(dict.fromkeys((*pixels.errors, *(() if pred else (SampleError.EMPTY_PRED,))))),
            finish_reason=answer.finish_reason,
            score_source="constant" if answer.trace is None else "token_probs",
            extras={"broken": dict(salvaged.broken)} if salvaged.broken else {},
        )

    def _failed(self, record: Record, error: SampleError, message: str) -> SampleResult:
        gt = ground_truth(record)
        return SampleResult(
            image=record.image,
            width=record.width,
            height=record.height,
            mode=self._settings.mode,
            coord_mode="pixel" if gt else None,
            gt=gt,
            pred=(),
            raw_output="",
            errors=(error,),
            extras={"message": message},
        )

    def _refused_line(self, line: SourceLine, error: SampleError, message: str) -> SampleResult:
        images = line.raw.get("images")
        image = images[0] if isinstance(images, list) and images and isinstance(images[0], str) else ""
        width, height = (value if type(value := line.raw.get(name)) is int and value > 0 else None for name in ("width", "height"))
        return SampleResult(
            image=image,
            width=width,
            height=height,
            mode=self._settings.mode,
            coord_mode=None,
            gt=(),
            pred=(),
            raw_output="",
            errors=(error,),
            extras={"message": message},
        )


def _detection(kept: PixelObject, item: SalvagedObject, confidence: Confidence) -> Detection:
    return Detection(
        desc=item.desc,
        kind=kept.kind,
        points=kept.points,
        points_exact=kept.points_exact,
        score=confidence.score,
        score_parts=confidence.parts,
    )
