"""Near duplicates inside the pool: of one class, and picked for two classes.

Inside a class all candidates that nothing else keeps out are compared, since a pool may hold an
image many times. Between classes only picks are: an image that is both in the first lists of two
classes and probable in both is rare, and all candidates of all classes may be many. What replaces a
pick that went is compared again, until no two picks are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from ltcache.retrieval.guards.neighbours import NearThreshold, close_pairs
from ltcache.retrieval.guards.verdicts import (
    GuardEvidence,
    GuardLimits,
    GuardVerdicts,
    alone,
    judge,
)
from ltcache.retrieval.scoring.pool import Pool

Close = dict[int, np.ndarray]
"""Candidate -> candidates that look like it, by their places in the list of all."""

Pairing = Callable[[np.ndarray], Close]
"""Places of candidates -> those among them that look alike."""


def judge_pool(
    evidence: GuardEvidence,
    limits: GuardLimits,
    quotas: Mapping[int, int],
    pool: Pool,
    near: NearThreshold,
) -> GuardVerdicts:
    """Return which candidates are taken, no two of which are near duplicates.

    Of two picks that look alike, the one with the higher log-odds stays, and the class of the
    other gets its next best.

    Args:
        quotas: label -> images wanted. near: from which score on two images are near duplicates.
    """
    if "duplicates" in limits.off:
        return judge(evidence, limits, quotas)

    def pairs(chosen: np.ndarray) -> Close:
        images = pool.unit(evidence.scores.rows[chosen])
        labelled = evidence.train.take(chosen).joined(evidence.held_out.take(chosen))
        found = close_pairs(images, labelled, near)
        return {int(chosen[n]): chosen[close] for n, close in enumerate(found) if len(close)}

    evidence = replace(evidence, close=_within(evidence, limits, pairs))
    while True:
        verdicts = judge(evidence, limits, quotas)
        more = _between(evidence, verdicts, pairs)
        if not more:
            return verdicts
        evidence = replace(evidence, close=_joined(evidence.close, more))


def _within(evidence: GuardEvidence, limits: GuardLimits, pairs: Pairing) -> Close:
    """Return pairs among the candidates of each class that nothing else keeps out."""
    free = np.array([not reason for reason in alone(evidence, limits)], bool)
    labels, result = evidence.scores.labels, Close()
    for label in np.unique(labels[free]):
        result |= pairs(np.flatnonzero(free & (labels == label)))
    return result


def _between(evidence: GuardEvidence, verdicts: GuardVerdicts, pairs: Pairing) -> Close:
    """Return pairs of picks for different classes."""
    labels = evidence.scores.labels
    taken = np.flatnonzero([not reason for reason in verdicts.reasons])
    other = {n: found[labels[found] != labels[n]] for n, found in pairs(taken).items()}
    return {n: found for n, found in other.items() if len(found)}


def _joined(close: Mapping[int, np.ndarray], more: Close) -> Close:
    none = np.zeros(0, np.int64)
    return {n: np.union1d(close.get(n, none), more.get(n, none)) for n in sorted({*close, *more})}
