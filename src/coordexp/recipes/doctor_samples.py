"""Records as training encodes them, taken apart again: the picture out of its patches, the objects out of their tokens, the prompt beside that of inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coordexp.batching.pictures import PatchLayout, restore_picture
from coordexp.batching.prompt import PromptEncoder
from coordexp.batching.segments import PROMPT_ROLE
from coordexp.codec.strict import parse_rollout
from coordexp.data.convert import to_norm1000
from coordexp.data.diagnosis.findings import Check, Finding, Place, Severity, first_places
from coordexp.data.images import load_image, read_image_header
from coordexp.data.paths import resolve_image
from coordexp.generation.prompt_ids import PromptMismatchError, check_prompt_ids
from coordexp.models.processor import load_processor
from coordexp.pipeline.prompting import PromptPlan
from coordexp.recipes.doctor_model import ModelSide
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.types.errors import CheckpointError, DataError
from coordexp.types.records import DetObject, Record
from coordexp.types.sequences import Segment
from coordexp.viz.doctor_page import Panel, SampleView
from coordexp.viz.images import embed_picture
from coordexp.viz.outlines import LAST_BIN, Outline, PagePicture, outline_of

_EMBEDDED_SIDE = 640


@dataclass(slots=True)
class SampleReport:
    """Samples for the page, and what differed."""

    views: list[SampleView] = field(default_factory=list[SampleView])
    prompts: list[Place] = field(default_factory=list[Place])
    """Prompts of training and inference that differ."""
    trips: list[Place] = field(default_factory=list[Place])
    """Objects or pixels that are not what was encoded."""
    broken: list[Place] = field(default_factory=list[Place])
    """Pictures that cannot be decoded behind a header that can be read."""
    num_encoded: int = 0

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        if self.broken:
            what = f"{len(self.broken)} of {len(self.views)} samples have a picture that cannot be decoded, though its header can be read"
            fix = "replace the files; 'coordexp data rescale' decodes every picture and names the first that is damaged"
            found.append(Finding(Check.IMAGE_FILE, Severity.ERROR, what, fix, first_places(self.broken)))
        if self.prompts:
            what = f"{len(self.prompts)} of {self.num_encoded} prompts differ between training and inference"
            fix = "use one checkpoint folder for both: its tokenizer, chat template and image settings"
            found.append(Finding(Check.PROMPT_IDS, Severity.ERROR, what, fix, first_places(self.prompts)))
        if self.trips:
            what = f"{len(self.trips)} of {self.num_encoded} samples do not come back from tokens and patches as they went in"
            found.append(Finding(Check.ROUND_TRIP, Severity.ERROR, what, "check the tokenizer and image settings of the checkpoint", first_places(self.trips)))
        return found


class SampleExaminer:
    """Looks at records one by one, as training and inference would get them."""

    def __init__(self, side: ModelSide, *, root: Path, file: str) -> None:
        self._side, self._root, self._file = side, root, file
        self._plan = PromptPlan(spec=side.spec)
        # loaded once more: what inference does in another process
        self._other: Any = load_processor(side.folder)
        self._inference = PromptEncoder(self._other)
        self._layout = PatchLayout.of(side.processor.image_processor)
        self.report = SampleReport()

    def examine(self, records: Sequence[tuple[int, Record]]) -> SampleReport:
        """All of them, in this order; each is (line, record)."""
        for line, record in records:
            self.report.views.append(self._examine(line, record))
        return self.report

    def _examine(self, line: int, record: Record) -> SampleView:
        name = f"{self._file}:{line}"
        source = Panel(self._source_picture(line, record), tuple(_source_outlines(record)))
        if self._side.coord_vocab is None:
            return SampleView(name, record.image, source, None, notes=("The checkpoint has no coordinate tokens.",))
        bins = to_norm1000(record)
        samples = SegmentSource(
            [bins],
            image_root=self._root,
            encoder=self._side.encoder,
            tokenizer=self._side.tokenizer,
            coord_vocab=self._side.coord_vocab,
            settings=SampleSettings(kinds=self._side.spec.kinds),
        )
        try:
            segment = samples.encode(0, epoch=0)
        except (DataError, CheckpointError, ValueError) as error:  # ValueError: an image processor refuses extreme shapes so
            return SampleView(name, record.image, source, None, notes=(str(error),))
        self.report.num_encoded += 1
        expected = samples.rollout_task(0, epoch=0)
        picture = restore_picture(segment.images[0], self._layout)
        self._compare_prompts(line, record, segment)
        objects = self._read_back(segment)
        notes = [*self._compare_objects(line, objects, expected.objects), *self._compare_pixels(line, record, picture)]
        outlines = tuple(outline_of(item.kind, item.points, name=item.desc) for item in objects)
        return SampleView(
            name,
            record.image,
            source,
            Panel(_embed(picture), outlines),
            facts=_facts(segment, picture, record),
            notes=tuple(notes),
            prompt=expected.prompt.text,
            answer=_text(self._side, segment),
        )

    def _source_picture(self, line: int, record: Record) -> PagePicture | None:
        try:
            path = resolve_image(self._root, record.image)
            read_image_header(path)
        except DataError:  # a finding on all images says it
            return None
        try:
            return _embed(load_image(path))
        except DataError as error:
            self.report.broken.append(Place(line, note=error.what))
            return None

    def _read_back(self, segment: Segment) -> tuple[DetObject, ...]:
        assert self._side.coord_vocab is not None
        answer = segment.token_ids[segment.roles != PROMPT_ROLE].tolist()
        parsed = parse_rollout(answer, tokenizer=self._side.tokenizer, coord_vocab=self._side.coord_vocab, allow_poly=True)
        return tuple(item.to_object() for item in parsed.objects)

    def _compare_prompts(self, line: int, record: Record, segment: Segment) -> None:
        """Ids of training against those of inference, and of the checkpoint's own processor."""
        image = load_image(resolve_image(self._root, record.image))
        inference = self._inference.encode(self._plan.prompt(record), image)
        own = self._other(text=[inference.text], images=[image], return_tensors="np")
        training = segment.token_ids[segment.roles == PROMPT_ROLE].tolist()
        try:
            check_prompt_ids(inference.token_ids.tolist(), training, name="inference")
            check_prompt_ids(np.asarray(own["input_ids"])[0].tolist(), training, name="the checkpoint's processor")
        except PromptMismatchError as error:
            self.report.prompts.append(Place(line, None, f"{error.where}: {error.what}"))

    def _compare_objects(self, line: int, read: Sequence[DetObject], expected: Sequence[DetObject]) -> Iterator[str]:
        if [replace(item, points=tuple(map(int, item.points))) for item in expected] == list(read):
            return
        number = next((number for number, (a, b) in enumerate(zip(read, expected, strict=False)) if a != b), min(len(read), len(expected)))
        what = f"{len(read)} of {len(expected)} objects were read back; the first that differs is object_{number + 1}"
        self.report.trips.append(Place(line, None, what))
        yield what

    def _compare_pixels(self, line: int, record: Record, picture: Image.Image) -> Iterator[str]:
        original = load_image(resolve_image(self._root, record.image))
        if picture.size != original.size:
            yield f"The processor resizes this image from {original.width}x{original.height} to {picture.width}x{picture.height}."
        elif picture.tobytes() != original.tobytes():
            what = "the patches hold other pixels than the image file"
            self.report.trips.append(Place(line, None, what))
            yield what


