# pyright: reportMissingImports=false
"""Runs in the environment of vLLM: its own offline batch over the images of a data file, the same prompt ids, pixels and probabilities as our client asks for.

python offline_batch.py DATA MAX_NEW_TOKENS MAX_NUM_SEQS REPEATS  → one line of JSON
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.data.images import load_image
from coordexp.generation.engine_options import EngineOptions
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.vllm_engine import start_engine
from coordexp.generation.vllm_requests import ModelFacts, sampling_parameters, unexpanded_ids
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.processor import load_processor
from coordexp.types.rollouts import GenerationSettings


def main(data: Path, max_new_tokens: int, max_num_seqs: int, repeats: int) -> None:
    from vllm import SamplingParams

    folder = tiny_checkpoint()
    processor = load_processor(folder)
    facts, encoder, prompt = ModelFacts.of_folder(folder, processor), PromptEncoder(processor), build_prompt(PromptSpec())
    tokenizer = TextTokenizer.of(processor.tokenizer)
    llm = start_engine(EngineOptions(model=folder, dtype="float32", max_model_len=2048, max_num_seqs=max_num_seqs, prefix_caching=False))
    paths = [data.parent / json.loads(line)["images"][0] for line in data.read_text().splitlines()]
    seconds: list[float] = []
    answers = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        prompts, parameters = [], []
        for path in paths:
            image = load_image(path)
            request = GenerationRequest(path.name, encoder.encode(prompt, image), seed=0)
            prompts.append({"prompt_token_ids": unexpanded_ids(request.prompt, facts=facts), "multi_modal_data": {"image": image}})
            parameters.append(SamplingParams(**sampling_parameters(request, GenerationSettings(max_new_tokens), facts=facts, top_tokens=20)))
        answers = llm.generate(prompts, parameters, use_tqdm=False)
        seconds.append(time.perf_counter() - start)
        llm.reset_mm_cache()
        llm.llm_engine.reset_encoder_cache()
    ids = [[token for token in answer.outputs[0].token_ids if token not in facts.stop_ids] for answer in answers]
    texts = [b"".join(map(tokenizer.piece, tokens)).decode() for tokens in ids]
    print("\n" + json.dumps({"seconds": seconds[1:], "num_tokens": sum(map(len, ids)), "texts": texts}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
