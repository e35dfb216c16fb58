"""How alike the images of a cache are: equal bytes, and cosines that only copies have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltcache.cache.reader import Cache
from ltcache.manifest import whole_texts

NEAR = 0.995
"""Least cosine of near duplicates."""

QUANTILE = 0.999
"""Share of pairs within a class that must be less alike, and twice as far apart."""

_PAIRS = 100_000  # pairs that the quantile is estimated on
_BLOCK = 4096  # rows of each side in memory


def near_threshold(cache: Cache, *, seed: int = 0, quantile: float = QUANTILE) -> float:
    """Return the cosine above which two images count as near duplicates, whatever their order.

    Args:
        seed: of the pairs. quantile: share of pairs within a class that is less alike; a lower
            one bears more copies among these pairs.
    """
    rng = np.random.default_rng(seed)
    rows = cache.rows()
    rows = rows[_by_key(cache, rows)]
    labels = cache.manifest.labels()[rows]
    order = np.lexsort((rng.random(len(rows)), labels))
    order = order[labels[order] >= 0]
    beside = np.flatnonzero(labels[order][1:] == labels[order][:-1])
    if len(beside) > _PAIRS:
        beside = np.sort(rng.choice(beside, _PAIRS, replace=False))
    a, b = rows[order[beside]], rows[order[beside + 1]]
    if not len(a):
        return NEAR
    content = content_codes(cache, np.r_[a, b])
    distinct = content[: len(a)] != content[len(a) :]
    cosines = [
        np.einsum("nd,nd->n", unit_features(cache, left), unit_features(cache, right))
        for left, right in zip(row_chunks(a[distinct]), row_chunks(b[distinct]), strict=True)
    ]
    if not cosines:
        return NEAR
    usual = float(np.quantile(np.concatenate(cosines), quantile))
    return max(NEAR, 1 - (1 - usual) / 4)  # 1 - cosine is half the squared distance


def near_groups(cache: Cache, rows: np.ndarray, threshold: float) -> np.ndarray:
    """Return int64 (n,): equal numbers for rows that near duplicates join.

    Products of all pairs of images, in blocks of rows in the order of their keys.

    Args:
        rows: int64 (n,), rows whose features exist.
    """
    groups, places = np.arange(len(rows)), _by_key(cache, rows)
    chunks = list(row_chunks(places))
    for number, left in enumerate(chunks):
        unit = unit_features(cache, rows[left])
        for right in chunks[number:]:
            a, b = np.nonzero(unit @ unit_features(cache, rows[right]).T > threshold)
            if (left[a] != right[b]).any():
                groups = joined_groups(len(rows), [equal_pairs(groups), (left[a], right[b])])
    return groups


def joined_groups(count: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return int64 (count,): equal numbers for rows that pairs of rows join, over others too."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def equal_pairs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of rows that join all whose numbers are equal; negative ones are like none."""
    order = np.argsort(numbers, kind="stable")
    same = (numbers[order][1:] == numbers[order][:-1]) & (numbers[order][1:] >= 0)
    return order[:-1][same], order[1:][same]


def _by_key(cache: Cache, rows: np.ndarray) -> np.ndarray:
    """Return int64 (n,), places of rows in the order of their keys."""
    keys = cache.manifest.rows["key"].take(pa.array(rows))
    return np.asarray(pc.sort_indices(keys).to_numpy(), np.int64)


def content_codes(cache: Cache, rows: np.ndarray) -> np.ndarray:
    """Return a number for the content of each row; a row without a hash is like no other."""
    codes = whole_texts(cache.manifest.rows["sha256"].take(pa.array(rows))).dictionary_encode()
    numbers = codes.indices.to_numpy(zero_copy_only=False).astype(np.float64)  # null -> NaN
    blank = [code for code, text in enumerate(codes.dictionary.to_pylist()) if not text]
    unknown = np.isnan(numbers) | np.isin(numbers, blank)
    numbers[unknown] = -1 - np.flatnonzero(unknown)
    return numbers.astype(np.int64)


def unit_features(cache: Cache, rows: np.ndarray) -> np.ndarray:
    """Return float32 (n, D): features of unit length, of the first crop."""
    values = cache.row_features(rows, likeness_field(cache) or "embedding")[:, 0]
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def likeness_field(cache: Cache) -> str | None:
    """Return the features that tell images apart: embeddings, or those of an image-only encoder."""
    return next((name for name in ("embedding", "pooled") if name in cache.field_dims()), None)


def row_chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]
