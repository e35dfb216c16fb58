"""Scores that follow from right answers per class; one code path for points and resamples."""

from __future__ import annotations

import numpy as np

from ltcache.metrics.groups import GROUP_NAMES

# LIFT puts 0.001 percent in place of a class accuracy of zero; the geometric mean takes the same.
ACCURACY_FLOOR = 1e-5


def class_accuracy(correct: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return accuracy per class, (..., C), NaN where a class has no rows."""
    return np.where(total > 0, correct / np.where(total > 0, total, 1), np.nan)


def summaries(
    correct: np.ndarray, total: np.ndarray, groups: np.ndarray
) -> dict[str, np.ndarray | None]:
    """Return every score that class sums determine.

    Args:
        correct: right answers per class, (..., C); leading axes are resamples.
        total: rows per class, (..., C); a class is present in all resamples or in none.
        groups: group of each class, (C,).

    Returns:
        name -> (...) array, or None where no class of the group has rows. ``many``, ``medium`` and
        ``few`` are means over classes, as ``mean_per_class`` is. ``head_tail_gap`` is many - few.
    """
    present = total.reshape(-1, total.shape[-1]).sum(axis=0) > 0
    if not present.any():
        raise ValueError("no labelled rows to score")
    accuracy = class_accuracy(correct, total)[..., present]
    floored = np.maximum(accuracy, ACCURACY_FLOOR)
    result: dict[str, np.ndarray | None] = {
        "overall": correct.sum(axis=-1) / total.sum(axis=-1),
        "mean_per_class": accuracy.mean(axis=-1),
    }
    for name in GROUP_NAMES:
        members = groups[present] == name
        result[name] = accuracy[..., members].mean(axis=-1) if members.any() else None
    result["harmonic_mean"] = 1 / (1 / floored).mean(axis=-1)
    result["geometric_mean"] = np.exp(np.log(floored).mean(axis=-1))
    result["worst_class"] = accuracy.min(axis=-1)
    many, few = result["many"], result["few"]
    result["head_tail_gap"] = None if many is None or few is None else many - few
    return result
