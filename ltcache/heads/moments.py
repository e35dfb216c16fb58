"""First and second moments of rows by class, in double precision."""

from __future__ import annotations

import torch
from torch import Tensor

from ltcache.errors import FitError

_BLOCK = 16384  # rows turned to double precision at once


def weighted_class_means(
    features: Tensor, labels: Tensor, weights: Tensor | None, num_classes: int
) -> Tensor:
    """Return the mean of each class, (C, D), float64.

    Args:
        features: (N, D). labels: (N,). weights: of the rows, (N,), or None for equal ones.

    Raises:
        FitError: a class without rows.
    """
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, device=features.device)
    share = labels.new_ones(len(labels), dtype=torch.float64) if weights is None else weights
    total = sums.new_zeros(num_classes).index_add_(0, labels, share.double())
    if bool((total <= 0).any()):
        empty = torch.nonzero(total <= 0).flatten().tolist()
        shown = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
        raise FitError(
            f"{len(empty)} of {num_classes} classes have no training rows to take a mean of "
            f"(labels {shown}); leave them out of the class list"
        )
    for start in range(0, len(labels), _BLOCK):
        part = slice(start, start + _BLOCK)
        sums.index_add_(0, labels[part], features[part].double() * share[part, None])
    return sums / total[:, None]


def scatter(features: Tensor, labels: Tensor, weights: Tensor | None, means: Tensor) -> Tensor:
    """Return the sum over rows of w (x - m_y)(x - m_y)', (D, D), float64; mean weight 1.

    Args:
        means: (C, D), float64; the rest as of :func:`weighted_class_means`.
    """
    result = means.new_zeros(means.shape[1], means.shape[1])
    for start in range(0, len(labels), _BLOCK):
        part = slice(start, start + _BLOCK)
        rows = features[part].double() - means[labels[part]]
        if weights is not None:
            rows *= (weights[part].double() / weights.double().mean()).sqrt()[:, None]
        result.addmm_(rows.T, rows)
    return result
