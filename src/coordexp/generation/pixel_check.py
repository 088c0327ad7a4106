"""Do learner and server see the same pixels? Equal prompt ids do not prove it: they only count patches.

The vision tower of the server is watched while it answers a few odd pictures, and what it got is compared with what the learner would have computed on.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import httpx
import numpy as np
import torch

from coordexp.generation.http import describe_trouble
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.server_control import Control
from coordexp.generation.vllm_server import VllmServerBackend
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSettings
from coordexp.types.sequences import ImageInputs, PromptInputs

_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""Largest difference, for pixels in [-1, 1] in the server's number format; image processors round differently in the last bit."""


LOOK = GenerationSettings(max_new_tokens=1)
Look: TypeAlias = Callable[[PromptInputs], Sequence[ImageInputs]]
"""What an engine computes on when it is asked about a prompt with one picture, in each of its workers."""


def check_pixels(control: Control, backend: VllmServerBackend, prompts: Sequence[PromptInputs]) -> float:
    """Ask a server about each prompt, which holds one picture, and compare the pixels. Its weights may be any; nothing else may use it meanwhile.

    Returns:
        The largest difference found.

    Raises:
        BackendError: they differ, the server did not look at a picture, or it cannot tell what it sees.
    """

    def look(prompt: PromptInputs) -> list[ImageInputs]:
        # an embedding that is still known would not be computed again
        control.post("/reset_encoder_cache")
        control.post("/reset_prefix_cache")
        control.call("coordexp_watch_pixels")
        backend.ask_one(control.address, [looking_at(prompt)], LOOK)
        return [read_pixels(item) for worker in control.call_all("coordexp_take_pixels") for item in worker]

    try:
        control.take_over()
        return compare_pixels(look, prompts, dtype=control.describe().dtype, where=control.address.base_url)
    except httpx.HTTPError as error:
        what = f"the server does not tell what it sees ({describe_trouble(error)})"
        raise BackendError(what, where=control.address.base_url, fix="start it with 'coordexp rollout-server', which loads our worker extension") from error


def compare_pixels(look: Look, prompts: Sequence[PromptInputs], *, dtype: torch.dtype, where: str) -> float:
    """The largest difference between the one picture of each prompt and what an engine, which computes in `dtype`, makes of it.

    Raises:
        BackendError: they differ, or it did not look at a picture.
    """
    return max(
        (_difference(prompt.images[0], look(prompt), dtype=dtype, where=f"{where}: picture {number}") for number, prompt in enumerate(prompts)), default=0.0
    )


def looking_at(prompt: PromptInputs) -> GenerationRequest:
    """A request whose answer does not matter."""
    return GenerationRequest("picture", prompt, seed=0)


def read_pixels(item: dict[str, object]) -> ImageInputs:
    """What the worker extension describes."""
    shape, (grid,) = item["shape"], item["grid_thw"]  # pyright: ignore[reportGeneralTypeIssues]
    values = np.frombuffer(base64.b64decode(str(item["values"])), dtype="<f4").reshape(shape)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return ImageInputs(pixel_values=values, grid_thw=tuple(int(side) for side in grid))  # pyright: ignore[reportArgumentType]


def _difference(image: ImageInputs, seen: Sequence[ImageInputs], *, dtype: torch.dtype, where: str) -> float:
    fix = "give the engine the folder of the training's checkpoint, with its preprocessor_config.json"
    if not seen:
        raise BackendError("the engine did not compute on the picture", where=where, fix=fix)
    own = replace(image, pixel_values=torch.from_numpy(image.pixel_values).to(dtype).float().numpy())
    largest = 0.0
    for other in seen:
        if other.grid_thw != own.grid_thw:
            raise BackendError(f"the engine cuts it into {other.grid_thw} patches, the training into {own.grid_thw}", where=where, fix=fix)
        largest = max(largest, float(np.abs(other.pixel_values - own.pixel_values).max()))
    if largest > _TOLERANCE.get(dtype, 2**-7):
        raise BackendError(f"the engine sees other pixels than the training, by up to {largest:.2g}", where=where, fix=fix)
    return largest
