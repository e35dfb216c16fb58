"""What a labelled cache makes of settings: a temperature, and a query for each of its classes."""

from __future__ import annotations

import numpy as np

from ltcache.cache import Cache
from ltcache.errors import UsageError
from ltcache.retrieval.scoring.pool import CachedPool
from ltcache.retrieval.scoring.queries import ClassQueries, class_queries
from ltcache.retrieval.settings import RetrievalSettings

_BLOCK = 4096


def make_queries(cache: Cache, settings: RetrievalSettings) -> ClassQueries:
    """Return what a pool is scored with under some settings.

    Raises:
        UsageError: settings that cannot be meant. CacheError: no such class texts.
    """
    weight = settings.mean_weight
    return class_queries(
        cache.prompts(settings.prompts),
        temperature(cache, settings.tau),
        pooling=settings.pooling,
        class_means=class_sums(cache, settings.view) if weight else None,
        weight=weight,
    )


def temperature(cache: Cache, tau: float | None) -> float:
    """Return tau, or 1 / logit_scale of the cache's encoder where it is None.

    Raises:
        UsageError: the encoder has no logit scale.
    """
    if tau is not None:
        return tau
    if cache.logit_scale is None:
        raise UsageError(f"{cache.path}: its encoder has no logit scale: give --tau")
    return 1 / cache.logit_scale


def class_sums(cache: Cache, view: str = "center") -> np.ndarray:
    """Return float64 (C, D): sums of the unit embeddings of each class's training images."""
    train = CachedPool(cache, view, "train")
    labels = cache.labels("train")
    sums = np.zeros((len(cache.classes), train.dim))
    for start in range(0, len(labels), _BLOCK):
        part = slice(start, start + _BLOCK)
        known = labels[part] >= 0
        np.add.at(sums, labels[part][known], train.unit(train.rows[part][known]))
    return sums
