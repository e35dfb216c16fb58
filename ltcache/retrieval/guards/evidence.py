"""What guards look at: the nearest labelled images of every candidate, and copies among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltcache.cache import Cache
from ltcache.retrieval.columns import sources_of, texts_of
from ltcache.retrieval.guards.neighbours import (
    NearestReferences,
    NearThreshold,
    neighbours,
    surroundings,
    units_of,
)
from ltcache.retrieval.guards.verdicts import GuardEvidence
from ltcache.retrieval.scoring.pool import CachedPool, JoinedPool
from ltcache.retrieval.scoring.pool_scores import RankedPairs


def gather(
    cache: Cache,
    pool: JoinedPool,
    scores: RankedPairs,
    near: NearThreshold,
    source_column: str | None = None,
) -> GuardEvidence:
    """Return what guards look at, for every candidate.

    Args:
        near: from which score on two images count as near duplicates.
        source_column: see :func:`ltcache.retrieval.columns.sources_of`.
    """
    rows, inverse = np.unique(scores.rows, return_inverse=True)
    images = pool.unit(rows)
    held_out = [split for split in cache.splits if split != "train"]
    train = _nearest_of(cache, ["train"], images, pool.view).take(inverse)
    others = _nearest_of(cache, held_out, images, pool.view).take(inverse)
    both = train.joined(others)
    content = pool.collected(scores.rows, lambda held, own: texts_of(held, "sha256", own))
    source = pool.collected(scores.rows, lambda held, own: sources_of(held, own, source_column))
    return GuardEvidence(
        scores,
        content,
        source,
        train,
        others,
        _looks_like(train, both, near),
        _looks_like(others, both, near),
        _copies(cache, ["train"], content),
        _copies(cache, held_out, content),
    )


def _looks_like(
    found: NearestReferences, both: NearestReferences, near: NearThreshold
) -> np.ndarray:
    return near.holds(found.best, surroundings(both, found.units[:, 0]))


def _nearest_of(
    cache: Cache, splits: Sequence[str], images: np.ndarray, view: str
) -> NearestReferences:
    """Return the nearest images of some splits for each of ``images``."""
    none = np.full((len(images), 1), -1, np.int64)
    best = NearestReferences(none, np.full(none.shape, -1, np.float32), none)
    for split in splits:
        if split in cache.splits and len(cache.rows(split)):
            units, _ = units_of(cache, split)
            best = best.joined(neighbours(CachedPool(cache, view, split), units, images))
    return best


def _copies(cache: Cache, splits: Sequence[str], content: Sequence[str]) -> np.ndarray:
    """Return whether an image of some splits has the same bytes, bool (n,)."""
    known: set[str] = set()
    for split in splits:
        if split in cache.splits:
            hashes = cache.column("sha256", split)
            known |= set() if hashes is None else set(hashes.tolist())
    return np.array([text != "" and text in known for text in content], bool)
