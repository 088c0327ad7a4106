from __future__ import annotations

import numpy as np
import pytest

from coordexp.metrics.fold import MetricFold, merge
from coordexp.metrics.specs import UnknownMetricError
from coordexp.types.metrics import Metric, Reduction, percentile


def test_a_mean_is_weighted_by_its_own_counts() -> None:
    fold = MetricFold()
    fold.add("token_acc", total=90, count=100)
    fold.add("token_acc", total=0, count=300)
    assert fold.take() == {"token_acc": 0.225}


def test_a_key_counted_per_step_adds_up_over_packs() -> None:
    fold = MetricFold()
    for tokens in (100, 50):
        fold.add("base_ce/noncoord_tokens", total=tokens, count=0)
    fold.add("base_ce/noncoord_tokens", total=0, count=1)
    assert fold.values() == {"base_ce/noncoord_tokens": 150}


def test_a_mean_over_nothing_is_left_out() -> None:
    fold = MetricFold()
    fold.add("desc_token_acc", total=0, count=0)
    assert fold.values() == {}


def test_the_last_value_wins_where_it_should() -> None:
    fold = MetricFold()
    fold.add("accum/current_grad_steps", total=4)
    fold.add("accum/current_grad_steps", total=2)
    assert fold.values() == {"accum/current_grad_steps": 2}


def test_ranks_merge_to_what_one_process_folds() -> None:
    whole, first, second = MetricFold(), MetricFold(), MetricFold()
    for rank, total, count in ((first, 3, 4), (second, 5, 6), (first, 1, 2)):
        rank.add("token_acc", total=total, count=count)
        whole.add("token_acc", total=total, count=count)
    first.update(second.snapshot())
    assert first.values() == whole.values()


def test_a_percentile_is_that_of_all_observations_whatever_pack_or_rank_they_came_from() -> None:
    lengths = [float(n * n % 97) for n in range(50)]
    ranks = [MetricFold(), MetricFold(), MetricFold()]
    for number in range(0, 50, 5):
        ranks[number % 3].add_values("rollout/gen_new_tokens_p90", lengths[number : number + 5])
        ranks[number % 3].add_values("rollout/gen_new_tokens_mean", lengths[number : number + 5])
    ranks[0].update(ranks[1].snapshot())
    ranks[0].update(ranks[2].snapshot())
    values = ranks[0].values()
    assert values["rollout/gen_new_tokens_p90"] == pytest.approx(float(np.percentile(lengths, 90)))
    assert values["rollout/gen_new_tokens_mean"] == pytest.approx(float(np.mean(lengths)))


def test_no_observation_gives_no_value() -> None:
    fold = MetricFold()
    fold.add_values("rollout/gen_new_tokens_p90", [])
    assert fold.values() == {}
    assert Metric(0.0, 0.0, Reduction.P90).value is None


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99])
@pytest.mark.parametrize("share", [0.9, 0.99])
def test_a_percentile_is_numpys(count: int, share: float) -> None:
    values = list(np.random.default_rng(count).normal(size=count))
    assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)), abs=1e-12)


def test_take_starts_over() -> None:
    fold = MetricFold()
    fold.add("token_acc", total=1, count=1)
    fold.take()
    assert fold.values() == {}


def test_an_unregistered_key_is_refused() -> None:
    with pytest.raises(UnknownMetricError):
        MetricFold().add("made/up", total=1)
    with pytest.raises(UnknownMetricError):
        MetricFold().update({"made/up": Metric(total=1, count=1, reduction=Reduction.SUM)})


@pytest.mark.parametrize(("reduction", "expected"), [(Reduction.SUM, 5.0), (Reduction.MAX, 3.0), (Reduction.LAST, 2.0), (Reduction.MEAN, 2.5)])
def test_each_reduction_folds_its_own_way(reduction: Reduction, expected: float) -> None:
    assert merge(Metric(3.0, 1, reduction), Metric(2.0, 1, reduction)).value == expected


def test_different_reductions_do_not_merge() -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        merge(Metric(1, 1, Reduction.SUM), Metric(1, 1, Reduction.MAX))
