"""Tasks to answers to training segments: generate, check the prompt, parse strictly, match, make the target, join. No torch; the backend is handed in.

RolloutTask → GenerationRequest → GenerationSample → ParsedRollout → Match → RolloutTarget → Segment
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from coordexp.batching.segments import join_segment
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.strict import parse_rollout
from coordexp.codec.text_tokenizer import AnyTokenizer, TextTokenizer
from coordexp.generation.prompt_ids import check_prompt_ids
from coordexp.generation.protocol import GenerationBackend, GenerationRequest
from coordexp.matching.assign import match_objects
from coordexp.matching.iou import DEFAULT_RESOLUTION, IouKind
from coordexp.rollout.desc import DescJudge, NameCounts
from coordexp.rollout.report import RolloutReport, count_answer, count_target
from coordexp.rollout.samples import ProducedRollout, ReadRollout, RolloutTask
from coordexp.targets.prefix import PrefixMode, keep_entries
from coordexp.targets.rollout import RolloutTargetOptions, rollout_target
from coordexp.targets.supervision import SupervisionTable
from coordexp.types.errors import DataError
from coordexp.types.records import DetObject
from coordexp.types.rollouts import GenerationSample, GenerationSettings, Match
from coordexp.types.sequences import Segment


@dataclass(frozen=True, slots=True)
class MatchSettings:
    """How predictions and annotated objects are matched; see `match_objects`."""

    gate: float = 0.3
    top_k: int = 5
    fp_cost: float = 1.0
    fn_cost: float = 1.0
    iou: IouKind = "exact"
    resolution: int = DEFAULT_RESOLUTION

    def match(self, predictions: Sequence[DetObject], objects: Sequence[DetObject]) -> Match:
        return match_objects(
            predictions,
            objects,
            gate=self.gate,
            top_k=self.top_k,
            fp_cost=self.fp_cost,
            fn_cost=self.fn_cost,
            iou=self.iou,
            resolution=self.resolution,
        )

    def num_candidates(self, *, num_predictions: int, num_objects: int) -> int:
        """Pairs that are looked at."""
        return num_predictions * min(self.top_k, num_objects)


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """What of an answer a target keeps, and what is taught in it."""

    table: SupervisionTable
    prefix: PrefixMode = "raw"
    cut_out_of_sequence_keys: bool = False
    options: RolloutTargetOptions = field(default_factory=RolloutTargetOptions)
    max_length: int | None = None
    """Tokens of a segment; a longer one is an error."""


class RolloutReader:
    """Answers to tasks, read and matched: all that an evaluation needs, and the first half of training on rollouts. One caller at a time."""

    def __init__(
        self,
        backend: GenerationBackend,
        *,
        tokenizer: AnyTokenizer,
        coord_vocab: CoordVocabulary,
        generation: GenerationSettings,
        forbidden_ids: Collection[int],
        matching: MatchSettings | None = None,
        allow_poly: bool = False,
        monitor: DescJudge | None = None,
    ) -> None:
        """Args beside the obvious.

        forbidden_ids: placeholders of images: an answer is read up to the first of them, since in training a picture would have to stand there.
        allow_poly: False drops predicted polygons, counted.
        monitor: compares the names of matched pairs for the report; None: names are not looked at.
        """
        self.tokenizer = TextTokenizer.of(tokenizer)
        self.coord_vocab = coord_vocab
        self.matching = matching or MatchSettings()
        self._backend, self._generation = backend, generation
        self._forbidden_ids = frozenset(forbidden_ids)
        self._allow_poly, self._monitor = allow_poly, monitor

    def read(self, tasks: Sequence[RolloutTask], *, seed_base: int, first: int = 0) -> tuple[tuple[ReadRollout, ...], RolloutReport]:
        """Roll all tasks out, with the backend's weights of this moment.

        Args:
            tasks: any number; none asks the backend for nothing.
            seed_base: task i samples with the seed `seed_base + first + i`.
            first: place of the first task in the whole step, over all ranks.

        Raises:
            BackendError: the backend does not work, or generated from another prompt.
        """
        start = time.perf_counter()
        samples = self._generate(tasks, seed_base=seed_base + first)
        generated = time.perf_counter()
        rollouts = tuple(self._read(task, sample) for task, sample in zip(tasks, samples, strict=True))
        matched = time.perf_counter()
        return rollouts, RolloutReport(
            generation=self._generation,
            backend=self._backend.info.type,
            seed_base=seed_base,
            answers=tuple(count_answer(rollout) for rollout in rollouts),
            names=self._compare_names(rollouts),
            generate_s=generated - start,
            parse_match_s=matched - generated,
        )

    def _generate(self, tasks: Sequence[RolloutTask], *, seed_base: int) -> list[GenerationSample]:
        if not tasks:
            return []
        requests = [GenerationRequest(id=task.sample_id, prompt=task.prompt, seed=seed_base + number) for number, task in enumerate(tasks)]
        samples = self._backend.generate(requests, self._generation)
        for task, sample in zip(tasks, samples, strict=True):
            check_prompt_ids(sample.prompt_ids, task.prompt.token_ids.tolist(), name=task.sample_id)
        return samples

    def _read(self, task: RolloutTask, sample: GenerationSample) -> ReadRollout:
        parsed = parse_rollout(
            sample.response_ids,
            tokenizer=self.tokenizer,
            coord_vocab=self.coord_vocab,
            allow_poly=self._allow_poly,
            forbidden_ids=self._forbidden_ids,
        )
        predictions = [item.to_object() for item in parsed.objects]
        return ReadRollout(
            task=task,
            sample=sample,
            parsed=parsed,
            match=self.matching.match(predictions, task.objects),
            num_candidates=self.matching.num_candidates(num_predictions=len(predictions), num_objects=len(task.objects)),
        )

    def _compare_names(self, rollouts: Sequence[ReadRollout]) -> NameCounts | None:
        if self._monitor is None:
            return None
        pairs = [(rollout.parsed.objects[pair.pred].desc, rollout.task.objects[pair.gt].desc) for rollout in rollouts for pair in rollout.match.pairs]
        return self._monitor.count(pairs)


class RolloutProducer:
    """Segments from the model's own answers.

    Example:
        producer = RolloutProducer(reader, settings=TargetSettings(table=stage2_ab_table()))
        rollouts, report = producer.produce(tasks, seed_base=rollout_seed_base(42, global_step=7))
        segments = [rollout.segment for rollout in rollouts]
    """

    def __init__(self, reader: RolloutReader, *, settings: TargetSettings, desc_gate: DescJudge | None = None) -> None:
        """`desc_gate` accepts names of matched objects by meaning; None: by their text."""
        self._reader, self._settings, self._desc_gate = reader, settings, desc_gate

    def produce(self, tasks: Sequence[RolloutTask], *, seed_base: int, first: int = 0) -> tuple[tuple[ProducedRollout, ...], RolloutReport]:
        """Roll all tasks out and make what is trained on; see `RolloutReader.read`.

        Raises:
            BackendError: the backend does not work, or generated from another prompt.
            DataError: a segment is longer than allowed.
            CheckpointError: the tokenizer does not write coordinates or the end as one token.
        """
        answers, report = self._reader.read(tasks, seed_base=seed_base, first=first)
        start = time.perf_counter()
        rollouts = tuple(self._finish(answer) for answer in answers)
        encode_s = time.perf_counter() - start
        is_gate_active = self._desc_gate is not None and self._desc_gate.is_active
        return rollouts, report.with_targets(tuple(count_target(rollout) for rollout in rollouts), encode_s=encode_s, is_gate_active=is_gate_active)

    def _finish(self, read: ReadRollout) -> ProducedRollout:
        settings, objects = self._settings, read.task.objects
        kept = keep_entries(read.parsed, prefix=settings.prefix, cut_out_of_sequence_keys=settings.cut_out_of_sequence_keys)
        is_whole = kept.objects == read.parsed.objects
        match = read.match if is_whole else self._reader.matching.match([item.to_object() for item in kept.objects], objects)
        target = rollout_target(
            read.parsed,
            kept,
            match,
            objects,
            tokenizer=self._reader.tokenizer,
            coord_vocab=self._reader.coord_vocab,
            table=settings.table,
            options=settings.options,
            desc_gate=self._desc_gate.agree if self._desc_gate is not None else None,
        )
        segment = join_segment(read.task.sample_id, prompt=read.task.prompt, target=target.target, dataset=read.task.dataset)
        self._check_length(segment, num_rollout=len(read.sample.response_ids))
        return ProducedRollout(read=read, kept=kept, target=target, segment=segment)

    def _check_length(self, segment: Segment, *, num_rollout: int) -> None:
        limit = self._settings.max_length
        if limit is not None and segment.length > limit:
            raise DataError(
                f"the rollout with its target has {segment.length} tokens ({num_rollout} of them generated), more than global_max_length {limit}",
                where=segment.sample_id,
                fix="raise global_max_length, lower rollout_matching.max_new_tokens, or use smaller images",
            )
