"""The arms of the study: a name, what it is for, and settings that differ from `study.yaml`. Configuration only; nothing here trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

Value: TypeAlias = str | int | float | bool
Settings: TypeAlias = Mapping[str, Value]
Stage: TypeAlias = Literal["stage1", "stage2"]

MAIN_SEEDS = (1, 2, 3)
FRESH_SEEDS = (4, 5, 6, 7, 8)
"""Of the best arm of each stage, which the main seeds choose: the claim rests on seeds that chose nothing."""
LOOK_SEEDS = (1,)

_COORD = "custom.coord_soft_ce_w1"
_AB = "stage2_ab"
_B = f"{_AB}.channel_b"

MIXED: Settings = {f"{_COORD}.ce_weight": 0.1}
PURE_CE: Settings = {f"{_COORD}.soft_ce_weight": 0.0, f"{_COORD}.w1_weight": 0.0, f"{_COORD}.ce_weight": 1.0, f"{_COORD}.gate_weight": 1.0}

STAGE2: Settings = {
    "custom.trainer_variant": "stage2_ab_training",
    f"{_AB}.coord_ce_weight": 1.0,
    f"{_AB}.coord_gate_weight": 1.0,
    "rollout_matching.rollout_backend": "hf",
    "rollout_matching.max_new_tokens": 448,
    "rollout_matching.rollout_infer_batch_size": 8,
    "rollout_matching.repeat_terminate.enabled": True,
    "rollout_matching.repeat_terminate.min_new_tokens": 64,
    "rollout_matching.repeat_terminate.max_object_keys": 40,
    "rollout_matching.maskiou_gate": 0.5,
}
"""Cross-entropy stays on at coordinate slots in both channels: without it the mean of the distribution is fitted and its mode is left free."""

MIXED_SLOTS: Settings = {f"{_AB}.coord_ce_weight": 0.1, f"{_AB}.coord_soft_ce_weight": 1.0, f"{_AB}.coord_w1_weight": 1.0}
"""The coordinate terms of the mixed loss of Stage-1."""
NO_COORD: Settings = {f"{_AB}.coord_ce_weight": 0.0, f"{_AB}.coord_gate_weight": 0.0}
NO_BOXES: Settings = {f"{_AB}.bbox_smoothl1_weight": 0.0, f"{_AB}.bbox_ciou_weight": 0.0}
_REPAIRS = ("cut_out_of_sequence_keys", "cut_surplus", "renumber_keys")
CONTRACT_B: Settings = {f"{_B}.prefix": "raw", f"{_B}.fn_position": "tail", **{f"{_B}.{name}": False for name in _REPAIRS}}
"""Channel B as first written down: the prefix as it was generated, missed objects at its end."""
CLEAN_B: Settings = {f"{_B}.prefix": "clean", f"{_B}.fn_position": "sorted", **{f"{_B}.{name}": True for name in _REPAIRS}}
"""Channel B with every repair that a prototype asked for."""

TRUE_B: Settings = {**CLEAN_B, f"{_B}.matched_names": "same", f"{_B}.unmatched": "drop", f"{_B}.desc_ce_weight_matched": 1.0}
"""Of a clean prefix only what is true stays, and its names are taught: for data in which everything is annotated."""


@dataclass(frozen=True)
class Arm:
    """Example: `Arm("s1_ce", "stage1", "continued Stage-1, pure cross-entropy", PURE_CE)`"""

    name: str
    stage: Stage
    what: str
    settings: Settings
    seeds: tuple[int, ...] = MAIN_SEEDS

    @property
    def is_look(self) -> bool:
        """Looked at with one seed only."""
        return self.seeds == LOOK_SEEDS


def _stage1(name: str, what: str, *parts: Settings, seeds: tuple[int, ...] = MAIN_SEEDS) -> Arm:
    return Arm(name, "stage1", what, _joined(*parts), seeds)


def _stage2(name: str, what: str, b_ratio: float, iterations: int, *parts: Settings, seeds: tuple[int, ...] = MAIN_SEEDS) -> Arm:
    schedule: Settings = {f"{_AB}.schedule.b_ratio": b_ratio, f"{_AB}.n_softctx_iter": iterations}
    return Arm(name, "stage2", what, _joined(STAGE2, schedule, *parts), seeds)


def _joined(*parts: Settings) -> Settings:
    return MappingProxyType({key: value for part in parts for key, value in part.items()})


ARMS: tuple[Arm, ...] = (
    _stage1("s1_mixed", "continued Stage-1, mixed loss", MIXED),
    _stage1("s1_ce", "continued Stage-1, pure cross-entropy", PURE_CE),
    _stage2("a1_box", "Channel A, 1 iteration, box losses", 0.0, 1),
    _stage2("a2_unroll", "Channel A, 2 iterations, unroll", 0.0, 2, {f"{_AB}.softctx_grad_mode": "unroll"}),
    _stage2("a2_em", "Channel A, 2 iterations, em_detach", 0.0, 2, {f"{_AB}.softctx_grad_mode": "em_detach"}),
    _stage2("b_only", "Channel B only", 1.0, 1, CLEAN_B),
    _stage2("ab_025", "A (1 iteration) and B at 0.25", 0.25, 1, CLEAN_B),
    _stage2("b_true", "Channel B only, true objects alone in the prefix", 1.0, 1, TRUE_B),
    _stage2("ab_true", "A (1 iteration) and B at 0.25, true objects alone in the prefix", 0.25, 1, TRUE_B),
    _stage2("ab_025_a2", "A (2 iterations) and B at 0.25", 0.25, 2, CLEAN_B),
)

LOOKS: tuple[Arm, ...] = (
    _stage1("s1_ce_low", "pure cross-entropy, learning rate 5e-5", PURE_CE, {"training.learning_rate": 5e-5}),
    _stage1("s1_ce_lr5", "pure cross-entropy, learning rate 5e-4", PURE_CE, {"training.learning_rate": 5e-4}, seeds=LOOK_SEEDS),
    _stage2("a1_nobox", "Channel A, 1 iteration, coordinate cross-entropy alone", 0.0, 1, NO_BOXES, seeds=LOOK_SEEDS),
    _stage2("a1_mixed", "Channel A, 1 iteration, mixed coordinate loss and box losses", 0.0, 1, MIXED_SLOTS, seeds=LOOK_SEEDS),
    _stage2("ab_mixed", "AB at 0.25, mixed coordinate loss and box losses", 0.25, 1, CLEAN_B, MIXED_SLOTS, seeds=LOOK_SEEDS),
    _stage2("a1_boxonly", "Channel A, 1 iteration, box losses replace the coordinate loss", 0.0, 1, NO_COORD, seeds=LOOK_SEEDS),
    _stage2("ab_contract", "AB at 0.25, B in its first form, no coordinate loss", 0.25, 2, CONTRACT_B, NO_COORD, seeds=LOOK_SEEDS),
    _stage2("ab_raw", "AB at 0.25, B in its first form", 0.25, 1, CONTRACT_B, seeds=LOOK_SEEDS),
    _stage2("b_names", "Channel B only, matched names taught too", 1.0, 1, CLEAN_B, {f"{_B}.desc_ce_weight_matched": 1.0}, seeds=LOOK_SEEDS),
    _stage2("ab_tail", "AB at 0.25, missed objects at the end", 0.25, 1, CLEAN_B, {f"{_B}.fn_position": "tail"}, seeds=LOOK_SEEDS),
    _stage2("ab_ownkeys", "AB at 0.25, keys as the model wrote them", 0.25, 1, CLEAN_B, {f"{_B}.renumber_keys": False}, seeds=LOOK_SEEDS),
    _stage2("ab_keys", "AB at 0.25, key digits supervised", 0.25, 1, CLEAN_B, {f"{_B}.key_ce": "on"}, seeds=LOOK_SEEDS),
    _stage2("ab_noclosure", "AB at 0.25, closure off", 0.25, 1, CLEAN_B, {f"{_B}.closure_ce": "off"}, seeds=LOOK_SEEDS),
    _stage2("ab_pooled", "AB at 0.25, geometry pooled", 0.25, 1, CLEAN_B, {f"{_B}.geometry_reduction": "pooled"}, seeds=LOOK_SEEDS),
    _stage2("ab_005", "AB at 0.05", 0.05, 1, CLEAN_B, seeds=LOOK_SEEDS),
    _stage2("ab_085", "AB at 0.85", 0.85, 1, CLEAN_B, seeds=LOOK_SEEDS),
    _stage2("ab_lr5", "AB at 0.25, learning rate 5e-5", 0.25, 1, CLEAN_B, {"training.learning_rate": 5e-5}),
)


def find_arms(names: str | None) -> tuple[Arm, ...]:
    """Arms by comma-separated names; None: all."""
    everything = {arm.name: arm for arm in (*ARMS, *LOOKS)}
    chosen = list(everything) if names is None else names.split(",")
    unknown = [name for name in chosen if name not in everything]
    if unknown:
        raise SystemExit(f"no arm {', '.join(unknown)}; there are {', '.join(everything)}")
    return tuple(everything[name] for name in chosen)
