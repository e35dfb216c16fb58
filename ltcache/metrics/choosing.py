"""Which of several scores on validation rows is the best: every choice on them asks this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EpochRecord = dict[str, float]
"""What is known of one epoch: its number from 1, loss and, where there are rows, their scores."""


def validation_rank(scores: Mapping[str, Any], prefix: str = "val_") -> tuple[float, float]:
    """Return what is largest for the best: mean accuracy per class, then the lower NLL.

    Args:
        scores: with ``mean_per_class`` and ``nll``, each under its name after the ``prefix``.
    """
    return scores[f"{prefix}mean_per_class"], -scores[f"{prefix}nll"]


def is_better(scores: Mapping[str, Any], best: Mapping[str, Any] | None) -> bool:
    """Whether validation scores are better than the best so far, or the first; equal ones are not.

    Args:
        scores, best: see :func:`validation_rank`.
    """
    return best is None or validation_rank(scores) > validation_rank(best)
