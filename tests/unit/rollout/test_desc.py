"""Names that mean the same, with the real sentence encoder; and what is left without one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordexp.rollout.desc import DescJudge, NameCounts
from coordexp.rollout.producer import TargetSettings
from coordexp.semantics.encoder import LazyEncoder
from coordexp.semantics.protocol import Vectors
from coordexp.targets.supervision import stage2_ab_table

PAIRS = [("Cat", "cat"), ("wine_glass", "wine glass"), ("kitten", "cat"), ("bicycle", "cat"), ("", "cat"), ("", "")]


class Counting:
    """The real encoder, and how many texts it was asked for."""

    def __init__(self) -> None:
        self._encoder = LazyEncoder()
        self.texts: list[str] = []

    @property
    def name(self) -> str:
        return self._encoder.name

    def encode(self, texts) -> Vectors:
        self.texts += texts
        return self._encoder.encode(texts)


def test_without_an_encoder_equal_texts_agree_and_nothing_else() -> None:
    judge = DescJudge(None, threshold=0.6)
    assert not judge.is_active
    assert judge.agree(PAIRS) == [True, True, False, False, False, True]
    assert judge.count(PAIRS) == NameCounts(num_pairs=6, num_equal=3)


def test_with_an_encoder_names_agree_by_meaning() -> None:
    judge = DescJudge(LazyEncoder(), threshold=0.6)
    assert judge.is_active
    assert judge.agree(PAIRS) == [True, True, True, False, False, True]
    counts = judge.count(PAIRS)
    assert (counts.num_pairs, counts.num_equal, counts.num_alike, counts.num_similarities, counts.has_encoder) == (6, 3, 4, 4, True)
    assert 2.6 < counts.similarity_sum < 3.6


def test_a_pair_is_encoded_once() -> None:
    encoder = Counting()
    judge = DescJudge(encoder, threshold=0.6)
    judge.agree(PAIRS)
    asked = len(encoder.texts)
    assert judge.agree([*PAIRS, ("KITTEN", "Cat")])[-1]
    judge.count(PAIRS)
    assert len(encoder.texts) == asked == len(set(encoder.texts))


def test_counts_add_up() -> None:
    one = NameCounts(num_pairs=2, num_equal=1, has_encoder=True, num_alike=1, similarity_sum=1.5, num_similarities=2)
    assert one + one == NameCounts(num_pairs=4, num_equal=2, has_encoder=True, num_alike=2, similarity_sum=3.0, num_similarities=4)


@pytest.mark.parametrize("has_encoder", [True, False])
def test_the_gate_lets_a_name_that_means_the_same_be_taught(make_producer, tasks, write, has_encoder: bool) -> None:
    """The model writes "boxed kitten" where the annotation says "a cat in a box"; its tokens are taught only when the gate accepts them."""
    task = next(task for task in tasks if task.objects)
    annotated = replace(task, objects=(replace(task.objects[0], desc="kitten"),))
    answer = {task.sample_id: write([replace(task.objects[0], desc="a small cat")])}
    gate = DescJudge(LazyEncoder() if has_encoder else None, threshold=0.5)
    settings = TargetSettings(table=stage2_ab_table(desc_ce_weight_matched=0.5))
    (rollout,), report = make_producer(answer, desc_gate=gate, settings=settings).produce([annotated], seed_base=0)
    (item,) = rollout.read.parsed.objects
    weights = rollout.target.target.ce_weight[slice(*item.desc_tokens)]
    assert report.is_gate_active == has_encoder
    assert bool((weights == 0.5).all()) == has_encoder


def test_the_monitor_compares_the_names_of_matched_pairs(make_reader, tasks, write) -> None:
    task = next(task for task in tasks if len(task.objects) == 3)
    said = [task.objects[0], replace(task.objects[1], desc="something else"), replace(task.objects[2], points=(0, 0, 1, 1))]
    monitor = DescJudge(None, threshold=0.5)
    _, report = make_reader({task.sample_id: write(said)}, monitor=monitor).read([task], seed_base=0)
    assert report.names == NameCounts(num_pairs=2, num_equal=1)
