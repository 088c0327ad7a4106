"""What confidences and sub-bin boxes are worth on held-out scenes, with the shipped tiny checkpoint: AP by scores, calibration, expectation against argmax.

python benchmarks/detection_scores.py [--quick] [--json PATH]

Each split is generated once, greedily, and its answers are read several times by the pipeline itself. Calibrations are fitted on every other scene and
judged on the rest. Intervals: 95 %, 1,000 resamples of the images, paired for differences.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from suite.command import benchmark_parser, write_figures

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec
from coordexp.config.loading import Override, load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.data.synthetic import load_split, write_coco_dataset
from coordexp.evaluation.calibration import calibration
from coordexp.evaluation.coco_matches import coco_matches
from coordexp.evaluation.compare import compare
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.resampling import Resampling, percentile_interval, resample
from coordexp.evaluation.result import EvaluationResult
from coordexp.evaluation.weighted_ap import ApStatistic
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import GenerationRequest
from coordexp.models.assets import tiny_checkpoint
from coordexp.pipeline.artifacts import result_to_line
from coordexp.pipeline.calibrate import apply_calibration, fit_calibration
from coordexp.pipeline.checkpoint import open_checkpoint
from coordexp.pipeline.infer import Inference, InferenceSettings
from coordexp.pipeline.prompting import PromptPlan
from coordexp.pipeline.source import iter_source
from coordexp.recipes.prepare import run_prepare
from coordexp.recipes.tiny_scores import PRESET
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress
from coordexp.types.rollouts import GenerationSample, GenerationSettings

SPLITS = {"digits-val": (200, 40), "shapes-val": (200, 40), "shapes-dense-val": (250, 16)}
"""Scenes in the long and in the short form."""
WINDOWS = {"argmax": None, "window 24": 24, "all bins": 999}
KEYS = ("f1_det@0.75", "f1_det@0.90", "f1_det@0.95", "f1_det_miou")
RESAMPLES = 1000
EXACT = EvalSettings(pixel_mode="exact", with_coco=False, with_f1ish=False)
GENERATION = GenerationSettings(max_new_tokens=768)
BATCH = 32


class RememberingBackend:
    """Generates each request once and gives the answer again whenever it is asked for."""

    def __init__(self, backend: HfBackend) -> None:
        self._backend = backend
        self.info = backend.info
        self._known: dict[str, GenerationSample] = {}

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool = False) -> list[GenerationSample]:
        missing = [request for request in requests if request.id not in self._known]
        if missing:
            answers = self._backend.generate(missing, settings, with_trace=with_trace)
            self._known |= {request.id: answer for request, answer in zip(missing, answers, strict=True)}
        return [self._known[request.id] for request in requests]

    def close(self) -> None:
        self._backend.close()


@dataclass(frozen=True)
class Difference:
    """B minus A with its interval."""

    a: float
    b: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.a:.4f} -> {self.b:.4f} ({self.b - self.a:+.4f}, [{self.low:+.4f}, {self.high:+.4f}])"

    def as_dict(self) -> dict[str, float]:
        return {"a": round(self.a, 4), "b": round(self.b, 4), "delta": round(self.b - self.a, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


def infer_split(name: str, num_scenes: int, folder: Path) -> dict[str, Path]:
    """`gt_vs_pred.jsonl` by way of decoding."""
    split = load_split(name)
    num_scenes = min(num_scenes, split.settings.num_scenes)
    is_whole = num_scenes == split.settings.num_scenes
    scenes = write_coco_dataset(replace(split.settings, num_scenes=num_scenes), folder / "coco", sha256=split.sha256 if is_whole else None)
    source = {"output": folder, "preset": PRESET, "splits.val.instances": scenes.instances, "splits.val.images": scenes.images}
    data = run_prepare(load_config(None, PrepareConfig, [Override(key, str(value)) for key, value in source.items()]))[0].path
    model = open_checkpoint(tiny_checkpoint(), dtype="float32", attn_implementation="sdpa", device="cpu", progress=NoProgress())
    hf = HfBackend(model, batch_size=BATCH)
    backend, encoder = RememberingBackend(hf), PromptEncoder(model.processor)
    paths: dict[str, Path] = {}
    for decode, window in WINDOWS.items():
        settings = InferenceSettings(
            mode="coord",
            pred_coord_mode="auto",
            generation=GENERATION,
            window=BATCH,
            prompts=PromptPlan(PromptSpec()),
            image_root=data.parent,
            expectation_window=window,
        )
        inference = Inference(backend, encoder, tokenizer=hf.text_tokenizer, settings=settings)
        paths[decode] = folder / f"{decode}.jsonl"
        with paths[decode].open("w", encoding="utf-8") as stream:
            for part in inference.run(iter_source(data)):
                stream.writelines(result_to_line(result) for result in part.results)
    backend.close()
    return paths


def ap_gain(result: EvaluationResult) -> dict[str, Difference]:
    """AP by the model's scores against AP by 1.0 for all, which ranks in the order of the answers, and by random numbers."""
    given, generator = result.scores.scores, np.random.default_rng(0)
    ways = {"model": given, "constant": np.ones_like(given), "random": generator.random(len(given))}
    statistics = [ApStatistic(coco_matches(result.data, result.labels, scores, iou_type="bbox", iou_thrs=result.protocol.iou_thrs)) for scores in ways.values()]
    num_images = len(result.data.images)
    whole = [float(statistic(np.ones((num_images, 1)))["bbox_AP"][0]) for statistic in statistics]
    drawn = [values["bbox_AP"] for values in resample(statistics, Resampling(num_images, RESAMPLES))]
    found: dict[str, Difference] = {}
    for place, name in ((1, "constant"), (2, "random")):
        interval = percentile_interval(drawn[0] - drawn[place])
        assert interval is not None
        found[name] = Difference(whole[place], whole[0], *interval)
    return found


