"""Records to segments: a function of (record, epoch, settings), never of timing. What can be kept between epochs is kept in memory, up to a limit."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from PIL import Image

from coordexp import __version__
from coordexp.batching.prompt import PromptEncoder
from coordexp.batching.segments import Truncation, join_segment
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.prompts import CoordMode, FieldOrder, Ordering, Prompt, PromptSpec, build_prompt
from coordexp.codec.serialize import order_objects
from coordexp.codec.text_tokenizer import AnyTokenizer, TextTokenizer
from coordexp.codec.token_count import AnswerLengths
from coordexp.data.augmentation import Augmentation, augment
from coordexp.data.images import load_image, read_image_size
from coordexp.data.paths import resolve_image
from coordexp.geometry.bins import MAX_BIN
from coordexp.rollout.samples import RolloutTask
from coordexp.targets.ground_truth import ground_truth_target
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import DetObject, GeometryKind, Record
from coordexp.types.sequences import ImageInputs, PromptInputs, Segment, TargetSequence

PromptLabels: TypeAlias = Literal["none", "all", "gt", "gt+negatives"]

DEFAULT_CACHE_BYTES = 512 * 1024**2


@dataclass(frozen=True, slots=True)
class SampleLength:
    """Tokens of a sample, before anything is cut."""

    prompt: int
    """With the image."""
    total: int


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """How records become samples."""

    ordering: Ordering = "sorted"
    field_order: FieldOrder = "desc_first"
    coord_mode: CoordMode = "coord"
    kinds: tuple[GeometryKind, ...] = ("bbox_2d",)
    prompt_labels: PromptLabels = "none"
    """The category list in the prompt; `gt+negatives` adds as many categories that are not there as are there, at least one. Always sorted."""
    max_length: int | None = None
    truncation: Truncation = "raise"
    min_pixels: int | None = None
    max_pixels: int | None = None
    """Limits of an image; outside is an error: rescaling is the data's job."""
    seed: int = 0
    augmentation: Augmentation | None = None
    max_objects: int | None = None
    """Of a record with more, so many are drawn anew in each epoch."""

    @property
    def is_static(self) -> bool:
        """The same segment in every epoch."""
        return self.has_static_length and self.augmentation is None

    @property
    def has_static_length(self) -> bool:
        """The same measured length in every epoch."""
        return self.ordering == "sorted" and self.prompt_labels != "gt+negatives" and self.max_objects is None


