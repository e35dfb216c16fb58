"""Which class is taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltcache.records import JsonRecord


@dataclass(frozen=True)
class ConfusedPair(JsonRecord):
    """Rows of one class that are predicted to be of another.

    Attributes:
        label: the true class. predicted: the other one.
        count: how many. share: of all rows of the true class.
    """

    label: int
    predicted: int
    count: int
    share: float


def confused_pairs(labels: np.ndarray, predicted: np.ndarray) -> list[ConfusedPair]:
    """Return every pair of classes that was confused, the most frequent first.

    Args:
        labels, predicted: true and predicted classes, int64 (N,), at least 0.
    """
    wrong = np.flatnonzero(labels != predicted)
    pairs = np.stack([labels[wrong], predicted[wrong]], axis=1)
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    rows = np.bincount(labels)
    found = [
        ConfusedPair(label, other, count, count / int(rows[label]))
        for (label, other), count in zip(unique.tolist(), counts.tolist(), strict=True)
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.share))
