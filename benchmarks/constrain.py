"""Constrained decoding: what a mask costs, with the tiny vocabulary and with a synthetic one of 150,000 tokens; how fast generation with transformers stays;
and which share of sampled answers is malformed with and without it.

Masks are timed on documents that are spelled token by token: `fill` (which tokens may come next) and `push` (the token that comes). "First" is the first pass,
which computes the masks of places that it has not seen; "mask" is the fastest of the later ones. All times are those of the processor, one thread, so other
load on the machine counts little.

python benchmarks/constrain.py [--quick] [--json PATH]
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from suite.command import benchmark_parser, show_figures, write_figures
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.answer_automaton import AnswerAutomaton, AnswerRow
from coordexp.codec.coord_tokens import CoordVocabulary, coord_token, coord_tokens
from coordexp.codec.piece_index import PieceIndex
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.serialize import END_TEXT, serialize_objects, with_end
from coordexp.codec.strict import parse_rollout
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.data.synthetic import SceneSettings, render_scene, scale_scene
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import GenerationRequest
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.records import DetObject
from coordexp.types.rollouts import GenerationSample, GenerationSettings

LARGE = 150_000
GLUE = ('": {"', "desc", '": "', '", "', "bbox", '": ["', '"]}', ", ", ' "', "object", '"}', "}}", '"]', '{"')
NAMES = ("cat", "traffic light", "a man in a blue shirt who rides a bicycle", "potted plant", "日本の車", 'sign "stop"')
GREEDY = GenerationSettings(max_new_tokens=192)


def large_tokenizer(rng: random.Random) -> Tokenizer:
    """Byte-level BPE of 150,000 tokens: glue, and words with all their beginnings; the coordinate tokens and the end on top."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: number for number, char in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    words = iter([text for name in NAMES for text in (name.split()[0], " " + name.split()[-1])])
    glue = iter(GLUE)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    while len(vocab) < LARGE:
        text = next(glue, None) or next(words, None) or " " * rng.randrange(2) + "".join(rng.choices("abcdefghijklmnopqrstuvwxyzäé日", k=rng.randrange(3, 9)))
        chars = byte_level.pre_tokenize_str(text)[0][0]
        for length in range(2, len(chars) + 1):
            if chars[:length] not in vocab:
                vocab[chars[:length]] = len(vocab)
                merges.append((chars[: length - 1], chars[length - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (END_TEXT, *coord_tokens())])
    return tokenizer


def write_documents(tokenizer: TextTokenizer, *, count: int) -> list[tuple[int, ...]]:
    """Answers of 1 to 30 objects, as tokens."""
    rng = random.Random(1)

    def draw() -> DetObject:
        x1, y1 = rng.randrange(900), rng.randrange(900)
        return DetObject(rng.choice(NAMES), "bbox_2d", (x1, y1, rng.randrange(x1, 1000), rng.randrange(y1, 1000)))

    texts = [with_end(serialize_objects([draw() for _ in range(rng.randrange(1, 31))])).text for _ in range(count)]
    return [tokenizer.encode(text).ids for text in texts]


def measure_masks(name: str, raw: Tokenizer, *, count: int, labels: tuple[str, ...] | None = None) -> dict[str, float]:
    """Microseconds a token, and how long the first use takes."""
    tokenizer = TextTokenizer.of(raw)
    start = time.process_time()
    coords = CoordVocabulary(tuple(tokenizer.encode(coord_token(k)).ids[0] for k in range(1000)))
    stop_ids = tokenizer.encode(END_TEXT).ids
    index = PieceIndex.of(tokenizer, vocab_size=tokenizer.num_ids, stop_ids=stop_ids)
    automaton = AnswerAutomaton(ConstraintSpec(labels=labels), index, coord_vocab=coords, stop_ids=stop_ids)
    build_s = time.process_time() - start
    documents = write_documents(tokenizer, count=count)
    num_tokens = sum(map(len, documents))
    passes = [_seconds(automaton, documents) for _ in range(4)]
    return {
        f"{name}_vocabulary": float(index.vocab_size),
        f"{name}_index_s": build_s,
        f"{name}_first_us_per_token": 1e6 * passes[0] / num_tokens,
        f"{name}_mask_us_per_token": 1e6 * min(passes[1:]) / num_tokens,
    }


def _seconds(automaton: AnswerAutomaton, documents: Sequence[Sequence[int]]) -> float:
    allowed = np.empty(automaton.index.vocab_size, dtype=bool)
    start = time.process_time()
    for ids in documents:
        row = AnswerRow(automaton, max_new_tokens=4096)
        for token in ids:
            row.fill(allowed)
            assert allowed[token], "a document of the serializer is allowed"
            row.push(token)
        assert row.is_done, "and complete"
    return time.process_time() - start


def make_requests(loaded: LoadedModel, *, count: int) -> list[GenerationRequest]:
    encoder, prompt = PromptEncoder(loaded.processor), build_prompt(PromptSpec())
    settings = SceneSettings(name="constrain", kind="shapes", seed=9, num_scenes=count, max_objects=6)
    scenes = [scale_scene(render_scene(settings, index), 96) for index in range(count)]
    return [GenerationRequest(str(index), encoder.encode(prompt, Image.fromarray(scene.image)), seed=index) for index, scene in enumerate(scenes)]


def measure_speed(loaded: LoadedModel, requests: list[GenerationRequest], *, repeats: int) -> dict[str, float]:
    """Tokens a CPU second with the constraint over those without, in turn; greedy, so that both write nearly the same."""
    backend = HfBackend(loaded, batch_size=16)
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats + 1):
        for is_on, found in speeds.items():
            start = time.process_time()
            samples = backend.generate(requests, replace(GREEDY, constraint=ConstraintSpec() if is_on else None))
            found.append(sum(len(sample.response_ids) + 1 for sample in samples) / (time.process_time() - start))
    free, constrained = (statistics.median(found[1:]) for found in speeds.values())
    return {"hf_tokens_per_cpu_s_free": free, "hf_tokens_per_cpu_s_constrained": constrained, "hf_speed_ratio": constrained / free}


