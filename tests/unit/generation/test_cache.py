"""The in-place cache holds what the stock cache holds."""

import torch
from transformers import DynamicCache
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig

from coordexp.generation.cache import DecodingCache


def test_growing_and_dropping_rows_equals_the_stock_cache() -> None:
    config = Qwen3VLTextConfig(num_hidden_layers=2)
    ours, stock = DecodingCache(config), DynamicCache(config=config)
    generator = torch.Generator().manual_seed(0)
    num_rows = 4
    for length, kept in ((10, None), (1, [0, 2, 3]), (300, None), (1, [2]), (500, None)):
        for layer in range(2):
            states = torch.randn(2, num_rows, 3, length, 8, generator=generator)
            mine, theirs = ours.update(states[0], states[1], layer), stock.update(states[0], states[1], layer)
            assert torch.equal(mine[0], theirs[0])
            assert torch.equal(mine[1], theirs[1])
        if kept is not None:
            ours.keep_rows(torch.tensor(kept))
            stock.batch_select_indices(torch.tensor(kept))
            num_rows = len(kept)
        assert ours.get_seq_length() == stock.get_seq_length()