def _source_outlines(record: Record) -> Iterator[Outline]:
    """In bins, unrounded and not clamped: what the file says."""
    spans = (max(1, record.width - 1), max(1, record.height - 1))
    for item in record.objects:
        points = item.points
        if record.coord_space == "pixel":
            points = tuple(value / spans[place % 2] * LAST_BIN for place, value in enumerate(points))
        note = "pixels" if record.coord_space == "pixel" else "bins"
        yield outline_of(item.kind, points, name=item.desc, note=f"{note} {' '.join(f'{value:g}' for value in item.points[:8])}")


def _facts(segment: Segment, picture: Image.Image, record: Record) -> tuple[str, ...]:
    num_prompt = int((segment.roles == PROMPT_ROLE).sum())
    return (
        f"{record.width}x{record.height} in the file",
        f"{picture.width}x{picture.height} in the model",
        f"{num_prompt} tokens of prompt and image",
        f"{segment.length - num_prompt} tokens of answer",
        f"{len(record.objects)} objects",
    )


def _text(side: ModelSide, segment: Segment) -> str:
    answer = segment.token_ids[segment.roles != PROMPT_ROLE].tolist()
    return b"".join(side.tokenizer.pieces(answer)).decode("utf-8", "replace")


def _embed(picture: Image.Image) -> PagePicture:
    return PagePicture(embed_picture(picture, side=_EMBEDDED_SIDE), picture.width, picture.height)
