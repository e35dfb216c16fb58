"""Percentile bootstrap over independent units, stratified by class.

Several rows can show one thing (drawings of one emoji, frames of one film), so the unit that is
drawn is the thing, never the row. A unit is drawn within its class: no class can vanish from a
resample, and class means stay defined. A unit with rows in two classes counts as one unit in each.

Strata are small (five units a class are common), where the plain bootstrap is too narrow by
sqrt((U - 1) / U). We draw U - 1 of U units (Rao and Wu, Resampling inference with complex survey
data, JASA 1988), which gives class means their unbiased variance. A class with one unit adds no
spread: an interval says nothing about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ltcache.metrics.summaries import summaries
from ltcache.metrics.units import named_units
from ltcache.records import JsonRecord, one_line

_CELLS = 4_000_000  # numbers in one block of resamples


@one_line
@dataclass(frozen=True)
class UnitSums:
    """Independent units with their sums, sorted by class.

    Attributes:
        label: class of each unit, (U,).
        sums: what is summed over the rows of a unit, (U, K); the last column counts rows.
        num_classes: C.
    """

    label: np.ndarray
    sums: np.ndarray
    num_classes: int

    @classmethod
    def gather(
        cls, values: np.ndarray, labels: np.ndarray, units: np.ndarray | None, num_classes: int
    ) -> UnitSums:
        """Sum ``values`` (N, K) over the rows of each unit (N,); None: every row is its own, as is
        one without a unit (:func:`ltcache.metrics.named_units`)."""
        values = np.column_stack([values, np.ones(len(labels))])
        if units is None:
            order = np.argsort(labels, kind="stable")
            return cls(np.asarray(labels)[order], values[order], num_classes)
        _, ids = np.unique(named_units(units), return_inverse=True)
        pairs = np.asarray(labels, dtype=np.int64) * (ids.max(initial=0) + 1) + ids.reshape(-1)
        unique, position = np.unique(pairs, return_inverse=True)
        sums = np.stack(
            [np.bincount(position, weights=column, minlength=len(unique)) for column in values.T],
            axis=1,
        )
        return cls(unique // (ids.max(initial=0) + 1), sums, num_classes)

    def totals(self) -> np.ndarray:
        """Return the sums per class, (K, C)."""
        return np.stack(
            [np.bincount(self.label, weights=s, minlength=self.num_classes) for s in self.sums.T]
        )

    def resample(self, resamples: int, seed: int) -> np.ndarray:
        """Return sums per class of ``resamples`` draws, (B, K, C), zero for a class without rows.

        Units of a class with equal sums are exchangeable, so that it suffices to draw how often
        each distinct value comes up: a multinomial over V values instead of U picks. Every draw
        is scaled to the weight of the whole class, which keeps the proportions of the classes.
        """
        rng = np.random.default_rng(seed)
        values, share, size = self._distinct()
        drawn = np.maximum(size - 1, np.minimum(size, 1))
        scale = size / np.maximum(drawn, 1)  # (C,)
        result = np.empty((resamples, self.sums.shape[1], self.num_classes))
        block = max(1, _CELLS // max(1, share.size))
        for first in range(0, resamples, block):
            part = result[first : first + block]
            counts = rng.multinomial(drawn, share, size=(len(part), self.num_classes))
            np.einsum("bcv,cvk->bkc", counts, values, out=part)
            part *= scale
        return result

    def _distinct(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return distinct sums (C, V, K), their shares of the class (C, V) and its units (C,).

        Unused places come first: ``Generator.multinomial`` gives what rounding leaves to the last.
        """
        keyed = np.column_stack([self.label, self.sums])
        unique, times = np.unique(keyed, axis=0, return_counts=True)
        label = unique[:, 0].astype(np.int64)
        kinds = np.bincount(label, minlength=self.num_classes)
        width = int(kinds.max(initial=1))
        ends = np.cumsum(kinds)
        place = width - (ends[label] - np.arange(len(label)))
        size = np.bincount(self.label, minlength=self.num_classes)
        values = np.zeros((self.num_classes, width, self.sums.shape[1]))
        share = np.zeros((self.num_classes, width))
        values[label, place] = unique[:, 1:]
        share[label, place] = times / size[label]
        share[size == 0, -1] = 1.0
        return values, share, size


def percentile_interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of (B,) draws."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedDifference(JsonRecord):
    """A difference of one score between two runs on the same rows.

    Attributes:
        statistic: which score; difference: b - a as a fraction; low, high: 95 % interval;
        p: two-sided, never zero; resamples, units: how many of each.
    """

    statistic: str
    difference: float
    low: float
    high: float
    p: float
    resamples: int
    units: int


def paired_bootstrap(
    correct_a: np.ndarray,
    correct_b: np.ndarray,
    labels: np.ndarray,
    units: np.ndarray | None = None,
    statistic: str = "mean_per_class",
    *,
    groups: np.ndarray | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two runs on the same resamples of the same units.

    Args:
        correct_a, correct_b: which rows are right, (N,) or (S, N) for S seeds, whose mean is taken.
        labels: true classes, (N,).
        units: independent unit of each row, (N,), as of :func:`ltcache.metrics.named_units`; None:
            every row is its own.
        statistic: a name of :func:`ltcache.metrics.summaries.summaries`: ``overall``, ``few``...
        groups: of each class (C,), for group scores: :meth:`ltcache.metrics.GroupScheme.assign`.

    Raises:
        ValueError: an unknown statistic, or a group that has no rows.
    """
    labels = np.asarray(labels)
    a, b = (
        np.atleast_2d(np.asarray(c, dtype=np.float64)).mean(axis=0) for c in (correct_a, correct_b)
    )
    assigned = np.full(int(labels.max()) + 1, "-") if groups is None else np.asarray(groups)
    gathered = UnitSums.gather(np.stack([a, b], axis=1), labels, units, len(assigned))

    def difference(sums: np.ndarray) -> np.ndarray:
        one, two = (summaries(sums[..., k, :], sums[..., 2, :], assigned) for k in (0, 1))
        if statistic not in one:
            raise ValueError(f"unknown statistic {statistic!r}; known: {', '.join(one)}")
        if one[statistic] is None or two[statistic] is None:
            raise ValueError(
                f"no rows for {statistic!r}: give the groups of the classes, or another statistic"
            )
        return np.asarray(two[statistic]) - np.asarray(one[statistic])

    point = float(difference(gathered.totals()))
    draws = difference(gathered.resample(bootstrap, seed))
    low, high = percentile_interval(draws)
    tail = int(min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))) + 1
    p = min(1.0, 2 * tail / (bootstrap + 1))
    return PairedDifference(statistic, point, low, high, p, bootstrap, len(gathered.label))
