"""Retrieved images as training rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ltcache.errors import UsageError
from ltcache.fit import ExtraRows
from ltcache.retrieval.result import RetrievalResult, open_retrieved
from ltcache.retrieval.review.decisions import ACCEPT, decisions_of


def extra_rows(retrieved: RetrievalResult | str | Path, weight: str | float = 1.0) -> ExtraRows:
    """Return the accepted images of a retrieval for :func:`ltcache.fit.fit_adapter`.

    Args:
        retrieved: a result or its directory.
        weight: of an image in the loss and in the class prior; ``p``: its p_k, and 1 for what a
            person accepted.

    Raises:
        UsageError: a weight that is neither ``p`` nor a positive number.
    """
    if not isinstance(retrieved, RetrievalResult):
        retrieved = open_retrieved(retrieved)
    taken = retrieved.accepted
    rows = taken["pool_row"].to_numpy()
    features = {name: retrieved.features_of(rows, name) for name in retrieved.features}
    return ExtraRows(
        features,
        taken["label"].to_numpy(),
        _weights(weight, taken["p"].to_numpy(), _by_hand(retrieved, taken)),
        retrieved.record.identities["cache"],
        {"retrieval": retrieved.key, "weight": weight},
    )


def _by_hand(retrieved: RetrievalResult, taken: pa.Table) -> np.ndarray:
    """Return which of the accepted images a person accepted, bool (m,)."""
    chosen = decisions_of(retrieved).chosen
    pairs = zip(taken["label"].to_pylist(), taken["key"].to_pylist(), strict=True)
    return np.array([chosen.get(pair) == ACCEPT for pair in pairs], bool)


def _weights(weight: str | float, p: np.ndarray, by_hand: np.ndarray) -> np.ndarray:
    if weight == "p":
        return np.where(by_hand, 1, p).astype(np.float32)
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not (np.isfinite(value) and value > 0):
        raise UsageError(f"extra weight {weight!r} is neither p nor a positive number")
    return np.full(len(p), value, np.float32)
