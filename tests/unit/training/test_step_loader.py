from __future__ import annotations

import threading

import numpy as np
import pytest

from coordexp.batching.collate import PackBatch, PaddedCollator
from coordexp.training.schedules import StepSchedule
from coordexp.training.step_loader import EvalPackList, PaddedPacks, StepLoader, eval_groups
from coordexp.types.errors import DataError
from coordexp.types.sequences import Segment


class NumberSource:
    """Sample i is a segment of i + 2 tokens without image."""

    def __init__(self, size: int, *, broken: int | None = None) -> None:
        self._size = size
        self._broken = broken
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return self._size

    def encode(self, index: int, *, epoch: int) -> Segment:
        self.threads.add(threading.current_thread().name)
        if index == self._broken:
            raise DataError("the image cannot be decoded", where=f"train:{index}")
        length = index + 2
        return Segment(
            sample_id=f"{index}@{epoch}",
            dataset="",
            token_ids=np.zeros(length, dtype=np.int32),
            ce_weight=np.ones(length, dtype=np.float32),
            roles=np.zeros(length, dtype=np.int8),
            slots=(),
            images=(),
        )


COLLATOR = PaddedCollator(pad_token_id=0, image_token_id=1, merge_size=2)


def make_loader(
    source: NumberSource, *, per_step: int, per_pack: int = 2, step: int = 0, rank: int = 0, world_size: int = 1, num_threads: int = 1
) -> StepLoader:
    schedule = StepSchedule(num_samples=len(source), samples_per_step=per_step, seed=7)
    return StepLoader(
        source,
        schedule=schedule,
        collator=COLLATOR,
        make_packs=PaddedPacks(per_pack),
        current_step=lambda: step,
        rank=rank,
        world_size=world_size,
        num_threads=num_threads,
    )


def ids_of(packs: tuple[PackBatch, ...]) -> list[str]:
    return sorted(name for pack in packs if not pack.is_filler for name in pack.extra("sample_ids", reader="test"))


def test_an_epoch_visits_every_sample_once() -> None:
    loader = make_loader(NumberSource(10), per_step=4)
    seen = [name for packs in loader for name in ids_of(packs)]
    assert sorted(seen) == sorted(f"{i}@0" for i in range(10))
    assert len(loader) == 3
    loader.close()


def test_epochs_are_shuffled_differently_and_repeatably() -> None:
    schedule = StepSchedule(num_samples=10, samples_per_step=10, seed=7)
    assert schedule.indices(0).tolist() != schedule.indices(1).tolist()
    assert schedule.indices(1).tolist() == StepSchedule(num_samples=10, samples_per_step=10, seed=7).indices(1).tolist()
    assert schedule.indices(0).tolist() != StepSchedule(num_samples=10, samples_per_step=10, seed=8).indices(0).tolist()


def test_a_resumed_epoch_goes_on_where_it_stopped() -> None:
    straight = make_loader(NumberSource(10), per_step=4, step=3)
    resumed = make_loader(NumberSource(10), per_step=4, step=4)
    assert [ids_of(packs) for packs in straight][1:] == [ids_of(packs) for packs in resumed]
    straight.close()
    resumed.close()


def test_threads_do_not_change_what_a_step_holds() -> None:
    source = NumberSource(30)
    many, one = make_loader(source, per_step=6, num_threads=4), make_loader(NumberSource(30), per_step=6)
    assert [ids_of(packs) for packs in many] == [ids_of(packs) for packs in one]
    assert threading.current_thread().name not in source.threads
    many.close()
    one.close()


def test_ranks_share_a_step_and_run_equally_many_forwards() -> None:
    loaders = [make_loader(NumberSource(7), per_step=7, per_pack=1, rank=rank, world_size=3) for rank in range(3)]
    steps = [next(iter(loader)) for loader in loaders]
    assert [len(packs) for packs in steps] == [3, 3, 3]
    assert sorted(name for packs in steps for name in ids_of(packs)) == sorted(f"{i}@0" for i in range(7))
    for loader in loaders:
        loader.close()


def test_a_rank_with_no_samples_left_gets_fillers_only() -> None:
    loader = make_loader(NumberSource(5), per_step=4, step=1, rank=1, world_size=2)
    (packs,) = list(loader)
    assert [pack.is_filler for pack in packs] == [True]
    loader.close()


def test_a_broken_sample_raises_where_the_trainer_pulls() -> None:
    loader = make_loader(NumberSource(6, broken=3), per_step=2)
    with pytest.raises(DataError, match=r"^train:3: the image cannot be decoded"):
        list(loader)
    loader.close()


@pytest.mark.parametrize(("drop_last", "expected"), [(False, 3), (True, 2)])
def test_the_last_step_may_be_dropped(drop_last: bool, expected: int) -> None:
    assert StepSchedule(num_samples=10, samples_per_step=4, seed=0, drop_last=drop_last).steps_per_epoch == expected


def test_a_set_smaller_than_a_step_is_one_step() -> None:
    schedule = StepSchedule(num_samples=3, samples_per_step=4, seed=0, drop_last=True)
    assert schedule.steps_per_epoch == 1
    assert sorted(schedule.indices(0).tolist()) == [0, 1, 2]


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        StepSchedule(num_samples=0, samples_per_step=4, seed=0)


def test_evaluation_sees_every_sample_once_over_ranks() -> None:
    packs = [EvalPackList(NumberSource(5), groups=eval_groups(5, per_pack=2, world_size=2), collator=COLLATOR, rank=rank, world_size=2) for rank in range(2)]
    assert [len(part) for part in packs] == [2, 2]
    assert sorted(name for part in packs for pack in part for name in ids_of((pack,))) == [f"{i}@0" for i in range(5)]
