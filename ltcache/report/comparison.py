"""Many methods on the same rows: mean and spread over seeds, ranks, paired differences, cost.

A comparison is plain JSON, made once by :func:`compare`; every format is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np

from ltcache.cache import Cache, labelled_split
from ltcache.errors import UsageError
from ltcache.manifest import SPLITS
from ltcache.metrics import Metrics, paired_bootstrap
from ltcache.records import JsonObject, one_line
from ltcache.runs import LabelledLogits, Run, RunCost, RunRecord

STATISTIC = "mean_per_class"
"""What ranks and differences are of."""


@one_line
@dataclass(frozen=True, eq=False)
class ScoredRun:
    """What a comparison needs of one run.

    Args:
        metrics: split -> scores.
        right: split -> which labelled rows are right, bool (N,); empty where that is not known.
        record: what the run says of itself.
        path: the run's directory, as it is to be shown.
    """

    metrics: Mapping[str, Metrics]
    right: Mapping[str, np.ndarray]
    record: RunRecord
    path: str | None = None

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.record.seed


@one_line
@dataclass(frozen=True, eq=False)
class ComparisonEntry:
    """One line of a comparison: a method with its settings, over seeds.

    Args:
        name: what the line is called, unique.
        method: name of the method. overrides: the settings that were changed.
        runs: by seed.
    """

    name: str
    method: str
    overrides: Mapping[str, Any]
    runs: Sequence[ScoredRun]


@one_line
@dataclass(frozen=True, eq=False)
class ScoredRows:
    """The labelled rows of a split, in the order of ``ScoredRun.right``.

    Args:
        labels: (N,). units: independent unit of each row, (N,), or None: every row is its own.
    """

    labels: np.ndarray
    units: np.ndarray | None = None

    @classmethod
    def of(cls, cache: Cache, split: str) -> ScoredRows:
        """Read them from a cache."""
        rows = labelled_split(cache, split)
        return cls(rows.labels, rows.units)


def scored(run: Run, cache: Cache | None, path: str | None = None) -> ScoredRun:
    """Return what a comparison needs of a run; ``cache`` tells which rows are right."""
    right = {}
    if cache is not None:
        right = {split: LabelledLogits.of(run, cache, split).right for split in run.metrics}
    return ScoredRun(dict(run.metrics), right, run.record, path)


def compare(
    entries: Sequence[ComparisonEntry],
    rows: Mapping[str, ScoredRows],
    baseline: str | None = None,
    bootstrap: int = 2000,
) -> JsonObject:
    """Compare methods over seeds.

    Args:
        entries: at least one, each with at least one run.
        rows: split -> rows that were scored; differences are taken on the splits that it has.
        baseline: name of an entry, or of a method (its first entry is taken); None: the first.
        bootstrap: resamples of units for the differences.

    Returns:
        Plain JSON: ``baseline``, ``statistic``, ``splits`` (split -> rows, units, group scheme),
        ``class_counts`` and ``entries``, each with ``name``, ``method``, ``overrides``, ``seeds``,
        ``scores`` (split -> score -> mean, sd, values), ``rank`` (split -> mean over seeds),
        ``difference`` (split -> paired difference to the baseline, or None), ``behind_best`` (the
        same to the entry with the highest statistic), ``per_class``, ``tuned_on``, ``chosen``,
        ``cost`` and ``runs``.

    Raises:
        UsageError: nothing to compare, or no such baseline.
    """
    if not entries:
        raise UsageError("there are no runs to compare")
    base = _baseline(entries, baseline)
    known = dict.fromkeys([*SPLITS, *entries[0].runs[0].metrics])
    splits = [s for s in known if all(_has(entry, s) for entry in entries)]
    ranks = {split: _ranks(entries, split) for split in splits}
    best = {split: max(entries, key=partial(_statistic, split)) for split in splits}
    record = entries[0].runs[0].record
    return {
        "statistic": STATISTIC,
        "baseline": base.name,
        "splits": {split: _about(entries[0].runs[0].metrics[split]) for split in splits},
        "class_counts": list(record.class_counts),
        "entries": [
            {
                **_summary(entry, splits),
                "rank": {split: ranks[split][entry.name] for split in splits},
                "difference": {
                    split: _difference(base, entry, split, rows.get(split), bootstrap)
                    for split in splits
                },
                "behind_best": {
                    split: _difference(best[split], entry, split, rows.get(split), bootstrap)
                    for split in splits
                },
            }
            for entry in entries
        ],
    }  # fmt: skip


def _baseline(entries: Sequence[ComparisonEntry], name: str | None) -> ComparisonEntry:
    if name is None:
        return entries[0]
    for what in ("name", "method"):
        for entry in entries:
            if getattr(entry, what) == name:
                return entry
    names = ", ".join(entry.name for entry in entries)
    raise UsageError(f"baseline {name!r} has no finished run; there are: {names}")


def _statistic(split: str, entry: ComparisonEntry) -> float:
    return float(np.mean([getattr(run.metrics[split], STATISTIC) for run in entry.runs]))


def _has(entry: ComparisonEntry, split: str) -> bool:
    return all(split in run.metrics for run in entry.runs)


def _about(metrics: Metrics) -> JsonObject:
    return {
        "rows": metrics.num_rows,
        "units": metrics.num_units,
        "group_scheme": metrics.group_scheme,
        "group_sizes": dict(metrics.group_sizes),
    }


def _summary(entry: ComparisonEntry, splits: Sequence[str]) -> JsonObject:
    from ltcache.fit import summarise_seeds

    metrics = {split: [run.metrics[split] for run in entry.runs] for split in splits}
    tuning = entry.runs[0].record.tuning or {}
    return {
        "name": entry.name,
        "method": entry.method,
        "overrides": dict(entry.overrides),
        "seeds": [run.seed for run in entry.runs],
        "scores": {split: summarise_seeds(found) for split, found in metrics.items()},
        "per_class": {split: _per_class(found) for split, found in metrics.items()},
        "tuned_on": dict(entry.runs[0].record.tuned_on),
        "chosen": dict(tuning.get("chosen", {})),
        "trials": tuning.get("trials", 0),
        "unseen_classes": tuning.get("unseen_classes"),
        "choices": [list(run.record.choices) for run in entry.runs],
        "cost": _cost(entry.runs),
        "runs": [run.path for run in entry.runs],
    }


def _per_class(metrics: Sequence[Metrics]) -> list[float | None]:
    """Return the accuracy of each class, mean over seeds; None without rows."""
    columns = zip(*(found.per_class for found in metrics), strict=True)
    return [None if None in values else float(np.mean(values)) for values in columns]


def _cost(runs: Sequence[ScoredRun]) -> dict[str, float | None]:
    cost: dict[str, float | None] = {}
    for name in (field.name for field in fields(RunCost)):
        values = [getattr(run.record.cost, name) for run in runs]
        cost[name] = None if None in values else float(np.mean(values))
    return cost


def _ranks(entries: Sequence[ComparisonEntry], split: str) -> dict[str, float | None]:
    """Return the mean over seeds of each entry's rank (1 = best, ties share), by seeds of all."""
    values = [{r.seed: getattr(r.metrics[split], STATISTIC) for r in e.runs} for e in entries]
    shared = sorted(set.intersection(*(set(found) for found in values)))
    if not shared:
        return {entry.name: None for entry in entries}
    scores = np.array([[found[seed] for seed in shared] for found in values])  # (E, S)
    better = (scores[None] > scores[:, None]).sum(axis=1)
    equal = (scores[None] == scores[:, None]).sum(axis=1)
    ranks = (better + (equal + 1) / 2).mean(axis=1)
    return {entry.name: float(rank) for entry, rank in zip(entries, ranks, strict=True)}


def _difference(
    base: ComparisonEntry,
    entry: ComparisonEntry,
    split: str,
    rows: ScoredRows | None,
    bootstrap: int,
) -> JsonObject | None:
    """Return the paired difference to another entry; None where the right rows are not known, and
    of an entry to itself."""
    if (
        entry is base
        or rows is None
        or not all(split in run.right for run in (*base.runs, *entry.runs))
    ):
        return None
    record = entry.runs[0].record
    before, after = (np.stack([run.right[split] for run in e.runs]) for e in (base, entry))
    found = paired_bootstrap(
        before,
        after,
        rows.labels,
        rows.units,
        STATISTIC,
        groups=record.groups.assign(np.array(record.class_counts)),
        bootstrap=bootstrap,
    )
    return found.to_dict()
