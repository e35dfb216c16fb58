"""What keeps a candidate out, and why: one reason for each that is not taken.

Candidates are judged one by one, highest log-odds first over all classes. The first reason that
holds is the one that is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ltcache.errors import UsageError
from ltcache.records import one_line
from ltcache.retrieval.guards.neighbours import NearestReferences
from ltcache.retrieval.scoring.pool_scores import RankedPairs

GUARDS = ("threshold", "margin", "duplicates", "leaks", "sources")
"""Guards that can be switched off: the least p_k, the least margin, copies of training images and
inside the pool, copies of images of other splits, the cap per source."""

REASONS = {
    "threshold": "p_k is below the threshold",
    "confusable": "another class is as probable, or nearly",
    "leak": "the same as an image of another split, byte for byte",
    "near-leak": "looks like an image of another split",
    "duplicate": "the same as a training image, byte for byte",
    "near-duplicate": "looks like a training image",
    "pool-duplicate": "the same as an image that was taken",
    "near-pool-duplicate": "looks like an image of the class that was taken",
    "near-other-class": "looks like an image that was taken for a class with higher log-odds",
    "other-class": "was taken for a class with higher log-odds",
    "source-cap": "its source has given as many as it may",
    "quota": "the class has all that were asked for",
    "person": "a person rejected it",
}
"""Reason of a rejected candidate -> what it means."""


@one_line
@dataclass(frozen=True, eq=False)
class GuardEvidence:
    """What guards look at, one value per candidate.

    Args:
        scores: the candidates, by class and rank.
        content: hash of each one's bytes, "" where unknown.
        source: where each comes from, "" where unknown.
        train, held_out: the nearest images of training, of the other splits.
        near_train, near_held_out: (n,) whether it looks like one of them.
        train_copy, held_out_copy: (n,) whether an image there has the same bytes.
        close: candidate -> candidates that look like it.
    """

    scores: RankedPairs
    content: Sequence[str]
    source: Sequence[str]
    train: NearestReferences
    held_out: NearestReferences
    near_train: np.ndarray
    near_held_out: np.ndarray
    train_copy: np.ndarray
    held_out_copy: np.ndarray
    close: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class GuardLimits:
    """Where guards draw the line.

    Args:
        probability: least p_k; None: any is enough.
        margin: least ``log p_k - log p_runner_up``; 0 asks that no class is more probable.
        per_source: picks of one source in one class, at most; None: no cap.
        off: guards of :data:`GUARDS` that are switched off.
    """

    probability: float | None
    margin: float = 0.0
    per_source: int | None = None
    off: frozenset[str] = frozenset()


@one_line
@dataclass(frozen=True, eq=False)
class GuardVerdicts:
    """What became of each candidate.

    Args:
        reasons: "" for those that were taken, else a key of :data:`REASONS`.
        twins: the candidate that a duplicate inside the pool repeats, else -1.
    """

    reasons: list[str]
    twins: np.ndarray


def check_guards(off: Collection[str]) -> frozenset[str]:
    """Return guards to switch off; ``all`` stands for every one.

    Raises:
        UsageError: an unknown one.
    """
    for name in off:
        if name not in (*GUARDS, "all"):
            raise UsageError(f"guard {name!r} is unknown; known: {', '.join(GUARDS)}, all")
    return frozenset(GUARDS if "all" in off else off)


def judge(evidence: GuardEvidence, limits: GuardLimits, quotas: Mapping[int, int]) -> GuardVerdicts:
    """Return which candidates are taken.

    Args:
        quotas: label -> images wanted.
    """
    scores = evidence.scores
    reasons = alone(evidence, limits)
    twins = np.full(len(reasons), -1, np.int64)
    taken_rows: set[int] = set()
    contents: dict[str, int] = {}
    taken = np.zeros(len(reasons), bool)
    counts: Counter[int] = Counter()
    sources: Counter[tuple[int, str]] = Counter()
    for n in np.lexsort((scores.labels, scores.rows, -scores.log_odds)).tolist():
        if reasons[n]:
            continue
        label, row, source = int(scores.labels[n]), int(scores.rows[n]), evidence.source[n]
        near = evidence.close.get(n, np.zeros(0, np.int64))
        copies = "duplicates" not in limits.off
        capped = "sources" not in limits.off and limits.per_source is not None
        if row in taken_rows:
            reasons[n] = "other-class"
        elif copies and evidence.content[n] and evidence.content[n] in contents:
            reasons[n], twins[n] = "pool-duplicate", contents[evidence.content[n]]
        elif copies and taken[near].any():
            twins[n] = near[taken[near]][0]
            same = scores.labels[twins[n]] == label
            reasons[n] = "near-pool-duplicate" if same else "near-other-class"
        elif counts[label] >= quotas.get(label, 0):
            reasons[n] = "quota"
        elif capped and source and sources[label, source] >= (limits.per_source or 0):
            reasons[n] = "source-cap"
        else:
            taken[n] = True
            taken_rows.add(row)
            contents.setdefault(evidence.content[n], n)
            counts[label] += 1
            sources[label, source] += 1
    return GuardVerdicts(reasons, twins)


def alone(evidence: GuardEvidence, limits: GuardLimits) -> list[str]:
    """Return the reasons that need no other candidate, "" where there is none."""
    scores = evidence.scores
    least = np.round(scores.probability, 12) < (limits.probability or 0.0)
    rules = [
        ("leaks", "leak", evidence.held_out_copy),
        ("leaks", "near-leak", evidence.near_held_out),
        ("duplicates", "duplicate", evidence.train_copy),
        ("duplicates", "near-duplicate", evidence.near_train),
        ("threshold", "threshold", least),
        ("margin", "confusable", scores.margin < limits.margin),
    ]
    reasons = np.full(len(scores.rows), "", dtype="<U24")
    for guard, reason, holds in rules:
        if guard not in limits.off:
            reasons[(reasons == "") & holds] = reason
    return [str(reason) for reason in reasons]
