# pyright: reportMissingImports=false
"""Drives a vLLM engine in this process by one thread, so that the requests of many callers share its batch and none of them waits for another's turn."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(slots=True)
class _Job:
    """Requests of one caller."""

    prompts: list[Any]
    parameters: list[Any]
    names: list[str] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    done: Future[list[Any]] = field(default_factory=Future)


class EngineLoop:
    """`run` may be called by any thread; it waits for the answers of its requests, or for the engine's error, and is unblocked by `close`.

    While nothing is under way the thread sleeps and the engine may be used by others, one at a time.

    Example: `EngineLoop(llm).run(prompts, parameters)[0].outputs[0].token_ids`
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._condition = threading.Condition()
        """Guards the two below."""
        self._inbox: list[_Job] = []
        self._is_closed = False
        self._owners: dict[str, _Job] = {}
        """By request id, under way; of the thread alone."""
        self.num_broken_steps = 0
        """Steps that raised, since the last answer."""
        self._device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        self._thread = threading.Thread(target=self._drive, name="vllm-engine", daemon=True)
        self._thread.start()

    def run(self, prompts: list[Any], parameters: list[Any]) -> list[Any]:
        """The engine's own results, in order.

        Raises:
            RuntimeError: the loop is closed; or whatever the engine raises.
        """
        job = _Job(prompts, parameters)
        with self._condition:
            if self._is_closed:
                raise RuntimeError("the engine is closed")
            self._inbox.append(job)
            self._condition.notify()
        return job.done.result()

    def close(self) -> None:
        """End the thread behind the step that it is in; what is under way gets an error."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join()

    def _drive(self) -> None:
        if self._device is not None:
            torch.cuda.set_device(self._device)
        # kernels that ask OpenMP themselves see the number of threads only when it was set in their own thread
        torch.set_num_threads(torch.get_num_threads())
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._inbox or self._owners or self._is_closed)
                jobs, self._inbox = self._inbox, []
                if self._is_closed:
                    self._fail(RuntimeError("the engine was closed"), jobs)
                    return
            for job in jobs:
                self._take(job)
            if self._owners:
                self._step()

    def _take(self, job: _Job) -> None:
        try:
            # results go by the number alone, to which the engine adds a random part for itself
            job.names = [name.partition("-")[0] for name in self._llm.enqueue(job.prompts, job.parameters, use_tqdm=False)]
        except BaseException as error:  # noqa: BLE001 (raised again where its caller waits)
            job.done.set_exception(error)
            return
        self._owners.update(dict.fromkeys(job.names, job))

    def _step(self) -> None:
        try:
            if not self._llm.llm_engine.has_unfinished_requests():
                raise RuntimeError("vLLM has no answer for a request that it took")
            for answer in self._llm.llm_engine.step():
                if answer.finished:
                    self.num_broken_steps = 0
                    self._keep(answer)
        except BaseException as error:  # noqa: BLE001 (raised again where its caller waits)
            self.num_broken_steps += 1
            self._fail(error, [])

    def _keep(self, answer: Any) -> None:
        job = self._owners.pop(answer.request_id, None)
        if job is None:
            # of a caller that got an error, while the engine went on with what it had taken
            return
        job.answers[answer.request_id] = answer
        if len(job.answers) == len(job.names):
            job.done.set_result([job.answers[name] for name in job.names])

    def _fail(self, error: BaseException, jobs: list[_Job]) -> None:
        """Every job under way, and these, end with the error."""
        for job in {id(job): job for job in (*self._owners.values(), *jobs)}.values():
            job.done.set_exception(error)
        self._owners.clear()
