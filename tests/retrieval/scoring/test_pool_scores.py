"""The streamed pass gives what a plain float64 computation gives, whatever the blocks are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltcache.errors import CacheError, UsageError
from ltcache.retrieval.scoring import pool_scores
from ltcache.retrieval.scoring.pool_scores import RankedPairs, exact_scores, log_odds, score_pool
from ltcache.retrieval.scoring.queries import ClassQueries, class_queries, mixed_queries, unit
from tests.fakes import FakeCache, long_tail_counts
from tests.retrieval.array_pool import ArrayPool
from tests.retrieval.reference import plain_lists, plain_log_odds, plain_logits


def make(
    rows: int, classes: int, *, dim: int = 8, copies: int = 1, tau: float = 0.05, seed: int = 0
) -> tuple[np.ndarray, ClassQueries]:
    """Return float16 embeddings, each ``copies`` times at random places, and queries."""
    rng = np.random.default_rng(seed)
    distinct = rng.normal(size=(-(-rows // copies), dim)).astype(np.float16)
    values = distinct[rng.permutation(np.repeat(np.arange(len(distinct)), copies))[:rows]]
    return values, ClassQueries(unit(rng.normal(size=(1, classes, dim))), tau)


def check_lists(
    scores: RankedPairs, values: np.ndarray, queries: ClassQueries, labels: np.ndarray, top: int
) -> None:
    """Compare lists with the plain ones: rows exactly, values to nine digits."""
    for label, (rows, odds) in zip(labels, plain_lists(values, queries, labels, top), strict=True):
        mine = scores.of(label)
        assert mine.rows.tolist() == rows
        assert mine.rank.tolist() == list(range(1, len(rows) + 1))
        np.testing.assert_allclose(mine.log_odds, odds, atol=3e-9, rtol=0)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 70),
    classes=st.integers(2, 9),
    copies=st.sampled_from([1, 3, 40]),
    top=st.integers(1, 12),
    block=st.integers(1, 80),
    tau=st.sampled_from([0.002, 0.05, 1.0]),
    seed=st.integers(0, 1000),
)
def test_the_pass_equals_a_plain_computation(
    rows: int, classes: int, copies: int, top: int, block: int, tau: float, seed: int
) -> None:
    values, queries = make(rows, classes, copies=copies, tau=tau, seed=seed)
    labels = np.random.default_rng(seed).permutation(classes)[: classes - 1]
    scores = score_pool(ArrayPool(values), queries, labels, top, block=block)
    check_lists(scores, values, queries, labels, top)


@pytest.mark.parametrize("classes", [300, 321])
@pytest.mark.parametrize("block", [64, 257, 5000])
@pytest.mark.parametrize("tau", [0.01, 0.3])
def test_passing_over_rows_by_their_bound_loses_none(classes: int, block: int, tau: float) -> None:
    values, queries = make(3001, classes, dim=16, copies=2, tau=tau, seed=1)
    labels = np.arange(0, classes, 13)
    scores = score_pool(ArrayPool(values), queries, labels, 11, block=block)
    check_lists(scores, values, queries, labels, 11)


@pytest.mark.parametrize("sentences", [2, 3])
def test_the_best_of_several_sentences_of_many_classes(sentences: int) -> None:
    values, _ = make(900, 2, dim=16, seed=6)
    rng = np.random.default_rng(6)
    queries = ClassQueries(unit(rng.normal(size=(sentences, 150, 16))), 0.05)
    labels = rng.permutation(150)[:70]
    scores = score_pool(ArrayPool(values), queries, labels, 9, block=128)
    check_lists(scores, values, queries, labels, 9)


def test_a_flood_of_equal_images_is_ordered_by_row() -> None:
    values, queries = make(4000, 300, dim=16, copies=2000, seed=3)
    labels = np.arange(0, 300, 9)
    scores = score_pool(ArrayPool(values), queries, labels, 5, block=100)
    check_lists(scores, values, queries, labels, 5)


def test_bf16_candidates_give_nearly_the_same_lists_with_exact_values() -> None:
    values, queries = make(4000, 300, dim=64, tau=0.02, seed=2)
    labels = np.arange(20)
    exact = score_pool(ArrayPool(values), queries, labels, 20)
    fast = score_pool(ArrayPool(values), queries, labels, 20, precision="bf16")
    shared = [len(np.intersect1d(exact.of(k).rows, fast.of(k).rows)) for k in labels]
    assert np.mean(shared) / 20 > 0.99
    plain = plain_log_odds(values, queries, labels)
    np.testing.assert_allclose(fast.log_odds, plain[fast.rows, fast.labels], atol=1e-8)


def test_log_odds_rank_where_the_probability_is_one() -> None:
    logits = torch.tensor([[60.0, 1.0, 0.0], [61.0, 1.0, 0.0], [60.0, 1.5, 0.0]])
    assert (torch.softmax(logits, 1)[:, 0] == 1).all()
    odds = log_odds(logits)[:, 0]
    assert odds.argsort(descending=True).tolist() == [1, 0, 2]
    expected = 60 - np.log(np.exp(1.5) + 1)
    assert odds[2].item() == pytest.approx(expected, rel=1e-7)


def test_margin_and_runner_up_name_the_best_other_class() -> None:
    values, queries = make(50, 6, seed=4)
    rows, labels = np.repeat(np.arange(50), 6), np.tile(np.arange(6), 50)
    odds, margin, runner_up = exact_scores(ArrayPool(values), queries, rows, labels)
    logits = plain_logits(values, queries)
    for n in range(300):
        others = np.delete(np.arange(6), labels[n])
        best = others[np.argmax(logits[rows[n], others])]
        assert runner_up[n] == best
        expected = logits[rows[n], labels[n]] - logits[rows[n], best]
        assert margin[n] == pytest.approx(expected, abs=2e-9)
    probability = 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(probability.reshape(50, 6).sum(axis=1), 1, atol=1e-7)


@pytest.mark.parametrize("sentences", [1, 2])
def test_scores_do_not_depend_on_what_else_is_scored(
    monkeypatch: pytest.MonkeyPatch, sentences: int
) -> None:
    monkeypatch.setattr(pool_scores, "DECIMALS", 16)  # as if rounding hid nothing
    rng = np.random.default_rng(7)
    values = rng.normal(size=(700, 512)).astype(np.float16)
    queries = ClassQueries(unit(rng.normal(size=(sentences, 83, 512))), 0.01)
    rows, labels = rng.integers(0, 700, 900), rng.integers(0, 83, 900)
    together = exact_scores(ArrayPool(values), queries, rows, labels)
    for size in (1, 2, 7, 100):
        for start in (0, 3, 311, 899):
            some = slice(start, start + size)
            alone = exact_scores(ArrayPool(values), queries, rows[some], labels[some])
            for own, whole in zip(alone, together, strict=True):
                assert own.tobytes() == whole[some].tobytes()


def test_several_sentences_count_as_their_mean_or_as_their_best() -> None:
    prompts = FakeCache(long_tail_counts(4, 9, 3), dim=8).prompts()
    rng = np.random.default_rng(5)
    sentences = unit(rng.normal(size=(4, 3, 8))).astype(np.float32)
    count = np.array([3, 1, 2, 3])
    for label in range(4):
        sentences[label, count[label] :] = 0
    mean = unit(sentences.sum(axis=1)).astype(np.float32)
    texts = [["a"] * n for n in count]
    several = type(prompts)("x", texts, sentences, count, mean, prompts.identity)
    values = rng.normal(size=(60, 8)).astype(np.float32)
    images = unit(values.astype(np.float64))
    best = np.stack(
        [(images @ sentences[k, : count[k]].T.astype(np.float64)).max(axis=1) for k in range(4)], 1
    )
    logits = plain_logits(values, class_queries(several, 0.1, pooling="max"))
    np.testing.assert_allclose(logits, best / 0.1, rtol=1e-5, atol=1e-5)
    ensembled = plain_logits(values, class_queries(several, 0.1))
    np.testing.assert_allclose(ensembled, images @ mean.T / 0.1, rtol=1e-5, atol=1e-5)
    queries = class_queries(several, 0.1, pooling="max")
    scores = score_pool(ArrayPool(values), queries, np.arange(4), 7, block=9)
    check_lists(scores, values, queries, np.arange(4), 7)


def test_prompts_are_mixed_with_class_means() -> None:
    text = unit(np.random.default_rng(0).normal(size=(1, 3, 8)))
    means = np.random.default_rng(1).normal(size=(3, 8))
    means[1] = 0  # a class without training images keeps its text
    mixed = mixed_queries(text, means, 0.25)
    np.testing.assert_allclose(mixed[0, 1], text[0, 1])
    expected = unit(0.75 * text[0, 0] + 0.25 * means[0] / np.linalg.norm(means[0]))
    np.testing.assert_allclose(mixed[0, 0], expected)


def test_what_cannot_be_meant_is_refused() -> None:
    values, queries = make(9, 4)
    pool = ArrayPool(values)
    for arguments in ({"top": 0}, {"precision": "fp8"}, {"labels": np.array([4])}):
        with pytest.raises(UsageError):
            score_pool(pool, queries, **({"labels": np.arange(2), "top": 3} | arguments))
    with pytest.raises(UsageError, match="dimensions"):
        score_pool(ArrayPool(values[:, :5]), queries, np.arange(2), 3)
    with pytest.raises(UsageError, match="two classes"):
        ClassQueries(np.ones((1, 1, 4)), 0.1)
    with pytest.raises(UsageError, match="tau"):
        ClassQueries(np.ones((1, 3, 4)), 0.0)
    values[3] = np.nan
    with pytest.raises(CacheError, match="NaN"):
        score_pool(ArrayPool(values), queries, np.arange(2), 3)


def test_products_have_all_digits_whatever_the_process_allows() -> None:
    seen = []

    class Watched(ArrayPool):
        def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for block in super().blocks(size):
                seen.append(torch.get_float32_matmul_precision())
                yield block

    rng, before = np.random.default_rng(0), torch.get_float32_matmul_precision()
    queries = ClassQueries(unit(rng.normal(size=(1, 3, 8))), 0.1)
    torch.set_float32_matmul_precision("high")
    try:
        score_pool(Watched(rng.normal(size=(20, 8)).astype(np.float32)), queries, np.arange(3), 2)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


def test_no_class_asked_for_gives_no_list() -> None:
    values, queries = make(9, 4)
    assert len(score_pool(ArrayPool(values), queries, np.zeros(0, np.int64), 3).rows) == 0
