"""Who ranks the pool: an exact pass over all of it, or an index that is there or built for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ltcache.retrieval.scoring.index import PoolIndex, build_index
from ltcache.retrieval.scoring.pool import Pool
from ltcache.retrieval.scoring.pool_scores import RankedPairs, score_pool
from ltcache.retrieval.scoring.queries import ClassQueries

OVERSAMPLING, RESERVE = 4, 20
"""Candidates of a class: that many times its quota and some more, for guards to choose from."""


@dataclass(frozen=True)
class ExactPass:
    """One pass over all of the pool.

    Args:
        device: ``cpu`` or a GPU as torch names it. precision: of the pass, ``fp32`` or ``bf16``;
            candidates are scored again in float64 either way.
        progress: called with rows done and rows in all.
    """

    device: str = "cpu"
    precision: str = "fp32"
    progress: Callable[[int, int], None] | None = None

    def candidates(
        self, pool: Pool, queries: ClassQueries, labels: np.ndarray, top: int
    ) -> RankedPairs:
        """Return the ``top`` images of each class."""
        return score_pool(
            pool,
            queries,
            labels,
            top,
            precision=self.precision,
            device=self.device,
            progress=self.progress,
        )


@dataclass(frozen=True)
class IndexRequest:
    """An index that is built when the queries are there.

    Args:
        kind, factor: see :func:`ltcache.retrieval.scoring.index.build_index`.
        built: called with the index, or with None where ``auto`` found none that is good enough.
        otherwise: what ranks then.
    """

    kind: str = "auto"
    factor: int | None = None
    built: Callable[[PoolIndex | None], None] = lambda index: None
    otherwise: ExactPass = ExactPass()

    def build(self, pool: Pool, queries: ClassQueries) -> PoolIndex | ExactPass:
        """Return the index, or what ranks without one."""
        index = build_index(pool, queries, self.kind, factor=self.factor)
        self.built(index)
        return index or self.otherwise


def best_candidates(
    ranking: ExactPass | PoolIndex,
    pool: Pool,
    queries: ClassQueries,
    wanted: Mapping[int, int],
    candidates: int | None,
) -> RankedPairs:
    """Return the best images of each class that wants any.

    Args:
        wanted: label -> images. candidates: of each class; None: more of those that want more.
    """
    each = candidates_of_each(wanted, candidates)
    labels = np.array([label for label, quota in wanted.items() if quota], np.int64)
    found = ranking.candidates(pool, queries, labels, max(each.values(), default=1))
    return within_quota(found, each)


def candidates_of_each(wanted: Mapping[int, int], candidates: int | None) -> dict[int, int]:
    """Return label -> candidates, of the images that are wanted."""
    return {label: candidates or OVERSAMPLING * quota + RESERVE for label, quota in wanted.items()}


def within_quota(found: RankedPairs, most: Mapping[int, int]) -> RankedPairs:
    """Return the first pairs of each class, ``most`` of its label."""
    least = np.array([most[int(label)] for label in found.labels], np.int64)
    return found.take(np.flatnonzero(found.rank <= least))
