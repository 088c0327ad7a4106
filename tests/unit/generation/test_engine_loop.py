from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from coordexp.generation.engine_loop import EngineLoop


@dataclass
class Answer:
    request_id: str
    text: str
    finished: bool = True


@dataclass
class ScriptedEngine:
    """Takes as many steps for a prompt as the number that it is; -1 cannot be taken, and 99 breaks the step. Each step waits for the gate."""

    gate: threading.Event = field(default_factory=threading.Event)
    left: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    @property
    def llm_engine(self) -> ScriptedEngine:
        return self

    def enqueue(self, prompts: list[int], parameters: list[Any], *, use_tqdm: bool) -> list[str]:
        assert not use_tqdm
        assert len(prompts) == len(parameters)
        names = [str(len(self.asked) + number) for number in range(len(prompts))]
        for name, prompt in zip(names, prompts, strict=True):
            if prompt == -1:
                raise ValueError("the prompt is too long")
            self.left[name] = self.asked[name] = prompt
        return [f"{name}-random" for name in names]

    def has_unfinished_requests(self) -> bool:
        return bool(self.left)

    def step(self) -> list[Answer]:
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(20)
        self.batches.append(len(self.left))
        if 99 in self.left.values():
            self.left.clear()
            raise RuntimeError("out of memory")
        self.left = {name: steps - 1 for name, steps in self.left.items()}
        done = [name for name, steps in self.left.items() if steps == 0]
        for name in done:
            del self.left[name]
        return [Answer(name, f"answer to {self.asked[name]}") for name in done] + [Answer(name, "", finished=False) for name in self.left]


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def loop(engine: ScriptedEngine) -> Iterator[EngineLoop]:
    found = EngineLoop(engine)
    yield found
    engine.gate.set()
    found.close()


def ask(loop: EngineLoop, *prompts: int) -> list[str]:
    return [answer.text for answer in loop.run(list(prompts), [None] * len(prompts))]


def test_callers_share_the_batch_and_each_gets_its_own_answers_in_order(loop: EngineLoop, engine: ScriptedEngine) -> None:
    with ThreadPoolExecutor(3) as callers:
        first = callers.submit(ask, loop, 5, 2)
        while not engine.threads:
            pass
        # the first step is under way and waits
        found = [first, callers.submit(ask, loop, 3), callers.submit(ask, loop, 4, 4, 1)]
        while len(loop._inbox) < 2:
            pass
        engine.gate.set()
        assert [item.result(20) for item in found] == [["answer to 5", "answer to 2"], ["answer to 3"], ["answer to 4", "answer to 4", "answer to 1"]]
    assert engine.batches[:2] == [2, 6]
    assert engine.threads == {"vllm-engine"}


def test_a_request_that_cannot_be_taken_is_an_error_for_its_caller_alone(loop: EngineLoop, engine: ScriptedEngine) -> None:
    with ThreadPoolExecutor(1) as callers:
        good = callers.submit(ask, loop, 4)
        while not engine.threads:
            pass
        with pytest.raises(ValueError, match="too long"):
            engine.gate.set()
            ask(loop, 1, -1)
        # the first of the two was taken, and ends with nobody to hear of it
        assert good.result(20) == ["answer to 4"]
    assert ask(loop, 1) == ["answer to 1"]


def test_an_engine_that_breaks_is_an_error_for_all_that_wait_and_not_for_those_who_come_later(loop: EngineLoop, engine: ScriptedEngine) -> None:
    with ThreadPoolExecutor(2) as callers:
        found = [callers.submit(ask, loop, prompt) for prompt in (10**9, 99)]
        engine.gate.set()
        for item in found:
            with pytest.raises(RuntimeError, match="out of memory"):
                item.result(20)
    assert ask(loop, 1) == ["answer to 1"]


def test_steps_that_break_one_after_the_other_are_counted_until_there_is_an_answer(loop: EngineLoop, engine: ScriptedEngine) -> None:
    engine.gate.set()
    for number in (1, 2, 3):
        with pytest.raises(RuntimeError, match="out of memory"):
            ask(loop, 99)
        assert loop.num_broken_steps == number
    with pytest.raises(ValueError, match="too long"):
        ask(loop, -1)
    assert loop.num_broken_steps == 3
    assert ask(loop, 1) == ["answer to 1"]
    assert loop.num_broken_steps == 0


def test_closing_ends_what_is_under_way(engine: ScriptedEngine) -> None:
    loop = EngineLoop(engine)
    with ThreadPoolExecutor(2) as callers:
        waiting = callers.submit(ask, loop, 5)
        while not engine.threads:
            pass
        closing = callers.submit(loop.close)
        engine.gate.set()
        closing.result(20)
        with pytest.raises(RuntimeError, match="the engine was closed"):
            waiting.result(20)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        ask(loop, 1)
