"""A checkpoint as a detector: loaded once, asked for pictures of any size and kind, answers in the pixels of each picture.

A picture is turned upright, made RGB and resized by the rules of `coordexp data rescale` into what the checkpoint takes; coordinates are relative to the
picture, so that boxes of the resized one are boxes of the original.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.native import native_prompt
from coordexp.codec.prompts import CoordMode, FieldOrder, Ordering, PromptSpec, build_prompt
from coordexp.data.images import load_image, resize_image, to_upright_rgb
from coordexp.data.presets import RescalePreset, parse_preset, plan_size
from coordexp.evaluation.score_calibration import ScoreCalibration
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import GenerationRequest, probabilities_of
from coordexp.generation.seeds import request_seed
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.tiny import SIDE_MULTIPLE
from coordexp.pipeline.ahead import map_ahead
from coordexp.pipeline.attempts import generate_each
from coordexp.pipeline.checkpoint import open_checkpoint
from coordexp.pipeline.counts import SampleError
from coordexp.pipeline.detections import Detections
from coordexp.pipeline.reading import AnswerReader
from coordexp.pipeline.results import answered_result, failed_result
from coordexp.pipeline.standardize import Mode
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import BackendError, DataError
from coordexp.types.predictions import SampleResult
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import GeometryKind
from coordexp.types.rollouts import GenerationSample, GenerationSettings

Picture: TypeAlias = str | Path | Image.Image | npt.NDArray[Any]
"""A file, an image of Pillow, or an array of RGB pixels: [H, W, 3] or [H, W], uint8."""

TINY = "tiny"
"""Names the checkpoint of the package."""
TINY_PRESET = f"rescale_{SIDE_MULTIPLE}_36"
"""What that one was trained on."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A picture before generation."""

    name: str
    size: tuple[int, int] | None
    request: GenerationRequest | None
    """None: it cannot be read."""
    problem: str = ""


