"""The best candidates of every class so far, while a pool streams by.

Entries are collected flat and sorted now and then. A class's threshold is the value of its
``keep``-th best entry, less a slack for the error of the values; what lies below it can never
enter the list, so few entries of a later block survive.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows, places of classes) -> exact float64 values of these pairs."""

_LEAST = 1 << 12  # entries worth a sort
_FLOOD = 4  # times ``keep``: more entries of one class than that are ties, or nearly


class TopLists:
    """Running lists of T classes.

    Args:
        classes: T.
        keep: entries that a class keeps at least.
        slack: how far an entry's value may lie from the exact one, at most; entries within twice
            of it below the ``keep``-th best stay.
        exact: settles a flood of equal entries, so that memory is bounded whatever the pool holds.
    """

    def __init__(self, classes: int, keep: int, slack: float, exact: Exact) -> None:
        self.thresholds = np.full(classes, -np.inf, np.float32)
        self._keep, self._slack, self._exact = keep, 2 * slack, exact
        self._limit = max(_LEAST, keep * classes // 2)
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._pending = 0

    def add(self, rows: np.ndarray, where: np.ndarray, values: np.ndarray) -> None:
        """Add entries: int64 row numbers, places of classes (0..T-1) and float32 values, (n,)."""
        self._parts.append((rows, where, values))
        self._pending += len(rows)
        if self._pending > self._limit:
            self._compact()

    def raise_thresholds(self, values: np.ndarray) -> None:
        """Learn from all values of one block, (n, T), before its entries are picked."""
        if len(values) >= self._keep:
            place = len(values) - self._keep
            kth = np.partition(np.ascontiguousarray(values.T), place, axis=1)[:, place]
            self.thresholds = np.maximum(self.thresholds, kth - np.float32(self._slack))

    def entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows, places of classes and values, by class and then by value, best first."""
        return self._compact()

    def _compact(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not self._parts:
            self._parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
        rows, where, values = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.argsort(_keys(where, values))
        rows, where, values = rows[order], where[order], values[order]
        counts = np.bincount(where, minlength=len(self.thresholds))
        start = np.cumsum(counts) - counts
        full = counts >= self._keep
        kth = values[start[full] + self._keep - 1] - np.float32(self._slack)
        self.thresholds[full] = np.maximum(self.thresholds[full], kth)
        stay = values >= self.thresholds[where]
        counts = np.bincount(where[stay], minlength=len(self.thresholds))
        for flooded in np.flatnonzero(counts > _FLOOD * self._keep + 64):
            self._settle(rows, where, stay, int(flooded))
        self._parts = [(rows[stay], where[stay], values[stay])]
        self._pending = 0
        return self._parts[0]

    def _settle(self, rows: np.ndarray, where: np.ndarray, stay: np.ndarray, place: int) -> None:
        """Keep the best of one class by exact values, equal ones by row number."""
        mine = np.flatnonzero(stay & (where == place))
        exact = self._exact(rows[mine], where[mine])
        order = np.lexsort((rows[mine], -exact))
        stay[mine[order[self._keep :]]] = False


def _keys(where: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return int64 (n,) that sort by place, then by falling value: one sort instead of two.

    The bits of a float32 that is not negative rise with it, those of a negative one fall.
    """
    bits = (-values).view(np.int32).astype(np.int64)
    return (where.astype(np.int64) << 32) + np.where(bits >= 0, bits, -(1 << 31) - bits)
