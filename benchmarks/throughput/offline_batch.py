# pyright: reportMissingImports=false
"""Runs in the environment of vLLM: its own offline batch over the images of a data file, with the prompt ids, pixels and probabilities that
we ask for, and, with WITH_OURS, our inference on the same engine in turns with it.

python offline_batch.py DATA MAX_NEW_TOKENS MAX_NUM_SEQS REPEATS WITH_OURS  → one line of JSON
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.data.images import load_image
from coordexp.generation.engine_options import EngineOptions
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.vllm_engine import VllmEngineBackend
from coordexp.generation.vllm_requests import ModelFacts, sampling_parameters, unexpanded_ids
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.processor import load_processor
from coordexp.pipeline.infer import Inference, InferenceSettings, windows_under_way
from coordexp.pipeline.prompting import PromptPlan
from coordexp.pipeline.source import iter_source
from coordexp.types.rollouts import GenerationSettings


def main(data: Path, max_new_tokens: int, max_num_seqs: int, repeats: int, with_ours: int) -> None:
    folder = tiny_checkpoint()
    processor = load_processor(folder)
    facts = ModelFacts.of_folder(folder, processor)
    tokenizer = TextTokenizer.of(processor.tokenizer)
    options = EngineOptions(model=folder, dtype="float32", max_model_len=2048, max_num_seqs=max_num_seqs, prefix_caching=False)
    backend = VllmEngineBackend(options, facts=facts, tokenizer=tokenizer)
    theirs: list[float] = []
    ours: list[float] = []
    texts: list[str] = []
    num_tokens = 0
    for _ in range(repeats + 1):
        start = time.perf_counter()
        answers = offline(backend.engine, data, max_new_tokens, facts, PromptEncoder(processor))
        theirs.append(time.perf_counter() - start)
        ids = [[token for token in answer.outputs[0].token_ids if token not in facts.stop_ids] for answer in answers]
        texts, num_tokens = [b"".join(map(tokenizer.piece, tokens)).decode() for tokens in ids], sum(map(len, ids))
        clear(backend.engine)
        if with_ours:
            start = time.perf_counter()
            assert infer(backend, PromptEncoder(processor), data, max_new_tokens, num_windows=windows_under_way(concurrency=max_num_seqs, window=8)) == texts
            ours.append(time.perf_counter() - start)
            clear(backend.engine)
    print("\n" + json.dumps({"seconds": theirs[1:], "ours": ours[1:], "num_tokens": num_tokens, "texts": texts}))


def offline(llm: Any, data: Path, max_new_tokens: int, facts: ModelFacts, encoder: PromptEncoder) -> Any:
    """All requests in one call."""
    from vllm import SamplingParams

    prompt, settings = build_prompt(PromptSpec()), GenerationSettings(max_new_tokens)
    prompts: list[Any] = []
    parameters: list[Any] = []
    for line in data.read_text().splitlines():
        name = json.loads(line)["images"][0]
        image = load_image(data.parent / name)
        request = GenerationRequest(name, encoder.encode(prompt, image), seed=0)
        prompts.append({"prompt_token_ids": unexpanded_ids(request.prompt, facts=facts), "multi_modal_data": {"image": image}})
        parameters.append(SamplingParams(**sampling_parameters(request, settings, facts=facts, top_tokens=20)))
    return llm.generate(prompts, parameters, use_tqdm=False)


def infer(backend: VllmEngineBackend, encoder: PromptEncoder, data: Path, max_new_tokens: int, *, num_windows: int) -> list[str]:
    """`coordexp infer` without the files it writes."""
    settings = InferenceSettings(
        mode="coord",
        pred_coord_mode="auto",
        generation=GenerationSettings(max_new_tokens),
        window=8,
        prompts=PromptPlan(PromptSpec()),
        image_root=data.parent,
        num_windows=num_windows,
    )
    inference = Inference(backend, encoder, tokenizer=backend.text_tokenizer, settings=settings)
    return [result.raw_output for window in inference.run(iter_source(data)) for result in window.results]


def clear(llm: Any) -> None:
    """The next pass sees every picture for the first time."""
    llm.reset_mm_cache()
    llm.llm_engine.reset_encoder_cache()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:6]))
