"""Labels that look permuted: zero-shot predictions agree with another assignment of names.

Two swapped names of a published list cost 1.6 points of zero-shot accuracy on Food-101, and folders
sorted as 0, 1, 10, 100 permute a whole data set. Half of the images of each class propose a
permutation (the assignment that agrees most with the predictions; Kuhn, 1955), the other half
judge it, so that a weak encoder's noise, which always fits some permutation, is not taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltcache.cache import Cache, has_labels, labelled_split
from ltcache.errors import CacheError

GAIN = 0.2
"""How much more the permutation must explain of a cycle's classes on average, and of each named."""

CHANCE = 1e-3
"""Probability of as many agreements by chance, over all cycles, below which one is reported."""

_BLOCK = 8192


@dataclass(frozen=True)
class LabelPermutation:
    """Classes whose images look like those of other classes.

    Args:
        split: whose labels.
        pairs: (label, class that its images look like), for the affected classes.
        before, after: mean over the affected classes of the share of images that zero-shot
            predictions give to the label, and to the class that it looks like.
    """

    split: str
    pairs: tuple[tuple[int, int], ...]
    before: float
    after: float

    def describe(self, names: tuple[str, ...]) -> str:
        """Return the finding as one line; names are the classes' in label order."""
        shown = "; ".join(
            f"{label} ({names[label]}) looks like {other} ({names[other]})"
            for label, other in self.pairs[:5]
        )
        more = f" and {len(self.pairs) - 5} more" if len(self.pairs) > 5 else ""
        return (
            f"labels of {self.split} look permuted in {len(self.pairs)} classes: {shown}{more}. "
            f"Zero-shot predictions agree with {self.before:.0%} of their images, and with "
            f"{self.after:.0%} under the permutation: compare the class list with the labels"
        )


def permuted_labels(cache: Cache, split: str = "train") -> LabelPermutation | None:
    """Compare a split's labels with zero-shot predictions; None where they look right.

    Returns None too where the cache has no class texts, the split has no labels, or zero-shot
    classification is too near to chance to tell.
    """
    if not cache.prompt_names or not has_labels(cache, split) or len(cache.classes) < 2:
        return None
    if "embedding" not in cache.field_dims():
        return None
    there = labelled_split(cache, split)
    predictions = _predictions(cache, cache.rows(split)[there.positions])
    return find_permutation(there.labels, predictions, len(cache.classes), split)


def find_permutation(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int, split: str = "train"
) -> LabelPermutation | None:
    """Return classes that predictions exchange systematically, or None.

    Args:
        labels, predictions: int64 (n,), 0..C-1.
        split: what to call these rows.
    """
    proposing = _every_other(labels)
    suspects = _suspects(labels[proposing], predictions[proposing], num_classes)
    if len(suspects) < 2:
        return None
    target = np.arange(num_classes)
    target[suspects] = suspects[_assign(labels[proposing], predictions[proposing], suspects)]
    judged = _agreement(labels[~proposing], predictions[~proposing], target)
    cycles = [cycle for cycle in _cycles(target) if len(cycle) > 1]
    believed = [cycle for cycle in cycles if _holds(judged, cycle, len(cycles))]
    before, after = _agreement(labels, predictions, target).shares()
    affected = sorted(
        label for cycle in believed for label in cycle if after[label] >= before[label] + GAIN
    )
    if len(affected) < 2:
        return None
    return LabelPermutation(
        split,
        tuple((label, int(target[label])) for label in affected),
        float(before[affected].mean()),
        float(after[affected].mean()),
    )


@dataclass(frozen=True, eq=False)
class _ClassAgreement:
    """Images of each class (C,), and those predicted as their label and as the class in place."""

    total: np.ndarray
    label: np.ndarray
    target: np.ndarray

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares predicted as the label and as the target; an empty class has 0."""
        total = np.maximum(self.total, 1)
        return self.label / total, self.target / total


def _agreement(labels: np.ndarray, predictions: np.ndarray, target: np.ndarray) -> _ClassAgreement:
    counts = (
        np.bincount(labels[chosen], minlength=len(target))
        for chosen in (slice(None), predictions == labels, predictions == target[labels])
    )
    return _ClassAgreement(*counts)


def _predictions(cache: Cache, rows: np.ndarray) -> np.ndarray:
    """Return the zero-shot class of rows, read in blocks; int64 (n,)."""
    weights = cache.prompts().mean.T
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(rows), _BLOCK):
        crops = cache.row_features(rows[start : start + _BLOCK])  # (n, v, D)
        if not np.isfinite(crops).all():
            raise CacheError(f"{cache.path}: embeddings hold NaN: run ltcache verify")
        crops = crops / np.maximum(np.linalg.norm(crops, axis=2, keepdims=True), 1e-12)
        found.append((crops.mean(axis=1) @ weights).argmax(axis=1))
    return np.concatenate(found)


def _every_other(labels: np.ndarray) -> np.ndarray:
    """Return bool (n,): the first, third... row of each class."""
    order = np.argsort(labels, kind="stable")
    ranks = np.empty(len(labels), np.int64)
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    ranks[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks % 2 == 0


def _suspects(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Return classes that are most often predicted as another one; no (C, C) table is made."""
    pairs, counts = np.unique(labels * num_classes + predictions, return_counts=True)
    most = np.zeros(num_classes, np.int64)
    np.maximum.at(most, pairs // num_classes, counts)
    own = np.bincount(labels[predictions == labels], minlength=num_classes)
    return np.flatnonzero(most > own)


def _assign(labels: np.ndarray, predictions: np.ndarray, suspects: np.ndarray) -> np.ndarray:
    """Return for each of S suspects the position of the one it is assigned to, int64 (S,).

    The assignment has the largest sum of shares of each class's images; ties go to the class.
    """
    from scipy.optimize import linear_sum_assignment

    inside = np.isin(labels, suspects) & np.isin(predictions, suspects)
    row, column = (np.searchsorted(suspects, x[inside]) for x in (labels, predictions))
    size = len(suspects)
    counts = np.bincount(row * size + column, minlength=size**2).reshape(size, size)
    total = np.bincount(labels, minlength=suspects[-1] + 1)[suspects]
    shares = counts / np.maximum(total, 1)[:, None] + 1e-6 * np.eye(size)
    return np.asarray(linear_sum_assignment(shares, maximize=True)[1])


def _cycles(target: np.ndarray) -> list[list[int]]:
    """Return the cycles of a permutation."""
    seen = np.zeros(len(target), bool)
    cycles = []
    for start in range(len(target)):
        cycle = []
        label = start
        while not seen[label]:
            seen[label] = True
            cycle.append(label)
            label = int(target[label])
        if cycle:
            cycles.append(cycle)
    return cycles


def _holds(judged: _ClassAgreement, cycle: list[int], cycles: int) -> bool:
    """Whether images that did not propose a cycle confirm it: by enough, and not by chance."""
    from scipy.stats import binomtest

    filled = judged.total[cycle] > 0
    if not filled.any():
        return False
    before, after = judged.shares()
    gain = (after - before)[cycle][filled].mean()
    agree, disagree = int(judged.target[cycle].sum()), int(judged.label[cycle].sum())
    if gain < GAIN or agree <= disagree:
        return False
    chance = binomtest(agree, agree + disagree, 0.5, alternative="greater").pvalue
    return bool(chance * cycles < CHANCE)