class SegmentSource:
    """Encodes records on demand. `encode` may be called from several threads at once.

    Example: `SegmentSource(records, image_root=path.parent, encoder=PromptEncoder(processor), …).encode(0, epoch=0).length == 187`
    """

    def __init__(
        self,
        records: Sequence[Record],
        *,
        image_root: Path,
        encoder: PromptEncoder,
        tokenizer: AnyTokenizer,
        coord_vocab: CoordVocabulary | None,
        settings: SampleSettings,
        labels: Sequence[str] = (),
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """Args beside the obvious.

        records: coordinates in bins.
        labels: all categories, for prompts that list them.
        cache_bytes: memory for encoded images; the first that come stay, since an epoch visits each once and eviction would only churn.
        """
        self.records = records
        self._root = image_root
        self._encoder = encoder
        self._tokenizer = TextTokenizer.of(tokenizer)
        self._coord_vocab = coord_vocab
        self._answers = AnswerLengths(self._tokenizer, coord_vocab=coord_vocab, field_order=settings.field_order, coord_mode=settings.coord_mode)
        self._settings = settings
        self._labels = tuple(sorted(set(labels)))
        self._free_bytes = cache_bytes
        self._images: dict[int, ImageInputs] = {}
        self._segments: dict[int, Segment] = {}
        self._refused: dict[int, DataError] = {}

    def __len__(self) -> int:
        return len(self.records)

    def encode(self, index: int, *, epoch: int) -> Segment:
        """The segment of record `index` in `epoch`.

        Raises:
            DataError: its image is missing or corrupt, or the sample is too long.
        """
        known = self._segments.get(index)
        if known is not None:
            return known
        segment = self._encode(index, epoch)
        if self._settings.is_static and index in self._images:
            self._segments[index] = segment
        return segment

    def encode_prompt(self, index: int) -> PromptInputs:
        """The prompt of record `index` without its answer, as the first epoch has it.

        Raises:
            DataError: its image is missing or corrupt.
        """
        record = self.records[index]
        try:
            return self._encoder.assemble(self.prompt(record, epoch=0), self._image(index, record))
        except DataError as error:
            raise error if error.where else DataError(error.what, where=record.id, fix=error.fix) from error

    def _drawn(self, index: int, epoch: int) -> Record:
        """Record `index` with at most as many objects as are allowed, in their order."""
        record, most = self.records[index], self._settings.max_objects
        if most is None or len(record.objects) <= most:
            return record
        generator = random.Random(sample_seed(self._settings.seed, epoch, f"objects:{record.id}"))
        return replace(record, objects=tuple(record.objects[i] for i in sorted(generator.sample(range(len(record.objects)), most))))

    def rollout_task(self, index: int, *, epoch: int) -> RolloutTask:
        """What the model is asked about record `index` in `epoch`, and what the annotation says: the prompt, pixels and objects of `encode`.

        Raises:
            DataError: its image is missing or corrupt.
        """
        record, shown = self.records[index], self._drawn(index, epoch)
        self._refuse(index)
        try:
            if self._settings.augmentation is None:
                image = self._image(index, record)
            else:
                picture, shown = self._augmented(shown, epoch)
                image = self._encoder.encode_image(picture)
        except DataError as error:
            raise error if error.where else DataError(error.what, where=record.id, fix=error.fix) from error
        return RolloutTask(
            sample_id=record.id,
            prompt=self._encoder.assemble(self.prompt(record, epoch=epoch, shown=shown), image),
            objects=self._ordered(shown, epoch),
            dataset=record.dataset,
            index=index,
            epoch=epoch,
        )

    def picture(self, index: int, *, epoch: int) -> Image.Image:
        """The image of record `index` as the model sees it in `epoch`.

        Raises:
            DataError: it is missing or corrupt.
        """
        record = self._drawn(index, epoch)
        self._refuse(index)
        return self._load(record) if self._settings.augmentation is None else self._augmented(record, epoch)[0]

    def _augmented(self, record: Record, epoch: int) -> tuple[Image.Image, Record]:
        assert self._settings.augmentation is not None
        return augment(self._load(record), record, self._settings.augmentation, seed=sample_seed(self._settings.seed, epoch, f"augment:{record.id}"))

    def _encode(self, index: int, epoch: int) -> Segment:
        settings, task = self._settings, self.rollout_task(index, epoch=epoch)
        return join_segment(
            task.sample_id,
            prompt=task.prompt,
            target=self._target(task.objects),
            dataset=task.dataset,
            max_length=settings.max_length,
            truncation=settings.truncation,
        )

    def prompt(self, record: Record, *, epoch: int, shown: Record | None = None) -> Prompt:
        """The prompt that the record gets in `epoch`; `shown` is what the object limit and augmentation left of it."""
        settings = self._settings
        labels = self._prompt_labels(record, epoch, shown or record)
        return build_prompt(
            PromptSpec(ordering=settings.ordering, field_order=settings.field_order, coord_mode=settings.coord_mode, kinds=settings.kinds, labels=labels)
        )

    def _prompt_labels(self, record: Record, epoch: int, shown: Record) -> tuple[str, ...] | None:
        if record.prompt_labels is not None:
            return record.prompt_labels
        mode = self._settings.prompt_labels
        if mode == "none":
            return None
        if mode == "all":
            return self._labels
        listed = {item.desc for item in shown.objects}
        if mode == "gt+negatives":
            # drawn for the whole record: what was left out or cut away must not turn into a category that is not there
            present = {item.desc for item in record.objects}
            absent = [label for label in self._labels if label not in present]
            generator = random.Random(sample_seed(self._settings.seed, epoch, f"labels:{record.id}"))
            listed |= set(generator.sample(absent, min(len(absent), max(1, len(present)))))
        return tuple(sorted(listed))

    def _ordered(self, record: Record, epoch: int) -> tuple[DetObject, ...]:
        """The objects in the order in which they are written."""
        return order_objects(record.objects, ordering=self._settings.ordering, seed=sample_seed(self._settings.seed, epoch, record.id))

    def _target(self, objects: Sequence[DetObject]) -> TargetSequence:
        settings = self._settings
        return ground_truth_target(
            objects, tokenizer=self._tokenizer, coord_vocab=self._coord_vocab, field_order=settings.field_order, coord_mode=settings.coord_mode
        )

    def _image(self, index: int, record: Record) -> ImageInputs:
        self._refuse(index)
        known = self._images.get(index)
        if known is not None:
            return known
        inputs = self._encoder.encode_image(self._load(record))
        # a race between threads can overshoot the limit by one image each: harmless
        if inputs.pixel_values.nbytes <= self._free_bytes:
            self._free_bytes -= inputs.pixel_values.nbytes
            self._images[index] = inputs
        return inputs

    def _refuse(self, index: int) -> None:
        """Raises what `check` has found wrong with the image of the record."""
        if index in self._refused:
            raise self._refused[index]

    def _load(self, record: Record) -> Image.Image:
        path = resolve_image(self._root, record.image, where=record.id)
        image = load_image(path, where=record.id)
        _check_size(path, image.size, record)
        return image

    @property
    def has_static_length(self) -> bool:
        """Every sample has the same measured length in every epoch."""
        return self._settings.has_static_length

    @property
    def max_length(self) -> int | None:
        """Limit of a sample, in tokens."""
        return self._settings.max_length

    def measure(self, index: int, *, epoch: int) -> SampleLength:
        """How long `encode(index, epoch=epoch)` would be without a limit, by the same encoder and without looking at the image. With augmentation, which can
        only take objects away, the most that it can be.
        """
        record, shown = self.records[index], self._drawn(index, epoch)
        objects = self._ordered(shown, epoch)
        if self._settings.augmentation is not None and self._settings.coord_mode == "text":
            objects = tuple(replace(item, points=(MAX_BIN,) * len(item.points)) for item in objects)
        num_prompt = self._encoder.num_prompt_tokens(self.prompt(record, epoch=epoch, shown=shown), width=record.width, height=record.height)
        return SampleLength(prompt=num_prompt, total=num_prompt + self._answers.count(objects))

    def check_length(self, index: int, length: SampleLength) -> None:
        """Raises DataError when the sample does not fit and may not, or cannot, be cut."""
        limit = self._settings.max_length
        if limit is None or length.total <= limit or (self._settings.truncation == "right" and length.prompt < limit):
            return
        what = f"the sample has {length.total} tokens ({length.prompt} of them prompt and image), more than global_max_length {limit}"
        raise DataError(what, where=self.records[index].id, fix="raise global_max_length, use smaller images, or take the sample out")

    def row_length(self, index: int, *, epoch: int) -> int:
        """Tokens of `encode(index, epoch=epoch)`, cut where that is allowed.

        Raises:
            DataError: it does not fit and may not, or cannot, be cut.
        """
        length, limit = self.measure(index, epoch=epoch), self._settings.max_length
        self.check_length(index, length)
        return length.total if limit is None else min(length.total, limit)

    def content_digest(self) -> str:
        """Names everything that decides lengths: records, prompts, tokenizer, and the settings that have a say."""
        own = self._settings
        decisive = (own.ordering, own.field_order, own.coord_mode, own.kinds, own.prompt_labels, own.augmentation is not None, own.max_objects)
        seed = None if own.has_static_length else own.seed
        digest = hashlib.sha256(f"{__version__}\n{decisive}\n{seed}\n{self._labels}\n".encode())
        digest.update(self._encoder.describe().encode())
        encoder = msgspec.msgpack.Encoder()
        for record in self.records:
            digest.update(encoder.encode(record))
        return digest.hexdigest()

    def check(
        self, *, name: str, progress: Progress | None = None, lengths: Callable[[int], SampleLength] | None = None, skips_images: bool = False
    ) -> list[DataError]:
        """Look at every record and image header, so that nothing is found wrong hours later. Pixels are decoded only in training.

        With `skips_images` a record whose image is missing, no image, or of another size is no error here: each time that it is to be encoded it is.

        Args:
            name: of the set, on the progress display.
            progress: where the work is shown.
            lengths: of each sample in the first epoch, when they were measured already.
            skips_images: see above.

        Returns:
            What is wrong with the images that will be skipped.

        Raises:
            DataError: a missing image, one of another size than its record says or outside the pixel limits, a kind of geometry that was not asked
                for, or (with a length limit) a sample that is too long.
        """
        for index, record in enumerate((progress or NoProgress()).track(self.records, f"check {name}", total=len(self.records))):
            try:
                self._check_image(record)
            except DataError as error:
                if not skips_images:
                    raise
                self._refused[index] = error
            self._check_objects(record)
            if self._settings.max_length is not None:
                self.check_length(index, self.measure(index, epoch=0) if lengths is None else lengths(index))

        if len(self._refused) == len(self.records):
            raise next(iter(self._refused.values()))
        return list(self._refused.values())

    def _check_image(self, record: Record) -> None:
        path = resolve_image(self._root, record.image, where=record.id)
        _check_size(path, read_image_size(path, where=record.id), record)
        pixels = record.width * record.height
        low, high = self._settings.min_pixels, self._settings.max_pixels
        if (low is not None and pixels < low) or (high is not None and pixels > high):
            what = f"the image has {pixels} pixels, outside template.min_pixels {low} and template.max_pixels {high}"
            raise DataError(what, where=record.id, fix="rescale the data set ('coordexp data rescale'), or change the limits")

    def _check_objects(self, record: Record) -> None:
        for number, item in enumerate(record.objects):
            if item.kind not in self._settings.kinds:
                what = f"the geometry is {item.kind}, and data.geometry_kinds asks for {', '.join(self._settings.kinds)}"
                raise DataError(what, where=f"{record.id}: objects[{number}]", fix="add the kind to data.geometry_kinds, or filter the data")


def _check_size(path: Path, size: tuple[int, int], record: Record) -> None:
    if size != (record.width, record.height):
        what = f"the image {path} has {size[0]}x{size[1]} pixels, the record says {record.width}x{record.height}"
        raise DataError(what, where=record.id, fix="write the size of the upright image into the record, or import the data again")


def sample_seed(seed: int, epoch: int, name: str) -> int:
    """A seed of its own for each sample and epoch, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{epoch}:{name}".encode(), digest_size=8).digest(), "big")
