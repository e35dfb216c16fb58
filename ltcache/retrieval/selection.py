"""Which classes get images from the pool, and how many each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from ltcache.cache import Cache
from ltcache.errors import UsageError
from ltcache.metrics import GroupScheme
from ltcache.retrieval.settings import RetrievalSettings

MEDIAN = "median"
GROUPS = ("many", "medium", "few")


def train_counts(cache: Cache) -> np.ndarray:
    """Return int64 (C,): training images per class, zeros where there is no such split."""
    if "train" in cache.splits:
        return cache.class_counts("train")
    return np.zeros(len(cache.classes), np.int64)


def tail_quotas(cache: Cache, settings: RetrievalSettings) -> dict[int, int]:
    """Return label -> images wanted, of the classes that settings choose, by label."""
    counts, scheme = train_counts(cache), GroupScheme.from_dict(cache.manifest.groups)
    labels = tail_classes(
        counts,
        scheme,
        groups=settings.groups,
        max_count=settings.max_count,
        labels=settings.labels,
    )
    wanted = quotas(counts, labels, per_class=settings.per_class, up_to=settings.up_to)
    return dict(zip(labels.tolist(), wanted.tolist(), strict=True))


def tail_classes(
    counts: np.ndarray,
    scheme: GroupScheme,
    *,
    groups: Collection[str] = (),
    max_count: int | None = None,
    labels: Sequence[int] | None = None,
) -> np.ndarray:
    """Return int64 labels, ascending; few-shot classes unless told otherwise, and all classes where
    there are no training images at all.

    Args:
        counts: int64 (C,), training images per class.
        groups: names of groups under ``scheme``. max_count: classes with at most so many images.
        labels: these classes. At most one of the three.

    Raises:
        UsageError: more than one of them, an unknown group or label, or no class is left.
    """
    if (max_count is not None) + bool(groups) + (labels is not None) > 1:
        raise UsageError("choose classes by group, by count or by list, not by several at once")
    if labels is not None:
        return _listed(labels, len(counts))
    if max_count is not None:
        found = np.flatnonzero(counts <= max_count)
        if not len(found):
            raise UsageError(f"no class has {max_count} training images or fewer")
        return found
    if not groups and not counts.any() and scheme.explicit is None:
        return np.arange(len(counts))
    wanted = tuple(groups) or ("few",)
    for group in wanted:
        if group not in GROUPS:
            raise UsageError(f"group {group!r} is unknown; known: {', '.join(GROUPS)}")
    found = np.flatnonzero(np.isin(scheme.assign(counts), wanted))
    if not len(found):
        raise UsageError(
            f"no class is {' or '.join(wanted)} ({scheme.describe(counts)}): choose other groups, "
            "or classes by count or by list"
        )
    return found


def quotas(
    counts: np.ndarray,
    labels: np.ndarray,
    *,
    per_class: int | None = None,
    up_to: int | str | None = None,
) -> np.ndarray:
    """Return int64 (T,): images wanted for each of ``labels``.

    Args:
        counts: int64 (C,), training images per class.
        per_class: the same number for each.
        up_to: what a class lacks of this number, or of the ``median`` (the default) of all classes
            that have training images.

    Raises:
        UsageError: both are given, or neither can be meant.
    """
    if per_class is not None and up_to is not None:
        raise UsageError("give a number per class or a count to fill up to, not both")
    if per_class is not None:
        if per_class < 0:
            raise UsageError(f"{per_class} images per class: it cannot be negative")
        return np.full(len(labels), per_class, np.int64)
    target = MEDIAN if up_to is None else up_to
    if target == MEDIAN:
        there = counts[counts > 0]
        target = int(np.median(there)) if len(there) else 0
    if not isinstance(target, int) or target < 0:
        raise UsageError(f"up to {up_to!r}: give a number or 'median'")
    return np.maximum(target - counts[labels], 0).astype(np.int64)


def _listed(labels: Sequence[int], classes: int) -> np.ndarray:
    found = np.unique(np.asarray(labels, np.int64))
    if not len(found) or len(found) < len(labels):
        raise UsageError("the list of classes is empty, or names one twice")
    if found[0] < 0 or found[-1] >= classes:
        raise UsageError(f"labels must lie between 0 and {classes - 1}")
    return found
