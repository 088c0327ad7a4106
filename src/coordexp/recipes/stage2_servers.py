"""Rollouts on vLLM servers, for a training: reach the servers, compare pixels, and hand the client and the way of the weights to the trainer."""

from __future__ import annotations

import os
from collections.abc import Callable

from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.config.rollout import RolloutMatchingSection
from coordexp.generation.http import TOKEN_VARIABLE
from coordexp.generation.pixel_check import check_pixels
from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.generation.vllm_server import VllmServerBackend
from coordexp.generation.weight_transfer import WeightPusher
from coordexp.models.load import LoadedModel
from coordexp.recipes.odd_prompts import odd_prompts
from coordexp.recipes.stage1_parts import Stage1Parts
from coordexp.recipes.stage2_async import RolloutEngine
from coordexp.training.ranks import gather_objects
from coordexp.training.weight_sync import LearnerServers, check_sync_mode
from coordexp.types.errors import UserError


def build_server_engine(section: RolloutMatchingSection, parts: Stage1Parts, *, say: Callable[[str], None], rank: int, world_size: int) -> RolloutEngine:
    """The servers of the settings. Rank 0 waits for them and looks at their pixels; all ranks learn the outcome.

    Raises:
        UserError: on every rank, when a server is not up in time, sees other pixels, or cannot take what is trained.
    """
    servers = section.vllm.server
    assert servers is not None, "the configuration requires it"
    check_sync_mode(parts.tuned.trained, section.vllm.sync.mode)
    token = os.environ.get(TOKEN_VARIABLE) or None
    pool = ServerPool([ServerAddress(server.base_url, group_port=server.group_port) for server in servers.servers], needs_sync=True)
    model = parts.loaded_model
    tokenizer = TextTokenizer.of(model.tokenizer)  # pyright: ignore[reportArgumentType]
    backend = VllmServerBackend(pool, facts=ModelFacts.of(model), tokenizer=tokenizer, token=token, answer_timeout_s=servers.infer_timeout_s)
    pusher = None
    if rank == 0:
        sync = section.vllm.sync
        pusher = WeightPusher(pool, transfer=sync.transfer, token=token, timeout_s=servers.timeout_s, verify_every=sync.verify_every)
    problem = None if pusher is None else _inspect(pusher, backend, model, timeout_s=servers.timeout_s, say=say)
    problem = gather_objects(problem, world_size=world_size)[0]
    if problem is not None:
        backend.close()
        raise problem
    sync = section.vllm.sync
    link = LearnerServers(parts.tuned.trained, pool, pusher, client=backend, mode=sync.mode, falls_back=sync.fallback_to_full, world_size=world_size, say=say)
    return RolloutEngine(backend, link)


def _inspect(pusher: WeightPusher, backend: VllmServerBackend, model: LoadedModel, *, timeout_s: float, say: Callable[[str], None]) -> UserError | None:
    try:
        pusher.wait_ready(timeout_s)
        prompts = odd_prompts(model)
        for control in pusher.controls:
            difference = check_pixels(control, backend, prompts)
            say(f"rollout server {control.address.base_url}: the pixels of {len(prompts)} odd pictures differ by {difference:.1g} at most")
    except UserError as error:
        return error
    return None
