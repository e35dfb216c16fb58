"""A pool without a cache behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ltcache.records import bytes_digest
from ltcache.retrieval.scoring.queries import unit


@dataclass(frozen=True, eq=False)
class ArrayPool:
    """A pool in memory: float (N, D); its row numbers count from 0."""

    values: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Int64 (N,)."""
        return np.arange(len(self.values))

    @property
    def dim(self) -> int:
        """D."""
        return int(self.values.shape[1])

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield row numbers and embeddings."""
        for start in range(0, len(self.values), size):
            block = self.values[start : start + size]
            yield np.arange(start, start + len(block)), block

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Return float64 (n, D)."""
        return unit(self.values[rows].astype(np.float64))

    def identity(self) -> dict[str, Any]:
        """Return shape and digest."""
        return {"shape": list(self.values.shape), "sha256": bytes_digest(self.values.tobytes())}
