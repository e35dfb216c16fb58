"""Which of several scores on validation rows is the best: every choice on them asks this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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


def last_alike(records: Sequence[EpochRecord], class_counts: np.ndarray) -> EpochRecord:
    """Return the last epoch that cannot be told from the best one, of all that were scored.

    Few images tell epochs apart by chance: of sixty, an epoch at the beginning of a schedule often
    has one more right than all later ones, and whoever ends there has a head that is not fitted.
    Epochs count as alike whose mean accuracy per class is within one standard error of the best's.

    Args:
        class_counts: images of each class that the scores are of, (C,).
    """
    counts = class_counts[class_counts > 0]
    images = len(counts) ** 2 / (1 / counts).sum()  # of equal classes, as sure as these
    best = max(validation_rank(record)[0] for record in records)
    share = (best * images + 2) / (images + 4)  # Agresti & Coull, 1998: not 0 of all that are right
    error = (share * (1 - share) / (images + 4)) ** 0.5
    return [record for record in records if validation_rank(record)[0] >= best - error][-1]
