"""On a GPU too, where there is one; vLLM is not needed."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import load_model
from coordexp.training.offload import RolloutRoom, in_main_memory, parameters_of, state_of
from coordexp.types.errors import BackendError

torch.set_num_threads(1)
DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))


class Learner:
    """A real model whose head is its embedding, and an optimizer that has stepped. The vision tower is frozen."""

    def __init__(self, device: str, *, steps: int = 2) -> None:
        self.model: Any = load_model(tiny_checkpoint(), dtype="float32", device=device, attn_implementation="eager").model.train()
        self.model.model.visual.requires_grad_(requires_grad=False)
        self.home = next(self.model.parameters()).device
        self.optimizer = torch.optim.AdamW([item for item in self.model.parameters() if item.requires_grad], lr=1e-3)
        for number in range(steps):
            self.learn(number)

    def learn(self, number: int) -> float:
        ids = torch.randint(0, 1000, (2, 16), generator=torch.Generator().manual_seed(number)).to(self.home)
        loss = self.model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    @property
    def weights(self) -> list[Tensor]:
        return parameters_of(self.model)

    @property
    def state(self) -> list[Tensor]:
        return state_of(self.optimizer, device=self.home)

    def room(self, **settings: Any) -> RolloutRoom:
        return RolloutRoom(weights=lambda: self.weights, state=lambda: self.state, **settings)


class Engine:
    """Sleeps and wakes, and notes what it sees of the learner then."""

    def __init__(self, learner: Learner, *, is_broken: bool = False) -> None:
        self.notes: list[str] = []
        self._learner, self._is_broken = learner, is_broken
        self._homes = [tensor.data_ptr() for tensor in (learner.weights[0], learner.state[0])]

    def note(self, what: str) -> None:
        found = [tensor.data_ptr() for tensor in (self._learner.weights[0], self._learner.state[0])]
        self.notes.append(f"{what}: " + ", ".join("here" if now == home else "away" for now, home in zip(found, self._homes, strict=True)))

    def sync(self, step: int) -> float:
        self.note(f"sync {step}")
        return 0.5

    def wake(self, part: str) -> None:
        self.note(f"wake {part}")

    def sleep(self) -> None:
        self.note("sleep")
        if self._is_broken:
            raise BackendError("it does not sleep")


@pytest.fixture(params=DEVICES)
def learner(request: pytest.FixtureRequest) -> Iterator[Learner]:
    yield Learner(request.param)
    gc.collect()


def allocated(learner: Learner) -> int:
    """Bytes on its GPU; 0 on a CPU."""
    return torch.cuda.memory_allocated(learner.home) if learner.home.type == "cuda" else 0


def snapshot(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def test_a_learner_that_was_away_goes_on_as_one_that_was_not(learner: Learner) -> None:
    other = copy.deepcopy(learner)
    weights, state, parameters = snapshot(learner.weights), snapshot(learner.state), list(learner.model.parameters())
    for number in range(2, 4):
        with learner.room()(number):
            away = [tensor.device.type for tensor in (*learner.weights, *learner.state)]
            assert set(away) == {"cpu"}
            assert len(away) > 40
            if number == 2:
                assert all(torch.equal(now.cpu(), before.cpu()) for now, before in zip(learner.weights, weights, strict=True))
        if number == 2:
            assert all(torch.equal(now, before) for now, before in zip((*learner.weights, *learner.state), (*weights, *state), strict=True))
        assert learner.learn(number) == other.learn(number)
    assert all(now is before for now, before in zip(learner.model.parameters(), parameters, strict=True))
    assert all(torch.equal(now, expected) for now, expected in zip((*learner.weights, *learner.state), (*other.weights, *other.state), strict=True))


def test_head_and_embedding_stay_one_matrix(learner: Learner) -> None:
    embedding, head = learner.model.get_input_embeddings(), learner.model.get_output_embeddings()
    with in_main_memory(learner.weights):
        assert embedding.weight is head.weight
    learner.learn(9)
    assert embedding.weight is head.weight
    assert embedding.weight.device == learner.home


def test_views_of_a_storage_move_together() -> None:
    whole = torch.arange(12.0)
    row, column = whole.view(3, 4)[1], whole.view(3, 4).T[2]
    before = whole.data_ptr()
    with in_main_memory([row, whole, column, torch.empty(0)]):
        assert whole.data_ptr() != before
        whole[6] = -1
        assert (row[2], column[1]) == (-1, -1)
    whole[6] = -2
    assert row.tolist() == [4, 5, -2, 7]
    assert column.tolist() == [2, -2, 10]


def test_the_memory_of_weights_and_state_is_free_meanwhile(learner: Learner) -> None:
    gc.collect()
    state, weights = ([StorageWeakRef(tensor.untyped_storage()) for tensor in tensors] for tensors in (learner.state, learner.weights))
    sizes = [sum(tensor.untyped_storage().nbytes() for tensor in set(tensors)) for tensors in (learner.state, learner.weights)]
    before = allocated(learner)
    with in_main_memory(learner.state):
        without_state = allocated(learner)
        assert all(storage.expired() for storage in state)
        assert not any(storage.expired() for storage in weights)
        with in_main_memory(learner.weights):
            without_both = allocated(learner)
            assert all(storage.expired() for storage in weights)
            assert {tensor.is_pinned() for tensor in (*learner.weights, *learner.state)} == {learner.home.type == "cuda"}
    seen = (before, without_state, without_both, allocated(learner))
    logging.getLogger(__name__).info("%s: %d bytes, %d without state, %d without weights too, %d at the end; state and weights: %s", learner.home, *seen, sizes)
    if learner.home.type == "cuda":
        # the allocator counts in blocks of 512 bytes
        assert before - without_state >= sizes[0] > 0
        assert without_state - without_both >= sizes[1] > 0
        assert allocated(learner) == before


def test_before_the_first_step_there_is_no_state() -> None:
    learner = Learner("cpu", steps=0)
    assert state_of(None, device=learner.home) == state_of(learner.optimizer, device=learner.home) == []
    with learner.room()(0) as times:
        pass
    assert times.sync_s is None
    assert times.offload_s is not None
    with RolloutRoom(sync=lambda step: 0.25)(0) as times:
        pass
    assert (times.sync_s, times.offload_s) == (0.25, None)


def test_everything_has_its_turn_and_the_weights_are_handed_over_from_home() -> None:
    learner = Learner("cpu", steps=1)
    engine = Engine(learner)
    with learner.room(sync=engine.sync, sleeper=engine)(7) as times:
        engine.note("rollouts")
    assert engine.notes == [
        "wake weights: here, away",
        "sync 7: here, away",
        "wake kv_cache: away, away",
        "rollouts: away, away",
        "sleep: away, away",
    ]
    assert times.sync_s == 0.5


@pytest.mark.parametrize("is_broken", [False, True], ids=["engine-alive", "engine-broken"])
def test_after_rollouts_that_failed_the_learner_is_back_and_their_error_is_told(is_broken: bool) -> None:
    learner = Learner("cpu", steps=1)
    engine, before = Engine(learner, is_broken=is_broken), snapshot(learner.weights)
    with pytest.raises(BackendError, match="no answer"), learner.room(sync=engine.sync, sleeper=engine)(1):
        raise BackendError("no answer")
    assert engine.notes[-1] == "sleep: away, away"
    assert all(torch.equal(now, then) for now, then in zip(learner.weights, before, strict=True))
    assert learner.learn(5) > 0


def test_where_there_is_no_room_nothing_has_moved() -> None:
    parts = [nn.Parameter(torch.ones(4)), torch.empty(1, device="meta").expand(4)]
    before = parts[0].data_ptr()
    with pytest.raises(BackendError, match=r"main memory has no room for the learner .*lower vllm\.gpu_memory_utilization"), in_main_memory(parts):
        pass
    assert parts[0].data_ptr() == before
