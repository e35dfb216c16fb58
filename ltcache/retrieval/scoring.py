"""Ranking a pool for every class by the softmax over all class prompts.

TACKLE chooses web images by ``p_k = softmax_k(f_P(k) . f_I / tau)``. Its float32 value is 1 for the
best images of a class, so that it cannot rank them; the log-odds ``l_k - logsumexp_{j != k} l_j``,
of which ``p_k`` is the logistic function, can. One pass over the pool in blocks: memory is that of
a block and of the lists.

Most images are candidates of no class, and a bound tells them cheaply. Split the classes into
groups; among the others of a class are the best classes of all other groups, so its log-odds lie
at most at those of its group's best logit among the groups' best. Where this bound is below every
threshold of every group, the image is passed over without a sum over all classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltcache.errors import CacheError, UsageError
from ltcache.retrieval.pool import Pool
from ltcache.retrieval.queries import Queries
from ltcache.retrieval.toplists import TopLists

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

DECIMALS = 9
"""Digits of log-odds that count: below them the order of summation decides, and the row instead."""

_OVERSAMPLING = {"fp32": 1, "bf16": 2}
_GROUPS = 64  # four registers of 16 numbers: the maximum over groups costs next to nothing
_CPU_LOGITS, _GPU_LOGITS = 1 << 19, 1 << 25  # of one block: they stay in a core's cache on a CPU
_EXACT_ROWS = 512  # rows scored in float64 at once


@dataclass(frozen=True, eq=False)
class Scores:
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

    def of(self, label: int) -> Scores:
        """Return the pairs of one class."""
        return self.take(np.flatnonzero(self.labels == label))

    def take(self, index: np.ndarray) -> Scores:
        """Return some of the pairs."""
        return Scores(**{name: values[index] for name, values in vars(self).items()})


def score_pool(
    pool: Pool,
    queries: Queries,
    labels: np.ndarray,
    top: int,
    *,
    precision: str = "fp32",
    device: str = "cpu",
    block: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Return the ``top`` images of each class in one pass over the pool.

    With ``fp32`` the lists are those of a float64 computation: what rounding could hide is kept
    and scored again in float64. With ``bf16`` twice as many candidates as wanted are scored again;
    an image that rounding moved further is lost. Equal log-odds are ordered by row number.

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

    keep = min(_OVERSAMPLING[precision] * top, len(pool.rows))
    slack = _slack(queries) if precision == "fp32" else 0.0
    lists = TopLists(len(labels), keep, slack, exact)
    screen = _Screen(queries, labels, PRECISIONS[precision], torch.device(device))
    done, total = 0, len(pool.rows)
    for rows, values in pool.blocks(block or screen.block) if len(labels) else ():
        screen.collect(rows, values, lists)
        done += len(rows)
        if progress:
            progress(done, total)
    rows, where, _ = lists.entries()
    found = exact_scores(pool, queries, rows, labels[where], device=device)
    return ranked(rows, where, *found, labels, top)


def exact_scores(
    pool: Pool,
    queries: Queries,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float64 log-odds and margins and int64 runners-up of pairs, in float64 throughout.

    Args:
        rows: int64 (n,), pool rows, in any order and as often as wanted. labels: int64 (n,).
    """
    distinct, inverse = np.unique(rows, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(0, len(distinct) + _EXACT_ROWS, _EXACT_ROWS))
    scaled = torch.from_numpy(queries.scaled).to(device)
    odds, margin = np.empty(len(rows)), np.empty(len(rows))
    runner_up = np.empty(len(rows), np.int64)
    for number, start in enumerate(range(0, len(distinct), _EXACT_ROWS)):
        pairs = order[bounds[number] : bounds[number + 1]]
        values = torch.from_numpy(pool.unit(distinct[start : start + _EXACT_ROWS])).to(device)
        logits = _logits(values, scaled)  # (n, C)
        place = torch.from_numpy(inverse[pairs] - start).to(device)
        wanted = torch.from_numpy(np.asarray(labels)[pairs]).to(device)
        odds[pairs] = log_odds(logits)[place, wanted].cpu().numpy()
        margin[pairs], runner_up[pairs] = _margins(logits, place, wanted)
    return np.round(odds, DECIMALS), np.round(margin, DECIMALS), runner_up


