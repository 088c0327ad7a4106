"""Positions of Qwen3-VL's text model: 4 rows for each sequence.

Row 0 is the plain text position (0, 1, 2, … in each sample: packed rows restart there, which is how the model tells samples apart). Rows 1 to 3 are
time, height and width of the multimodal rope: text advances all three together, an image spans its merged grid and then continues after its larger side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coordexp.types.sequences import IntArray


def rope_positions(token_ids: IntArray, grids: Sequence[tuple[int, int, int]], *, image_token_id: int, merge_size: int) -> IntArray:
    """The positions of one sample.

    Args:
        token_ids: Int[L], image placeholders expanded.
        grids: (time, height, width) in patches before merging, of each image in order.
        image_token_id: the placeholder.
        merge_size: patches of a side that merge into one token.

    Returns:
        Int[4, L].

    Raises:
        ValueError: placeholders and grids do not agree.
    """
    length = len(token_ids)
    positions = np.empty((4, length), dtype=np.int32)
    positions[0] = np.arange(length)
    at = np.flatnonzero(token_ids == image_token_id)
    cursor, current = 0, 0
    for grid in grids:
        time, height, width = grid[0], grid[1] // merge_size, grid[2] // merge_size
        size = time * height * width
        run, at = at[:size], at[size:]
        if len(run) < size or run[-1] - run[0] != size - 1:
            raise ValueError(f"the image grid {grid} needs {size} placeholders in a row")
        start = int(run[0])
        text = start - cursor
        positions[1:, cursor:start] = current + np.arange(text)
        current += text
        positions[1:, start : start + size] = current + np.indices((time, height, width)).reshape(3, size)
        current += max(height, width)
        cursor = start + size
    if len(at):
        raise ValueError(f"{len(at)} image placeholders more than the grids need")
    positions[1:, cursor:] = current + np.arange(length - cursor)
    return positions
