"""Retrieved images as training rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ltcache.errors import UsageError
from ltcache.fit import ExtraRows
from ltcache.retrieval.result import Retrieved, open_retrieved


def extra_rows(retrieved: Retrieved | str | Path, weight: str | float = 1.0) -> ExtraRows:
    """Return the accepted images of a retrieval for :func:`ltcache.fit.fit_adapter`.

    Args:
        retrieved: a result or its directory.
        weight: of an image in the loss and in the class prior; ``p``: its p_k.

    Raises:
        UsageError: a weight that is neither ``p`` nor a positive number.
    """
    if not isinstance(retrieved, Retrieved):
        retrieved = open_retrieved(retrieved)
    taken = retrieved.accepted
    rows = taken["pool_row"].to_numpy()
    features = {name: retrieved.features_of(rows, name) for name in retrieved.features}
    return ExtraRows(
        features,
        taken["label"].to_numpy(),
        _weights(weight, taken["p"].to_numpy()),
        retrieved.record["identities"]["cache"],
        {"retrieval": retrieved.key, "weight": weight},
    )


def _weights(weight: str | float, p: np.ndarray) -> np.ndarray:
    if weight == "p":
        return p.astype(np.float32)
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not (np.isfinite(value) and value > 0):
        raise UsageError(f"extra weight {weight!r} is neither p nor a positive number")
    return np.full(len(p), value, np.float32)