def calibrated_half(raw: Path, folder: Path, method: str) -> dict[str, Difference]:
    """ECE and AP of every other scene, by raw scores and by a curve that was fitted on the rest."""
    lines = raw.read_text(encoding="utf-8").splitlines(keepends=True)
    halves = {"fit": lines[0::2], "held_out": lines[1::2]}
    for name, half in halves.items():
        (folder / f"{name}.jsonl").write_text("".join(half), encoding="utf-8")
    curve = fit_calibration(folder / "fit.jsonl", method=method)  # type: ignore[arg-type]
    apply_calibration(curve, folder / "held_out.jsonl", folder / "calibrated.jsonl")
    before, after = evaluate(folder / "held_out.jsonl"), evaluate(folder / "calibrated.jsonl")
    is_right = np.zeros(len(before.data.pred), dtype=np.bool_)
    is_right[before.det.matches.pred] = True
    scores = [result.scores.scores for result in (before, after)]
    image = before.data.pred.image
    rows_of = [np.flatnonzero(image == place) for place in range(len(before.data.images))]
    generator = np.random.default_rng(0)
    deltas = np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        rows = np.concatenate([rows_of[place] for place in generator.integers(0, len(rows_of), len(rows_of)).tolist()])
        a, b = (calibration(values[rows], is_right[rows]).ece for values in scores)
        deltas[draw] = b - a
    interval = percentile_interval(deltas)
    assert interval is not None
    ece = Difference(*(calibration(values, is_right).ece for values in scores), *interval)
    ap = compare(before, after, num_resamples=RESAMPLES).metrics["bbox_AP"]
    assert ap.low is not None
    assert ap.high is not None
    return {"ece": ece, "ap": Difference(ap.a, ap.b, ap.low, ap.high)}


def decode_gain(paths: dict[str, Path]) -> dict[str, dict[str, Difference]]:
    """F1 of the expectation minus that of argmax, in pixel mode exact."""
    results = {name: evaluate(paths[name], settings=EXACT) for name in WINDOWS}
    found: dict[str, dict[str, Difference]] = {}
    for name in ("window 24", "all bins"):
        metrics = compare(results["argmax"], results[name], num_resamples=RESAMPLES).metrics
        found[name] = {}
        for key in KEYS:
            change = metrics[key]
            assert change.low is not None
            assert change.high is not None
            found[name][key] = Difference(change.a, change.b, change.low, change.high)
    return found


def measure(name: str, num_scenes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = infer_split(name, num_scenes, folder)
        result = evaluate(paths["argmax"])
        print(f"\n{name}: {len(result.data.images)} scenes, {len(result.data.gt)} objects, {len(result.data.pred)} predictions")
        report: dict[str, Any] = {"num_scenes": len(result.data.images), "num_pred": len(result.data.pred), "f1_det@0.50": result.metrics["f1_det@0.50"]}
        for against, gain in ap_gain(result).items():
            print(f"  AP by {against} -> model scores: {gain}")
            report[f"ap_over_{against}"] = gain.as_dict()
        for method in ("isotonic", "platt"):
            try:
                changes = calibrated_half(paths["argmax"], folder, method)
            except DataError as error:
                print(f"  {method}: {error.what}")
                continue
            for key, change in changes.items():
                print(f"  {key.upper()} raw -> {method}: {change}")
                report[f"{key}_{method}"] = change.as_dict()
        for window, changes in decode_gain(paths).items():
            for key, change in changes.items():
                print(f"  {key} argmax -> {window}: {change}")
                report[f"{key} {window}"] = change.as_dict()
    return report


def main() -> None:
    parser = benchmark_parser(__doc__, quick="few scenes")
    options = parser.parse_args()
    report = {name: measure(name, counts[1 if options.quick else 0]) for name, counts in SPLITS.items()}
    write_figures(report, options.json)


if __name__ == "__main__":
    main()
