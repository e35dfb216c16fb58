"""Ranking a pool for every class by the softmax over all class prompts.

TACKLE chooses web images by ``p_k = softmax_k(f_P(k) . f_I / tau)``. Its float32 value is 1 for the
best images of a class, so that it cannot rank them; the log-odds ``l_k - logsumexp_{j != k} l_j``,
of which ``p_k`` is the logistic function, can. One pass over the pool in blocks: memory is that of
a block and of the lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltcache.errors import UsageError
from ltcache.process import float32_products
from ltcache.records import one_line
from ltcache.retrieval.scoring.block_screen import BlockScreen
from ltcache.retrieval.scoring.block_screen import log_odds as log_odds
from ltcache.retrieval.scoring.pool import Pool
from ltcache.retrieval.scoring.queries import ClassQueries, two_halves
from ltcache.retrieval.scoring.top_lists import Exact, TopLists

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

DECIMALS = 9
"""Digits of log-odds that count: below them the order of summation decides, and the row instead."""

_OVERSAMPLING = {"fp32": 1, "bf16": 2}
_LAST = 8  # entries of a list that errors of a low precision are measured on
_EXACT_ROWS = 256  # rows scored in float64 at once


@one_line
@dataclass(frozen=True, eq=False)
class RankedPairs:
    """Pairs of a pool row and a class, by class as asked for, then by rank.

    Args:
        rows: int64 (n,), pool row numbers. labels: int64 (n,). rank: int64 (n,), from 1.
        log_odds: float64 (n,), ``l_k - logsumexp_{j != k} l_j``, exact to :data:`DECIMALS` digits.
        margin: float64 (n,), ``l_k - max_{j != k} l_j``: log p_k - log p_runner_up.
        runner_up: int64 (n,), the best other class.
    """

    rows: np.ndarray
    labels: np.ndarray
    rank: np.ndarray
    log_odds: np.ndarray
    margin: np.ndarray
    runner_up: np.ndarray

    @property
    def probability(self) -> np.ndarray:
        """Float64 (n,), p_k."""
        return np.asarray(1 / (1 + np.exp(-self.log_odds)))

    def of(self, label: int) -> RankedPairs:
        """Return the pairs of one class."""
        return self.take(np.flatnonzero(self.labels == label))

    def take(self, index: np.ndarray) -> RankedPairs:
        """Return some of the pairs."""
        return RankedPairs(**{name: values[index] for name, values in vars(self).items()})


def score_pool(
    pool: Pool,
    queries: ClassQueries,
    labels: np.ndarray,
    top: int,
    *,
    precision: str = "fp32",
    device: str = "cpu",
    block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RankedPairs:
    """Return the ``top`` images of each class in one pass over the pool.

    With ``fp32`` the lists are those of a float64 computation: what rounding could hide is kept
    and scored again in float64. With ``bf16`` at most twice as many candidates as wanted are
    scored again, those within reach of the largest error that was found where the lists end; an
    image that rounding moved further is lost. Equal log-odds are ordered by row number.

    Args:
        pool: the images. queries: of all C classes.
        labels: int64 (T,), distinct, the classes to list.
        top: images per class; a smaller pool gives fewer.
        precision: ``fp32``, or ``bf16`` where the processor multiplies it faster.
        device: of the products, as torch names it.
        block: rows at a time; by default what suits the device. It changes no list.
        progress: called with rows done and rows in all, after each block.

    Raises:
        UsageError: queries of another dimension, an unknown precision, or numbers below 1.
        CacheError: embeddings that are not finite.
    """
    labels = np.asarray(labels, np.int64)
    _check(pool, queries, labels, top, precision, block)

    def exact(rows: np.ndarray, where: np.ndarray) -> np.ndarray:
        return exact_scores(pool, queries, rows, labels[where], device=device)[0]

    done, total = 0, len(pool.rows)
    most = max(1, total)  # a part of a small pool may have no row
    keep = min(_OVERSAMPLING[precision] * top, most)
    slack = _slack(queries) if precision == "fp32" else 0.0
    lists = TopLists(len(labels), keep, slack, exact)
    screen = BlockScreen(queries, labels, PRECISIONS[precision], torch.device(device), block, most)
    with float32_products(tf32=False):  # the screen passes over rows by what float32 may err
        for rows, values in pool.blocks(screen.block) if len(labels) else ():
            screen.collect(rows, values, lists)
            done += len(rows)
            if progress:
                progress(done, total)
    rows, where, values = lists.entries()
    if precision != "fp32":
        rows, where = _within_reach(rows, where, values, exact, top)
    found = exact_scores(pool, queries, rows, labels[where], device=device)
    return ranked(rows, where, *found, labels, top)


def _within_reach(
    rows: np.ndarray, where: np.ndarray, values: np.ndarray, exact: Exact, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates that rounding may have kept out of the first ``top`` of their class.

    How far rounding reaches is measured where lists end, on the last of the first ``top``.

    Args:
        rows, where, values: candidates by place of class, then by value, best first.
    """
    counts = np.bincount(where)
    start = np.cumsum(counts) - counts
    rank = np.arange(len(where)) - start[where]
    last = (rank < top) & (rank >= top - _LAST)
    error = np.abs(exact(rows[last], where[last]) - values[last]).max(initial=0.0)
    ends = values[start + np.minimum(counts, top) - 1]
    stay = values >= ends[where] - 2 * error
    return rows[stay], where[stay]


