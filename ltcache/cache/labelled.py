"""The labelled rows of a split of a cache: which they are, their labels and their units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ltcache.errors import CacheError
from ltcache.manifest import rows_digest, unlabelled_split
from ltcache.metrics import named_units
from ltcache.records import one_line

if TYPE_CHECKING:
    from ltcache.cache.reader import Cache


@one_line
@dataclass(frozen=True, eq=False)
class LabelledSplit:
    """The rows of a split that have a label.

    Attributes:
        positions: of the rows in the split, int64 (N,). labels: int64 (N,) in 0..C-1.
        units: independent unit of each row, (N,), or None: every row is its own.
    """

    positions: np.ndarray
    labels: np.ndarray
    units: np.ndarray | None


def labelled_split(cache: Cache, split: str, positions: np.ndarray | None = None) -> LabelledSplit:
    """Return the labelled rows of a split.

    Args:
        positions: of some of them in the split, in any order; None: all.

    Raises:
        CacheError: there is no such split, or none of its rows has a label.
    """
    labels = require_labels(cache, split)
    kept = np.flatnonzero(labels >= 0) if positions is None else positions
    return LabelledSplit(kept, labels[kept], independent_units(cache, split, kept))


def labelled_digest(cache: Cache, split: str) -> str:
    """Return the SHA-256 (hex) of the keys and labels of a split's labelled rows, in any order.

    It tells the rows that were scored from those of another division with equal counts.
    """
    labels = cache.labels(split)
    kept = np.flatnonzero(labels >= 0)
    keys = cache.column("key", split)
    named = pa.table({"key": pa.array((kept if keys is None else keys[kept]).tolist())})
    return rows_digest([named.append_column("label", pa.array(labels[kept])).sort_by("key")])


def independent_units(cache: Cache, split: str, positions: np.ndarray) -> np.ndarray | None:
    """Return the unit of each of some rows of a split, (N,); None: every row is its own.

    So is one whose unit is missing or empty, see :func:`ltcache.metrics.named_units`.
    """
    column = cache.column("unit", split)
    if column is None:
        return None
    return named_units(column[positions], cache.rows(split)[positions])


def require_labels(cache: Cache, split: str) -> np.ndarray:
    """Return the labels of a split, int64 (n,), at least one of them known; -1: unlabelled.

    Raises:
        CacheError: there is no such split, or none of its rows has a label.
    """
    labels = cache.labels(split)
    if not (labels >= 0).any():
        raise CacheError(f"{cache.path}: {unlabelled_split(split, len(labels))}")
    return labels


def has_labels(cache: Cache, split: str) -> bool:
    """Whether a cache has a split with a labelled row."""
    return split in cache.splits and bool((cache.labels(split) >= 0).any())
