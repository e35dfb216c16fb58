"""Logits and labels in, every number that the field reports out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ltcache.metrics.adaptation import RowAdaptation
from ltcache.metrics.bootstrap import UnitSums, percentile_interval
from ltcache.metrics.calibration import ECE_BINS, PredictedClasses
from ltcache.metrics.groups import GROUP_NAMES, GroupScheme
from ltcache.metrics.summaries import class_accuracy, summaries
from ltcache.records import JsonObject, JsonRecord, one_line

# Only scores that are linear in the class accuracies: resampling pushes minima and means with a
# floor downwards, so that their percentile interval can miss the score itself.
INTERVALS = ("overall", "mean_per_class", "many", "medium", "few", "head_tail_gap")


@one_line
@dataclass(frozen=True)
class Metrics(JsonRecord):
    """Scores of one split, as fractions; None where a group has no rows.

    Attributes:
        overall: share of right rows. mean_per_class: mean of the accuracies of the classes that
            have rows. many, medium, few: the same within a group.
        harmonic_mean, geometric_mean: over classes, accuracies floored at 1e-5.
        worst_class, macro_f1, head_tail_gap (many - few): as named.
        ece: expected calibration error, 15 equal-width bins of the largest probability.
        nll: mean negative log likelihood, nats.
        intervals: score -> (low, high), 95 % percentile bootstrap over units within classes, for
            the scores in ``INTERVALS``.
        group_sizes: classes per group; group_scheme: the rule, in words.
        per_class, per_class_rows: accuracy (None without rows) and rows of each class.
        num_rows, num_units, resamples: what stood behind the scores and the intervals.
        stale: identity fields that differed and were let pass.
        test_prior: in words, the class prior that the logits were moved to and that the rows were
            weighted to; None: neither.
        adaptations: what the head learned from these rows, without their labels, before it was
            scored on them; empty: each row was predicted by itself.
        rows: digest of the keys and labels of the split (:func:`ltcache.cache.labelled_digest`);
            None where the logits are of no cache, and in scores of earlier versions.
    """

    overall: float
    mean_per_class: float
    many: float | None
    medium: float | None
    few: float | None
    harmonic_mean: float
    geometric_mean: float
    worst_class: float
    macro_f1: float
    ece: float
    nll: float
    head_tail_gap: float | None
    num_rows: int
    num_units: int
    resamples: int
    group_scheme: str
    group_sizes: Mapping[str, int]
    intervals: Mapping[str, tuple[float, float]]
    per_class: tuple[float | None, ...] = field(repr=False)
    per_class_rows: tuple[int, ...] = field(repr=False)
    stale: tuple[str, ...] = ()
    test_prior: str | None = None
    adaptations: tuple[RowAdaptation, ...] = ()
    rows: str | None = field(default=None, repr=False)

    def marked(self, stale: tuple[str, ...]) -> Metrics:
        """Return a copy that names the identity fields that were let pass."""
        return replace(self, stale=tuple(stale))

    def to_dict(self) -> JsonObject:
        """Return plain JSON; what was learned, and which rows, only where there is something."""
        plain = super().to_dict()
        for name in ("adaptations", "rows"):
            if not getattr(self, name):
                del plain[name]
        return plain


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction as percent, ``-`` for None: ``0.375`` -> ``37.5``."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def evaluate_logits(
    logits: np.ndarray,
    labels: np.ndarray,
    class_counts: np.ndarray,
    *,
    groups: GroupScheme | Mapping[str, Any] | None = None,
    units: np.ndarray | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    class_weights: np.ndarray | None = None,
) -> Metrics:
    """Score logits.

    Args:
        logits: (N, C), finite, any floating type (scored in float64).
        labels: true classes, (N,), each in 0..C-1.
        class_counts: training images per class, (C,); they make the groups.
        groups: a scheme or its mapping; None: OLTR's thresholds.
        units: independent unit of each row, (N,), as of :func:`ltcache.metrics.named_units`; None:
            each row is its own.
        bootstrap: resamples for the intervals; 0: no intervals.
        seed: of the resampling.
        class_weights: what a row of each class counts in ``overall``, ``macro_f1``, ``ece`` and
            ``nll``, positive (C,); None: 1. Scores within a class and their means stay.

    Raises:
        ValueError: misfitting shapes, no rows, labels out of range, logits not finite.
    """
    logits, labels, class_counts = np.asarray(logits), np.asarray(labels), np.asarray(class_counts)
    _check(logits, labels, class_counts, units, class_weights)
    scheme = groups if isinstance(groups, GroupScheme) else GroupScheme.from_dict(groups)
    assigned = scheme.assign(class_counts)
    predicted = logits.argmax(axis=1)
    right = (predicted == labels).astype(np.float64)
    gathered = UnitSums.gather(right[:, None], labels, units, logits.shape[1])
    correct, rows = gathered.totals()
    weights = np.ones(logits.shape[1]) if class_weights is None else np.asarray(class_weights)
    weighted = summaries(correct * weights, rows * weights, assigned)
    point = {n: None if v is None else float(v) for n, v in weighted.items()}
    accuracy = class_accuracy(correct, rows)
    of_rows = None if class_weights is None else weights[labels]
    ece, nll = _calibration(logits, labels, of_rows)
    return Metrics(
        **point,  # type: ignore[arg-type]  # the names of summaries() are fields
        macro_f1=_macro_f1(labels, predicted, of_rows),
        ece=ece,
        nll=nll,
        num_rows=len(labels),
        num_units=len(gathered.label),
        resamples=bootstrap,
        group_scheme=scheme.describe(class_counts),
        group_sizes={name: int((assigned == name).sum()) for name in GROUP_NAMES},
        intervals=_intervals(gathered, assigned, bootstrap, seed, weights),
        per_class=tuple(None if np.isnan(a) else float(a) for a in accuracy),
        per_class_rows=tuple(int(n) for n in rows),
    )


def _check(
    logits: np.ndarray,
    labels: np.ndarray,
    counts: np.ndarray,
    units: np.ndarray | None,
    weights: np.ndarray | None,
) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or counts.shape != logits.shape[1:]:
        raise ValueError(
            f"logits {logits.shape}, labels {labels.shape} and class_counts {counts.shape} do not "
            "fit (N, C), (N,), (C,)"
        )
    if not len(labels):
        raise ValueError("no rows to score")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}, but there are {logits.shape[1]} "
            "classes; rows without a label cannot be scored"
        )
    if units is not None and len(units) != len(labels):
        raise ValueError(f"{len(units)} units for {len(labels)} rows")
    if weights is not None and np.shape(weights) != logits.shape[1:]:
        raise ValueError(f"class_weights {np.shape(weights)} for {logits.shape[1]} classes")
    if not np.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinity")


def _macro_f1(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None) -> float:
    """Return the mean of F1 = 2 TP / (true + predicted rows) over the classes that have rows."""
    classes = int(max(labels.max(), predicted.max())) + 1

    def rows(of: np.ndarray, own: np.ndarray | None) -> np.ndarray:
        return np.bincount(of, weights=own, minlength=classes)

    hit = predicted == labels
    true = rows(labels, weights)
    both = true + rows(predicted, weights)
    right = rows(labels[hit], None if weights is None else weights[hit])
    present = np.bincount(labels, minlength=classes) > 0
    return float((2 * right[present] / both[present]).mean())


def _calibration(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """Return (ECE, NLL)."""
    found = PredictedClasses.of(logits, labels)
    own = found.log_likelihood
    gaps = (found.predicted == labels) - found.confidence
    if weights is not None:
        share = weights / weights.mean()
        gaps, own = gaps * share, own * share
    gap = np.bincount(found.bins, weights=gaps, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / len(labels)), float(-own.mean())


def _intervals(
    gathered: UnitSums, assigned: np.ndarray, bootstrap: int, seed: int, weights: np.ndarray
) -> dict[str, tuple[float, float]]:
    if not bootstrap:
        return {}
    sums = gathered.resample(bootstrap, seed)
    draws = summaries(sums[:, 0] * weights, sums[:, 1] * weights, assigned)
    return {name: percentile_interval(d) for name in INTERVALS if (d := draws[name]) is not None}
