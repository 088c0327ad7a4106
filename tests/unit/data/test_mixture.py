from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.data.mixture import Mixture, Pool


@pytest.mark.parametrize(
    ("pool", "quota"),
    [
        pytest.param(Pool("a", 10), 10, id="whole"),
        pytest.param(Pool("a", 10, ratio=0.34), 3, id="part"),
        pytest.param(Pool("a", 10, ratio=2.5), 25, id="more"),
        pytest.param(Pool("a", 10, ratio=2.5, with_replacement=False), 10, id="more-forbidden"),
        pytest.param(Pool("a", 1, ratio=0.3), 0, id="rounded-to-none"),
    ],
)
def test_the_quota_is_the_rounded_product(pool: Pool, quota: int) -> None:
    assert pool.quota == len(pool.draw(np.random.default_rng(0))) == quota


@given(size=st.integers(1, 40), ratio=st.floats(0.1, 4), epoch=st.integers(0, 50), forbidden=st.booleans())
def test_no_record_comes_again_before_every_record_came(size: int, ratio: float, epoch: int, forbidden: bool) -> None:
    pool = Pool("a", size, ratio=ratio, with_replacement=not forbidden)
    if pool.quota:
        counts = Counter(Mixture([pool], seed=3).epoch(epoch).tolist())
        assert sum(counts.values()) == pool.quota
        assert set(counts) <= set(range(size))
        assert len(counts) == min(size, pool.quota)


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    pools = [Pool("a", 30, ratio=0.5), Pool("b", 20, ratio=1.5)]
    first = [Mixture(pools, seed=1).epoch(epoch).tolist() for epoch in range(3)]
    assert first == [Mixture(pools, seed=1).epoch(epoch).tolist() for epoch in range(3)]
    assert first[0] != first[1]
    assert first[0] != Mixture(pools, seed=2).epoch(0).tolist()


def test_a_further_pool_does_not_change_what_the_others_draw() -> None:
    pools = [Pool("a", 30, ratio=0.5), Pool("b", 20, ratio=0.5)]
    alone, both = Mixture(pools[:1], seed=1).epoch(4), Mixture(pools, seed=1).epoch(4)
    assert both[:15].tolist() == alone.tolist()
    assert (both[15:] >= 30).all()


def test_epochs_visit_different_parts_of_a_large_pool() -> None:
    mixture = Mixture([Pool("a", 100, ratio=0.2)], seed=1)
    assert len({number for epoch in range(30) for number in mixture.epoch(epoch).tolist()}) > 90


def test_a_mixture_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample"):
        Mixture([Pool("a", 1, ratio=0.1)], seed=0)
