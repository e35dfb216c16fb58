"""Scores of a pool computed plainly: everything at once, in float64, with numpy."""

from __future__ import annotations

import numpy as np

from ltcache.retrieval.scoring.queries import ClassQueries


def plain_logits(values: np.ndarray, queries: ClassQueries) -> np.ndarray:
    """Return float64 (N, C)."""
    values = values.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    values = values / np.where(lengths > 0, lengths, 1)
    return np.stack([values @ rows.T for rows in queries.rows]).max(axis=0) / queries.tau


def plain_log_odds(values: np.ndarray, queries: ClassQueries, labels: np.ndarray) -> np.ndarray:
    """Return float64 (N, T): l_k minus the logarithm of the sum of exp of all others, one by one.

    Nothing is subtracted from a sum, so nothing is lost where p_k rounds to 1.
    """
    logits = plain_logits(values, queries)
    result = np.empty((len(logits), len(labels)))
    for place, label in enumerate(labels):
        others = np.delete(logits, label, axis=1)
        most = others.max(axis=1)
        total = np.exp(others - most[:, None]).sum(axis=1)
        result[:, place] = logits[:, label] - most - np.log(total)
    return result


def plain_lists(
    values: np.ndarray, queries: ClassQueries, labels: np.ndarray, top: int
) -> list[tuple[list[int], list[float]]]:
    """Return rows and log-odds of each class, best first, equal ones by row number."""
    odds = np.round(plain_log_odds(values, queries, labels), 9)
    result = []
    for place in range(len(labels)):
        order = np.lexsort((np.arange(len(odds)), -odds[:, place]))[:top]
        result.append((order.tolist(), odds[order, place].tolist()))
    return result
