"""What each benchmark shows, by the key of its `--json`: the goal, the peer it is held against, and what bounds a figure that misses its goal.

The one place for goals. The scripts print them, `run_all.py` writes them beside what was measured.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
_SIGNS = {"<=": "≤", ">=": "≥", "==": "="}


@dataclass(frozen=True, slots=True)
class Figure:
    """Example: Figure("fill", "share of the room that holds tokens", goal=">= 0.97")"""

    key: str
    """In the JSON file; `/` leads into a nested object."""
    meaning: str
    goal: str = ""
    """`<=`, `>=`, `<`, `>` or `==` and a number; empty: none."""
    peer: str = ""
    """What a ratio or a difference is against."""
    is_long_only: bool = False
    is_quick_only: bool = False
    quick: str = ""
    """How the quick form is a smaller question than the goal's; the goal is then judged by the long form alone."""
    bound: str = ""
    """What bounds it where it misses the goal."""

    def is_met(self, value: float) -> bool:
        sign, number = self.goal.split()
        return bool(_COMPARE[sign](value, float(number)))

    @property
    def shown_goal(self) -> str:
        if not self.goal:
            return "–"
        sign, number = self.goal.split()
        return f"{_SIGNS.get(sign, sign)} {float(number):,g}"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A script of this folder."""

    script: str
    figures: tuple[Figure, ...]
    note: str = ""

    @property
    def name(self) -> str:
        return self.script.removesuffix(".py")


def goals_of(name: str) -> dict[str, str]:
    """Key → goal as it is printed, of the figures that have one. Example: `goals_of("evaluator")["polygon_cpu_s"]` is `≤ 5`."""
    (benchmark,) = [benchmark for benchmark in SUITE if benchmark.name == name]
    return {figure.key: figure.shown_goal for figure in benchmark.figures if figure.goal}


SUITE: tuple[Benchmark, ...] = (
    Benchmark(
        "cli_startup.py",
        (
            Figure(
                "help_seconds",
                "`coordexp --help`, median wall seconds",
                goal="< 0.4",
                bound="other work on the machine, which makes every process start later; 0.32 s with less of it",
            ),
            Figure("help_over_python_startup", "the same over a bare interpreter", peer="python -c pass"),
        ),
    ),
    Benchmark(
        "evaluator.py",
        (
            Figure("cpu_ratio_vs_pycocotools", "5,000 images, 80 classes: CPU of the whole command over COCOeval alone", goal="<= 0.25", peer="pycocotools"),
            Figure("polygon_cpu_s", "the same with 40 % polygons, CPU seconds", goal="<= 5"),
            Figure("large_cpu_s", "20,000 images, 1,203 classes, CPU seconds", goal="<= 15", quick="2,500 images"),
            Figure("large_peak_mb", "the same, peak memory in MB", goal="<= 1500", quick="2,500 images"),
            Figure("scaling_exponent", "slope of log CPU over log objects, to 1,000,000", goal="<= 1.1", quick="to 250,000"),
            Figure("one_record_cpu_s", "one record, CPU seconds", goal="<= 1"),
            Figure("help_wall_s", "`coordexp eval --help`, median wall seconds", goal="<= 0.4", bound="other work on the machine: 0.26 s where there is none"),
        ),
    ),
    Benchmark(
        "parse_match_pack.py",
        (
            Figure("parse_us_per_token", "strict parse of an answer, microseconds a token"),
            Figure("parse_linear_r2", "R² of time over tokens, 50 to 2,000 objects", goal=">= 0.98"),
            Figure("match_ms_200", "matching of 200 predictions and 200 objects, milliseconds", goal="< 30"),
            Figure("match_ms_500", "500 and 500"),
            Figure("pack_fill_50000", "50,000 segments in rows of 16,384: share that holds tokens"),
        ),
    ),
    Benchmark(
        "packing.py",
        (
            Figure("fill", "1,000,000 lengths in rows of 8,192: share that holds tokens", goal=">= 0.97"),
            Figure("rows_over_lower_bound", "rows over ⌈tokens / 8,192⌉", goal="<= 1.02", peer="lower bound"),
            Figure("plan_1m_seconds", "seconds of that plan, one process", goal="<= 10", bound="other work on the machine: 3.0 CPU seconds of it are ours"),
            Figure("packed_over_padded", "training samples per CPU second, packed rows over padded batches of 8", peer="padded batches"),
        ),
    ),
    Benchmark("stage1_losses.py", (), note="the quick form shows that every recipe trains; its scores say nothing"),
    Benchmark(
        "loss_memory.py",
        (
            Figure(
                "extra_memory_ratio_8k",
                "8,192 tokens × 152,670 vocabulary: extra memory, lean over plain",
                goal="<= 0.125",
                peer="plain losses",
                is_long_only=True,
            ),
            Figure("time_ratio_8k", "the same for time", goal="<= 1.0", peer="plain losses", is_long_only=True),
            Figure("extra_memory_ratio_quick", "1,024 tokens × 32,000 vocabulary: extra memory, lean over plain", peer="plain losses", is_quick_only=True),
            Figure("time_ratio_quick", "the same for time", peer="plain losses", is_quick_only=True),
        ),
    ),
    Benchmark(
        "stage2_gain.py",
        (
            Figure(
                "points_over_best_stage1",
                "best Stage-2 arm over the best Stage-1 arm on fresh seeds, points of F1@mIoU",
                goal=">= 3",
                peer="continued Stage-1",
                is_long_only=True,
                bound="the start is not misled by its own words, so there is little that a rollout could teach: [why](#does-stage-2-teach)",
            ),
        ),
        note="the quick form shows that an arm trains; its scores say nothing",
    ),
    Benchmark(
        "async_overlap.py",
        (
            Figure("sim_idle_share_async", "simulation: the learner idles, worst setting where rollouts are not the bottleneck", goal="<= 0.05"),
            Figure("sim_idle_share_sync_mean", "the synchronous form, mean"),
            Figure("sim_discarded_share", "packs made and not trained on, worst of all settings", goal="<= 0.01"),
            Figure("idle_share_async", "real server: the learner idles", goal="<= 0.05", is_long_only=True),
            Figure("idle_share_sync", "the synchronous form", is_long_only=True),
            Figure("discarded_share", "real server: packs made and not trained on", goal="<= 0.01", is_long_only=True),
        ),
    ),
    Benchmark(
        "detection_scores.py",
        (
            Figure("digits-val/ap_over_constant/delta", "digits: AP by the model's scores minus AP by constant scores", goal="> 0", peer="constant scores"),
            Figure("shapes-val/ap_over_constant/delta", "shapes", goal="> 0", peer="constant scores"),
            Figure("shapes-dense-val/ap_over_constant/delta", "dense shapes", goal="> 0", peer="constant scores"),
            *(
                Figure(f"{split}/{key}", meaning, is_long_only=True)
                for split in ("digits-val", "shapes-dense-val")
                for key, meaning in (
                    ("ece_isotonic/a", "calibration error (ECE) of the model's scores"),
                    ("ece_isotonic/b", "after isotonic calibration"),
                    ("f1_det@0.95 window 24/delta", "F1@0.95, expectation over a window minus argmax"),
                )
            ),
        ),
    ),
    Benchmark(
        "weight_sync.py",
        (
            Figure("tiny/shared_memory/push_s", "7.2 MB of weights to a vLLM server through shared memory, seconds"),
            Figure("tiny/gloo/push_s", "by gloo"),
            Figure("medium/shared_memory/push_s", "146.8 MB through shared memory, seconds", is_long_only=True),
            Figure("medium/gloo/push_s", "by gloo", is_long_only=True),
            Figure("medium/shared_memory/share_of_copy", "bytes a second over those of one thread that copies in memory", peer="a copy", is_long_only=True),
        ),
    ),
    Benchmark(
        "constrain.py",
        (
            Figure("tiny_mask_us_per_token", "mask of the tokens that may come next, microseconds a token"),
            Figure("large_mask_us_per_token", "the same with a vocabulary of 151,000"),
            Figure("hf_speed_ratio", "tokens a CPU second, constrained over free", peer="free generation"),
            Figure("malformed_share_free_t2", "temperature 2: malformed or cut answers without the constraint"),
            Figure("malformed_share_constrained_t2", "with it", goal="== 0", peer="free generation"),
        ),
    ),
    Benchmark(
        "infer_throughput.py",
        (
            Figure(
                "hf_speedup",
                "images a second, our transformers path over a plain `generate` loop, batch 16",
                goal=">= 1.5",
                peer="transformers",
                bound="reading the prompts, a quarter of the whole, is the same work on both sides: [more](#speed-of-inference)",
            ),
            Figure(
                "vllm_ratio",
                "our client with a vLLM server over vLLM's own offline batch",
                goal=">= 0.95",
                peer="vLLM",
                is_long_only=True,
                bound="client, HTTP server and engine are three processes on two cores; the offline batch is two: [more](#speed-of-inference)",
            ),
        ),
    ),
    Benchmark(
        "data_intake.py",
        (
            Figure("import_records_s", "`data import coco`, records a CPU second"),
            Figure("coord_records_s", "`data coord`"),
            Figure("validate_records_s", "`data validate`"),
            Figure("doctor_records_s", "`doctor data`"),
            Figure("rescale_speedup", "`data rescale`, two processes over one", peer="one process"),
        ),
    ),
)