def exact_scores(
    pool: Pool,
    queries: ClassQueries,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float64 log-odds and margins and int64 runners-up of pairs, in float64 throughout.

    What a pair gets is the same to the bit, whatever other pairs are asked for with it and on
    whatever device: parts of a pool are scored apart, and their lists are merged.

    Args:
        rows: int64 (n,), pool rows, in any order and as often as wanted. labels: int64 (n,).
    """
    distinct, inverse = np.unique(rows, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(0, len(distinct) + _EXACT_ROWS, _EXACT_ROWS))
    sentences = [torch.from_numpy(halves).to(device) for halves in queries.halves]  # M x (2, C, D)
    odds, margin = np.empty(len(rows)), np.empty(len(rows))
    runner_up = np.empty(len(rows), np.int64)
    for number, start in enumerate(range(0, len(distinct), _EXACT_ROWS)):
        pairs = order[bounds[number] : bounds[number + 1]]
        values = torch.from_numpy(two_halves(pool.unit(distinct[start : start + _EXACT_ROWS])))
        logits = _logits(values.to(device), sentences) / queries.tau
        place, wanted = inverse[pairs] - start, np.asarray(labels)[pairs]
        odds[pairs], margin[pairs], runner_up[pairs] = _exact(logits, place, wanted)
    return np.round(odds, DECIMALS), np.round(margin, DECIMALS), runner_up


def _exact(
    logits: np.ndarray, positions: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log-odds, margins and runners-up, (n,), of rows ``positions`` and classes ``wanted``.

    The sum over the others is that: nothing is subtracted from a sum over all classes. numpy sums
    a row as if it were alone, which torch does not promise.
    """
    pairs = np.arange(len(positions))
    own, others = logits[positions, wanted], logits[positions]
    others[pairs, wanted] = -np.inf
    runner_up = others.argmax(axis=1)
    second = others[pairs, runner_up]
    total = np.exp(others - second[:, None]).sum(axis=1)
    return own - second - np.log(total), own - second, runner_up


def _logits(values: Tensor, sentences: list[Tensor]) -> np.ndarray:
    """Return (n, C): the largest cosine with a class's sentences, in a sum without rounding.

    Args:
        values: (2, n, D), see :func:`ltcache.retrieval.scoring.queries.two_halves`.
        sentences: M times (2, C, D).
    """
    products = [
        values[0] @ high.T + (values[0] @ low.T + values[1] @ high.T) for high, low in sentences
    ]
    best = products[0] if len(products) == 1 else torch.stack(products).amax(dim=0)
    return np.asarray(best.cpu().numpy())


def _slack(queries: ClassQueries) -> float:
    """Return how far float32 log-odds can lie from exact ones.

    A product of D terms of unit vectors errs by at most D u (u = 2^-24), their rounding to
    float32 and to unit length by a few u more; log-odds add two logits and a sum of C terms.
    """
    unit_roundoff = 2.0**-24
    product = (queries.dim + 32) / queries.tau
    return 2 * unit_roundoff * (product + queries.num_classes + 64)


def ranked(
    rows: np.ndarray,
    where: np.ndarray,
    odds: np.ndarray,
    margin: np.ndarray,
    runner_up: np.ndarray,
    labels: np.ndarray,
    top: int,
) -> RankedPairs:
    """Sort pairs by class, log-odds and row, and keep the first of each class."""
    order = np.lexsort((rows, -odds, where))
    where = where[order].astype(np.int64)
    counts = np.bincount(where, minlength=len(labels))
    rank = 1 + np.arange(len(where)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = rank <= top
    order, where = order[keep], where[keep]
    return RankedPairs(
        rows[order].astype(np.int64),
        labels[where],
        rank[keep],
        odds[order],
        margin[order],
        runner_up[order].astype(np.int64),
    )


def _check(
    pool: Pool,
    queries: ClassQueries,
    labels: np.ndarray,
    top: int,
    precision: str,
    block: int | None,
) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is unknown; known: {', '.join(PRECISIONS)}")
    if top < 1 or (block is not None and block < 1):
        raise UsageError("top and block must be at least 1")
    if pool.dim != queries.dim:
        raise UsageError(f"the pool has {pool.dim} dimensions, the prompts {queries.dim}")
    if len(np.unique(labels)) != len(labels):
        raise UsageError("a class is listed twice")
    if len(labels) and not (labels.min() >= 0 and labels.max() < queries.num_classes):
        raise UsageError(f"labels must lie between 0 and {queries.num_classes - 1}")
