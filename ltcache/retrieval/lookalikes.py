"""Near duplicates inside the pool: of one class, and picked for two classes.

Inside a class all candidates that nothing else keeps out are compared, since a pool may hold an
image many times. Between classes only picks are: an image that is both in the first lists of two
classes and probable in both is rare, and all candidates of all classes may be many. What replaces a
pick that went is compared again, until no two picks are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ltcache.retrieval.evidence import NearestLabelled
from ltcache.retrieval.guards import GuardEvidence, GuardLimits, GuardVerdicts, alone, judge
from ltcache.retrieval.neighbours import NearThreshold, close_pairs
from ltcache.retrieval.pool import CachedPool

Close = dict[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class PoolLookalikes:
    """What near duplicates inside the pool are told by.

    Args:
        pool: the images. near: the threshold. nearest: labelled images next to each candidate.
    """

    pool: CachedPool
    near: NearThreshold
    nearest: NearestLabelled

    def judge(
        self, evidence: GuardEvidence, limits: GuardLimits, quotas: Mapping[int, int]
    ) -> GuardVerdicts:
        """Return which candidates are taken, no two of which are near duplicates.

        Of two picks that look alike, the one with the higher log-odds stays, and the class of the
        other gets its next best.
        """
        if "duplicates" in limits.off:
            return judge(evidence, limits, quotas)
        evidence = replace(evidence, close=self._within(evidence, limits))
        while True:
            verdicts = judge(evidence, limits, quotas)
            more = self._between(evidence, verdicts)
            if not more:
                return verdicts
            evidence = replace(evidence, close=_joined(evidence.close, more))

    def _within(self, evidence: GuardEvidence, limits: GuardLimits) -> Close:
        """Return pairs among the candidates of each class that nothing else keeps out."""
        free = np.array([not reason for reason in alone(evidence, limits)], bool)
        labels, result = evidence.scores.labels, Close()
        for label in np.unique(labels[free]):
            result |= self._pairs(evidence, np.flatnonzero(free & (labels == label)))
        return result

    def _between(self, evidence: GuardEvidence, verdicts: GuardVerdicts) -> Close:
        """Return pairs of picks for different classes."""
        labels = evidence.scores.labels
        taken = np.flatnonzero([not reason for reason in verdicts.reasons])
        pairs = self._pairs(evidence, taken)
        other = {n: found[labels[found] != labels[n]] for n, found in pairs.items()}
        return {n: found for n, found in other.items() if len(found)}

    def _pairs(self, evidence: GuardEvidence, chosen: np.ndarray) -> Close:
        images = self.pool.unit(evidence.scores.rows[chosen])
        labelled = self.nearest.train.take(chosen).joined(self.nearest.held_out.take(chosen))
        found = close_pairs(images, labelled, self.near)
        return {int(chosen[n]): chosen[near] for n, near in enumerate(found) if len(near)}


def _joined(close: Mapping[int, np.ndarray], more: Close) -> Close:
    none = np.zeros(0, np.int64)
    return {n: np.union1d(close.get(n, none), more.get(n, none)) for n in sorted({*close, *more})}