def measure_malformed(loaded: LoadedModel, requests: list[GenerationRequest]) -> dict[str, float]:
    """Shares of answers from which the strict parse drops something, or which break off, by temperature."""
    backend, figures = HfBackend(loaded, batch_size=32), {"num_answers": float(len(requests))}
    for temperature in (1.0, 2.0):
        for name, constraint in (("free", None), ("constrained", ConstraintSpec())):
            samples = backend.generate(requests, replace(GREEDY, temperature=temperature, constraint=constraint))
            figures[f"malformed_share_{name}_t{temperature:.0f}"] = sum(not _is_clean(sample, loaded) for sample in samples) / len(samples)
    return figures


def _is_clean(sample: GenerationSample, loaded: LoadedModel) -> bool:
    parsed = parse_rollout(sample.response_ids, tokenizer=TextTokenizer.of(loaded.tokenizer), coord_vocab=loaded.coord_vocab, allow_poly=False)  # pyright: ignore[reportArgumentType]
    return not (parsed.dropped or parsed.num_ambiguous or parsed.is_invalid or parsed.is_truncated)


def main() -> int:
    parser = benchmark_parser(__doc__, quick="fewer documents and images: under 50 s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(tiny_checkpoint(), dtype="float32")
    large, count = large_tokenizer(random.Random(0)), 20 if arguments.quick else 100
    labels = tuple("".join(random.Random(seed).choices("abcdefghij klmnop", k=10)).strip() + str(seed) for seed in range(1200))
    figures = measure_masks("tiny", Tokenizer.from_file(str(tiny_checkpoint() / "tokenizer.json")), count=count)
    figures |= measure_masks("large", large, count=count)
    figures |= measure_masks("large_labels", large, count=count, labels=(*labels, *NAMES))
    figures |= measure_speed(loaded, make_requests(loaded, count=16 if arguments.quick else 64), repeats=2 if arguments.quick else 5)
    figures |= measure_malformed(loaded, make_requests(loaded, count=64 if arguments.quick else 256))
    show_figures("constrain", figures)
    write_figures(figures, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
