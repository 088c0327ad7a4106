"""Rollouts with their targets, dumped every few steps: `rollouts/step_000120.json` and `.html` in the run folder.

A dump is a diagnostic: when it cannot be written, that is said once and training goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.rollout.dump import describe_rollout
from coordexp.rollout.samples import ProducedRollout, RolloutTask
from coordexp.training.detection import spread
from coordexp.types.dumps import RolloutDump
from coordexp.types.errors import BackendError, DataError, OutputError
from coordexp.types.files import ensure_output_folder, write_text
from coordexp.viz.images import embed_picture
from coordexp.viz.outlines import PagePicture
from coordexp.viz.rollout_page import render_rollouts

DUMP_FOLDER = "rollouts"
"""In the run folder."""

PICTURE_SIDE = 640
"""Longer side of an embedded picture, in pixels."""


class RolloutDumper:
    """Takes what each step produced and writes some of it when it is time. On one rank.

    Example:
        dumper = RolloutDumper(run_folder / "rollouts", every_steps=100, num_samples=4, tokenizer=tokenizer, picture_of=picture_of)
        dumper.offer(rollouts, step=0)
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_steps: int,
        num_samples: int,
        tokenizer: TextTokenizer,
        picture_of: Callable[[RolloutTask], Image.Image],
        run_name: str = "",
        say: Callable[[str], None] = print,
    ) -> None:
        """Args beside the obvious.

        every_steps: a dump is due at step 0 and this many steps after the last due one; 0: never.
        num_samples: rollouts of a dump, spread over those of its step.
        picture_of: the image of a task, as the model saw it; raises DataError.
        """
        self._folder, self._every_steps, self._num_samples = folder, every_steps, num_samples
        self._tokenizer, self._picture_of = tokenizer, picture_of
        self._run_name, self._say = run_name, say
        self._next_step = 0
        self._has_pages = True
        self._is_off = every_steps == 0

    def offer(self, rollouts: Sequence[ProducedRollout], *, step: int) -> Path | None:
        """Write a dump if one is due; a step without rollouts leaves it to the next one that has some.

        Returns:
            The page, or the JSON file when there is no page; None: nothing was due, or it could not be written.
        """
        if self._is_off or step < self._next_step or not rollouts:
            return None
        self._next_step = (step // self._every_steps + 1) * self._every_steps
        chosen = [rollouts[place] for place in spread(len(rollouts), self._num_samples)]
        described = tuple(describe_rollout(rollout, tokenizer=self._tokenizer) for rollout in chosen)
        dump = RolloutDump(step=step, rollouts=described, num_rollouts=len(rollouts))
        try:
            return self._write(dump, chosen)
        except OutputError as error:
            self._is_off = True
            self._say(f"warning: rollout dumps are switched off: {error}")
            return None

    def _write(self, dump: RolloutDump, rollouts: Sequence[ProducedRollout]) -> Path:
        ensure_output_folder(self._folder)
        file = self._folder / f"step_{dump.step:06d}.json"
        write_text(file, json.dumps(dump.to_json(), ensure_ascii=False, indent=1) + "\n")
        if not self._has_pages:
            return file
        try:
            page = render_rollouts(dump, dict(self._pictures(rollouts)), run_name=self._run_name)
        except BackendError as error:
            self._has_pages = False
            self._say(f"warning: rollouts are dumped as JSON only: {error}")
            return file
        write_text(file.with_suffix(".html"), page)
        return file.with_suffix(".html")

    def _pictures(self, rollouts: Sequence[ProducedRollout]) -> Iterator[tuple[str, PagePicture]]:
        """Unreadable images are left out; the page says so."""
        for rollout in rollouts:
            task = rollout.read.task
            try:
                picture = self._picture_of(task)
            except DataError:
                continue
            yield task.sample_id, PagePicture(uri=embed_picture(picture, side=PICTURE_SIDE), width=picture.width, height=picture.height)
