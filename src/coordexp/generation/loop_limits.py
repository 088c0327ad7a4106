"""The loop guard on a server: what vLLM's own detection can be asked for, so that what it lets through is never less than our guard would.

vLLM ends a sequence whose last `count * p` tokens are one piece of p tokens over and over, for a p between a smallest and a largest size. Ours asks for the
last `ngram_size * ngram_repeats` tokens to be periodic, knows runs of one token and a smallest length, and counts keys. So the server is asked for what
implies ours, which ends a loop early enough to save its cost, and the client cuts the answer with our own guard, at the same token as every other backend.
"""

from __future__ import annotations

import math
from dataclasses import replace

from coordexp.codec.pieces import decode_pieces
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.repeat import loop_end
from coordexp.types.rollouts import GenerationSample, RepeatLimits


def server_repetition(limits: RepeatLimits) -> dict[str, int]:
    """`repetition_detection` of vLLM's sampling parameters. It fires only where ours does, at that token or later.

    Pieces shorter than half of `ngram_size` have a multiple in the upper half, so looking there finds every period. With `count * p` at least
    `ngram_size * ngram_repeats` and at least `min_new_tokens` for the smallest such p, our guard has fired when the server's does.

    Example: with 64 tokens twice: `{"min_pattern_size": 32, "max_pattern_size": 64, "min_count": 4}`
    """
    smallest = math.ceil(limits.ngram_size / 2)
    needed = max(limits.ngram_size * limits.ngram_repeats, limits.min_new_tokens)
    return {"min_pattern_size": smallest, "max_pattern_size": limits.ngram_size, "min_count": max(2, math.ceil(needed / smallest))}


def cut_loop(sample: GenerationSample, limits: RepeatLimits, *, tokenizer: TextTokenizer) -> GenerationSample:
    """The sample as it would have been with our guard beside the model: cut behind the token at which the guard fires."""
    end = loop_end(sample.response_ids, limits, piece_of=tokenizer.piece)
    if end is None:
        return sample
    ids = sample.response_ids[:end]
    trace = None if sample.trace is None else sample.trace[:end]
    return replace(sample, response_ids=ids, text=decode_pieces(ids, tokenizer=tokenizer).text, finish_reason="repeat", trace=trace)