class Detector:
    """Finds objects in pictures. One caller at a time; close it, or use it as a context manager, to free the model.

    Example:
        with Detector("output/train/demo/final", labels=["cat", "dog"]) as detector:
            found = detector.predict("photo.jpg")
            print(found.boxes, found.labels, found.scores)
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        labels: Sequence[str] | None = None,
        coord_decode: Literal["argmax", "expectation"] = "argmax",
        coord_decode_window: int = 24,
        constrain: Literal["off", "json"] = "off",
        calibration: str | Path | None = None,
        preset: str | None = None,
        mode: Mode = "coord",
        geometry_kinds: Sequence[GeometryKind] = ("bbox_2d",),
        object_ordering: Ordering = "sorted",
        object_field_order: FieldOrder = "desc_first",
        max_new_tokens: int = 1024,
        temperature: float = 0.0,
        seed: int = 42,
        batch_size: int = 8,
        dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32",
        progress: Progress | None = None,
    ) -> None:
        """Load the checkpoint.

        Args:
            model: folder of a checkpoint; `tiny`: the one of the package, which knows coloured shapes and handwritten digits.
            device: `cpu`, `cuda:0`, …; auto: the first GPU, or the CPU when there is none.
            labels: names to look for, written into the prompt; None: everything. With `constrain="json"` no other name can be written.
            coord_decode: `expectation` reads coordinates between bins.
            coord_decode_window: expectation only: bins on each side of the most probable one.
            constrain: `json` lets the model write nothing but complete answers.
            calibration: what `coordexp calibrate` wrote, to make probabilities of scores.
            preset: sizes of the training data, as `rescale_32_768`; None: the pixel limits of the checkpoint.
            mode: `text` for a checkpoint that writes plain integers 0..999; `native` for a stock Qwen3-VL, in its own format.
            geometry_kinds: as in training.
            object_ordering: as in training.
            object_field_order: as in training.
            max_new_tokens: longest answer.
            temperature: 0 is greedy.
            seed: of sampling.
            batch_size: pictures that are generated together.
            dtype: number format of the weights.
            progress: told about fall-backs.

        Raises:
            UserError: the checkpoint, the device, the preset or the calibration cannot be used.
        """
        if coord_decode == "expectation" and mode != "coord":
            raise DataError(f"there are no coordinate tokens to take the expectation over in mode {mode}", where="coord_decode", fix="set it to argmax")
        self.labels = None if labels is None else tuple(labels)
        """Names of the prompt."""
        self._mode: Mode = mode
        self._batch_size = batch_size
        coord_mode: CoordMode = "coord" if mode == "coord" else "text"
        spec = PromptSpec(object_ordering, object_field_order, coord_mode, tuple(geometry_kinds), self.labels)
        self._prompt = native_prompt(self.labels) if mode == "native" else build_prompt(spec)
        constraint = _constraint(spec, mode) if constrain == "json" else None
        self._settings = GenerationSettings(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, constraint=constraint)
        curve = None if calibration is None else ScoreCalibration.read(Path(calibration))
        if curve is not None:
            curve.fitted_on.check_scores(probabilities_of(None), where=str(calibration))
        chosen = TINY_PRESET if preset is None and model == TINY else preset
        sizes = None if chosen is None else parse_preset(chosen)
        folder = tiny_checkpoint() if model == TINY else Path(model)
        place = {"device": device, "needs_coord_tokens": mode != "native", "progress": progress or NoProgress()}
        opened = open_checkpoint(folder, dtype=dtype, attn_implementation="sdpa", **place)
        self._encoder = PromptEncoder(opened.processor)
        self._sizes = sizes or checkpoint_sizes(self._encoder.side_multiple, opened.processor)
        self._backend = HfBackend(opened, batch_size=batch_size, has_fixed_weights=True)
        window = coord_decode_window if coord_decode == "expectation" else None
        self._reader = AnswerReader(self._backend.text_tokenizer, mode=mode, pred_coord_mode="norm1000", expectation_window=window, calibration=curve)

    @overload
    def predict(self, images: Picture) -> Detections: ...
    @overload
    def predict(self, images: Sequence[Picture]) -> list[Detections]: ...
    def predict(self, images: Picture | Sequence[Picture]) -> Detections | list[Detections]:
        """What is in a picture, or in each of several, in their order. A picture that cannot be read gives `Detections` with an error."""
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            return next(self.iter_predict([images]))
        return list(self.iter_predict(images))

    def iter_predict(self, images: Iterable[Picture]) -> Iterator[Detections]:
        """The same one after the other, for more pictures than memory holds: the next batch is read while one is generated."""
        batches = map_ahead(self._prepare_batch, _batches(images, self._batch_size), num_threads=1, depth=2)
        for batch in batches:
            answers = iter(generate_each(self._backend, [item.request for item in batch if item.request is not None], self._settings))
            for item in batch:
                yield Detections(self._failed(item, SampleError.IMAGE_ERROR, item.problem) if item.request is None else self._result(item, next(answers)))

    def close(self) -> None:
        """Free the model; twice is harmless."""
        self._backend.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _prepare_batch(self, batch: Sequence[tuple[int, Picture]]) -> list[_Prepared]:
        return [self._prepare(number, picture) for number, picture in batch]

    def _prepare(self, number: int, picture: Picture) -> _Prepared:
        name = str(picture) if isinstance(picture, str | Path) else ""
        try:
            image = _open(picture)
        except DataError as error:
            return _Prepared(name, None, None, error.what)
        try:
            width, height = plan_size(*image.size, self._sizes)
            prompt = self._encoder.encode(self._prompt, resize_image(image, width=width, height=height))
        except (DataError, ValueError) as error:  # ValueError: an image processor refuses extreme aspect ratios so
            return _Prepared(name, image.size, None, error.what if isinstance(error, DataError) else str(error))
        identity = name or f"picture:{number}"
        return _Prepared(name, image.size, GenerationRequest(id=identity, prompt=prompt, seed=request_seed(self._settings.seed, identity)))

    def _result(self, item: _Prepared, answer: GenerationSample | BackendError) -> SampleResult:
        if isinstance(answer, BackendError):
            return self._failed(item, SampleError.GENERATION_FAILED, answer.what)
        assert item.size is not None
        width, height = item.size
        read = self._reader.read(answer, width=width, height=height)
        return answered_result(answer, read, image=item.name, width=width, height=height, mode=self._mode)

    def _failed(self, item: _Prepared, error: SampleError, message: str) -> SampleResult:
        width, height = item.size or (None, None)
        return failed_result(error, message, image=item.name, width=width, height=height, mode=self._mode)


def _constraint(spec: PromptSpec, mode: Mode) -> ConstraintSpec:
    """Raises DataError in mode native."""
    if mode == "native":
        raise DataError("constrained decoding knows our own format, not the native one", where="constrain", fix="set it to off")
    return ConstraintSpec(field_order=spec.field_order, coord_mode=spec.coord_mode, kinds=spec.kinds, labels=spec.labels)


def checkpoint_sizes(multiple: int, processor: Any) -> RescalePreset:
    """Sizes that the checkpoint's processor leaves as they are."""
    size = processor.image_processor.size
    low, high = int(size["shortest_edge"]), int(size["longest_edge"])
    return RescalePreset(multiple=multiple, min_blocks=-(-low // multiple**2), max_blocks=high // multiple**2)


def _open(picture: Picture) -> Image.Image:
    """Raises DataError: no such file, damaged, or an array that is no picture."""
    if isinstance(picture, str | Path):
        return load_image(Path(picture))
    if isinstance(picture, Image.Image):
        return to_upright_rgb(picture)
    is_picture = picture.dtype == np.uint8 and picture.size > 0 and (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3))
    if not is_picture:
        what = f"an array of shape {picture.shape} and type {picture.dtype} is no picture"
        raise DataError(what, fix="give uint8 pixels [height, width, 3] in the order red, green, blue, or [height, width]")
    return Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")


def _batches(images: Iterable[Picture], size: int) -> Iterator[list[tuple[int, Picture]]]:
    source = enumerate(images)
    while batch := list(islice(source, size)):
        yield batch
