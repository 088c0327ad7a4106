"""Keeps the library's own progress bars off the terminal while a checkpoint is read or written; the package shows its own progress."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def no_library_bars() -> Generator[None]:
    """Bars are as before when the block ends."""
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
