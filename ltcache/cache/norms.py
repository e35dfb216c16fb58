"""Lengths of cached features and angles between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltcache.records import JsonRecord

_FACTOR = 2.0  # a length within this factor of the median is never odd
_DEVIATIONS = 8.0  # robust standard deviations of the log-lengths


@dataclass(frozen=True)
class NormStats(JsonRecord):
    """Lengths of one field of one view.

    Args:
        count: features that have a length (failed rows have none).
        minimum, median, maximum: of the lengths; None where there are none.
        outliers: how many lie far from the rest.
        first: up to five of them, (item, length).
    """

    count: int
    minimum: float | None
    median: float | None
    maximum: float | None
    outliers: int
    first: tuple[tuple[int, float], ...]


def norm_stats(items: np.ndarray, norms: np.ndarray) -> NormStats:
    """Return statistics of lengths.

    An outlier is more than 2 times longer or shorter than the median and, on the logarithmic scale,
    more than 8 robust deviations (1.4826 times the median absolute deviation) from it.

    Args:
        items: int64 (n,). norms: float32 (n,) of the same features, above 0.
    """
    if not len(norms):
        return NormStats(0, None, None, None, 0, ())
    logs = np.log(norms.astype(np.float64))
    distance = np.abs(logs - np.median(logs))
    limit = max(np.log(_FACTOR), _DEVIATIONS * 1.4826 * float(np.median(distance)))
    odd = np.flatnonzero(distance > limit)
    return NormStats(
        len(norms),
        float(norms.min()),
        float(np.median(norms)),
        float(norms.max()),
        len(odd),
        tuple((int(items[i]), float(norms[i])) for i in odd[:5]),
    )


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of a (N, D) to the same row of b, float64 (N,)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny))
