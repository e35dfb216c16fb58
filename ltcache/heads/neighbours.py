"""Rows of the training data that a head keeps to compare with: which, and in which order."""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS = 1 << 25  # similarities held at once, 128 MiB


def label_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Return how often each label comes, int64 (C,).

    For ``torch.bincount`` the host waits until a GPU has found the largest label.
    """
    return labels.new_zeros(num_classes).index_add(0, labels, torch.ones_like(labels))


def spaced_rows(labels: Tensor, num_classes: int, most: int) -> Tensor:
    """Return up to ``most`` row numbers of each class, (K,), by class, then in their order.

    They are spaced evenly over a class's rows: lists are often sorted by source, by person or by
    film, so that the first rows would show one of them only. No draw is involved.

    Args:
        labels: (N,).
    """
    by_class = torch.argsort(labels, stable=True)
    counts = label_counts(labels, num_classes)
    kept = counts.clamp(max=most)
    starts, owner = counts.cumsum(0) - counts, torch.arange(num_classes, device=labels.device)
    owner = owner.repeat_interleave(kept)
    rank = torch.arange(len(owner), device=labels.device) - (kept.cumsum(0) - kept)[owner]
    return by_class[starts[owner] + rank * counts[owner] // kept[owner]]


def row_blocks(rows: Tensor, keys: int) -> tuple[Tensor, ...]:
    """Return rows (N, D) in blocks small enough to compare with so many keys at once."""
    return rows.split(max(1, PAIRS // max(keys, 1)))