def log_odds(logits: Tensor, columns: Tensor | None = None) -> Tensor:
    """Return (N, C): ``l_k - logsumexp_{j != k} l_j``, accurate also where p_k rounds to 1.

    Subtracting a term from the sum over all classes loses every digit where the term is the sum;
    so the best class is left out of the sum and added where it is among the others.

    Args:
        logits: (N, C). columns: int64 (T,), classes to return, (N, T); all by default.
    """
    best, where = logits.max(dim=1, keepdim=True)
    others = logits.scatter(1, where, -torch.inf)
    second = others.amax(dim=1, keepdim=True)
    terms = others.sub_(second).exp_()
    total = terms.sum(dim=1, keepdim=True)  # over all but the best, at least 1
    if columns is not None:
        logits, terms = logits[:, columns], terms[:, columns]
    rest = terms.neg_().add_(total).clamp_(min=0).mul_((second - best).exp())
    result = (logits - best).sub_(rest.log1p_())
    of_best = best - second - total.log()
    if columns is None:
        return result.scatter_(1, where, of_best)
    return torch.where(where == columns, of_best, result)


def _margins(logits: Tensor, place: Tensor, wanted: Tensor) -> tuple[np.ndarray, np.ndarray]:
    two, which = logits.topk(2, dim=1)
    own = logits[place, wanted]
    first = (which[place, 0] == wanted).long()  # 1: the class is the best, its runner-up second
    runner_up = which[place, first]
    return (own - two[place, first]).cpu().numpy(), runner_up.cpu().numpy()


class _Screen:
    """Logits of a block, and the pairs in it that may enter a list."""

    def __init__(
        self, queries: Queries, labels: np.ndarray, dtype: torch.dtype, device: torch.device
    ) -> None:
        classes = queries.num_classes
        table = _stripes(classes, labels) if classes >= 4 * _GROUPS else np.arange(classes)[None]
        columns = table.ravel()
        self._groups = table.shape[1] if len(table) > 1 else 0
        place = np.empty(classes, np.int64)
        place[columns] = np.arange(len(columns))
        self._place = torch.from_numpy(place).to(device)
        rows = queries.scaled[:, columns].reshape(-1, queries.dim)
        self._rows = torch.from_numpy(rows).to(device, dtype)
        self._shape = (len(queries.rows), len(columns))
        self._classes = classes
        self._columns = columns
        self._labels = torch.from_numpy(labels).to(device)
        everything = np.array_equal(labels, np.arange(classes))
        self._columns_wanted = None if everything else self._labels
        self._dtype, self._device = dtype, device
        logits = _GPU_LOGITS if device.type == "cuda" else _CPU_LOGITS
        self.block = min(max(logits // len(rows), 256), 1 << 16)

    def collect(self, rows: np.ndarray, values: np.ndarray, lists: TopLists) -> None:
        """Add the pairs of a block, (n,) rows and (n, D) embeddings, that are above thresholds."""
        logits = self._logits(values)
        thresholds = torch.from_numpy(lists.thresholds).to(self._device)
        chosen: Tensor | None = None
        if self._groups and bool((lists.thresholds > -np.inf).any()):
            chosen = self._bounded(logits, thresholds)
            if not len(chosen):
                return
            logits = logits[chosen]
        odds = log_odds(self._per_class(logits).float(), self._columns_wanted)  # (n, T)
        if bool((lists.thresholds == -np.inf).all()):
            lists.raise_thresholds(odds.cpu().numpy())
            thresholds = torch.from_numpy(lists.thresholds).to(self._device)
        place, where = (odds >= thresholds).nonzero(as_tuple=True)
        picked = odds[place, where].cpu().numpy()
        place = place if chosen is None else chosen[place]
        lists.add(rows[place.cpu().numpy()], where.cpu().numpy(), picked)

    def _logits(self, values: np.ndarray) -> Tensor:
        """Return (n, M * columns) in the precision of the pass, of rows of any length."""
        copied = torch.from_numpy(
            np.array(values)
        )  # a memory map is read-only, torch wants no such
        block = copied.to(self._device).float()
        lengths = block.norm(dim=1, keepdim=True)
        if not bool(torch.isfinite(lengths).all()):
            raise CacheError("the pool's embeddings hold NaN or infinity: run ltcache verify")
        block = block / lengths.clamp_(min=torch.finfo(torch.float32).tiny)
        return torch.mm(block.to(self._dtype), self._rows.T)

    def _per_class(self, logits: Tensor) -> Tensor:
        sentences, columns = self._shape
        if sentences > 1:
            logits = logits.view(-1, sentences, columns).amax(dim=1)
        return logits[:, self._place] if self._groups else logits

    def _bounded(self, logits: Tensor, thresholds: Tensor) -> Tensor:
        """Return the numbers of the rows whose bounds reach a threshold."""
        every = torch.full((self._classes,), torch.inf, device=self._device)
        every[self._labels] = thresholds
        least = every[torch.from_numpy(self._columns)].view(-1, self._groups).amin(dim=0)
        best = logits.view(len(logits), -1, self._groups).amax(dim=1).float()
        return (log_odds(best) >= least).any(dim=1).nonzero()[:, 0]


def _stripes(classes: int, labels: np.ndarray) -> np.ndarray:
    """Return int64 (slots, groups): the class of each column, one column of it a group.

    Classes that are asked for share no group with others, whose best logits would raise its bound.
    Groups are filled up with a class of their own, whose best logit that cannot change.
    """
    parts = [labels, np.setdiff1d(np.arange(classes), labels)]
    slots = -(-classes // _GROUPS)
    while sum(-(-len(part) // slots) for part in parts) > _GROUPS:
        slots += 1
    groups = [part[n : n + slots] for part in parts for n in range(0, len(part), slots)]
    return np.stack([np.pad(group, (0, slots - len(group)), "edge") for group in groups], axis=1)


def _logits(values: Tensor, scaled: Tensor) -> Tensor:
    """Return (n, C): the largest product with a class's queries (M, C, D)."""
    products = [values @ rows.T for rows in scaled]
    return products[0] if len(products) == 1 else torch.stack(products).amax(dim=0)


def _slack(queries: Queries) -> float:
    """Return how far float32 log-odds can lie from exact ones.

    A product of D terms of unit vectors errs by at most D u (u = 2^-24), their rounding to
    float32 and to unit length by a few u more; log-odds add two logits and a sum of C terms.
    """
    unit_roundoff = 2.0**-24
    product = (queries.dim + 16) / queries.tau
    return 2 * unit_roundoff * (product + queries.num_classes + 64)


def ranked(
    rows: np.ndarray,
    where: np.ndarray,
    odds: np.ndarray,
    margin: np.ndarray,
    runner_up: np.ndarray,
    labels: np.ndarray,
    top: int,
) -> Scores:
    """Sort pairs by class, log-odds and row, and keep the first of each class."""
    order = np.lexsort((rows, -odds, where))
    where = where[order].astype(np.int64)
    counts = np.bincount(where, minlength=len(labels))
    rank = 1 + np.arange(len(where)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = rank <= top
    order, where = order[keep], where[keep]
    return Scores(
        rows[order].astype(np.int64),
        labels[where],
        rank[keep],
        odds[order],
        margin[order],
        runner_up[order].astype(np.int64),
    )


def _check(
    pool: Pool, queries: Queries, labels: np.ndarray, top: int, precision: str, block: int | None
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
