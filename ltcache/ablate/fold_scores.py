"""The runs of all folds as one score of each setting and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ltcache.ablate.choice import class_mean
from ltcache.ablate.folds import TrainFolds
from ltcache.ablate.runs import JobOutcome
from ltcache.cache import labelled_split
from ltcache.errors import UsageError
from ltcache.metrics import UNGROUPED, evaluate_logits, paired_bootstrap
from ltcache.records import JsonObject, record_there
from ltcache.report import ComparisonEntry, ScoredRun
from ltcache.runs import LEFT_OUT, LabelledLogits, Run, check_features, open_run


def pooled_outcomes(
    parts: TrainFolds, of_folds: Sequence[Sequence[JobOutcome]]
) -> list[JobOutcome]:
    """Return one outcome for each setting and seed, and the failures of single folds.

    Args:
        of_folds: the outcomes of each fold, in the order of the folds.
    """
    together: dict[tuple[str, int], list[JobOutcome]] = {}
    found = []
    for outcome in (outcome for outcomes in of_folds for outcome in outcomes):
        if outcome.reason is not None:
            reason = f"fold {outcome.job.fold}: {outcome.reason}"
            found.append(replace(outcome, reason=reason))
        else:
            key = (outcome.job.setting.name, outcome.job.seed)
            together.setdefault(key, []).append(outcome)
    whole = [outcomes for outcomes in together.values() if len(outcomes) == parts.count]
    return [*found, *(_one(parts, outcomes) for outcomes in whole)]


def _one(parts: TrainFolds, outcomes: Sequence[JobOutcome]) -> JobOutcome:
    """Return the outcome of the runs of all folds of one setting and seed."""
    value = pooled_run(parts, outcomes[0].job.place.parent)
    warned = tuple(dict.fromkeys(text for one in outcomes for text in one.warnings))
    return JobOutcome(outcomes[0].job, value, warnings=warned)


def fold_runs(parts: TrainFolds, place: Path) -> list[Run]:
    """Return the runs of one setting and seed, in the order of the folds that they leave out.

    Raises:
        FitError: one is damaged. IdentityError: it was fitted on other features.
    """
    runs = [open_run(place / f"fold-{number}") for number in range(1, parts.count + 1)]
    for run, cache in zip(runs, parts.left_out, strict=True):
        check_features(run, cache)
    return runs


def fold_logits(parts: TrainFolds, runs: Sequence[Run], split: str = LEFT_OUT) -> LabelledLogits:
    """Return what the run of each fold says of a split, one fold after the other.

    Args:
        split: ``LEFT_OUT``: each image once, by the run that was not fitted on it; another: every
            image by all runs.
    """
    pairs = zip(runs, parts.left_out, strict=True)
    found = [LabelledLogits.of(run, cache, split) for run, cache in pairs]
    logits, labels = (
        np.concatenate(values)
        for values in zip(*((part.logits, part.labels) for part in found), strict=True)
    )
    adaptations = tuple(one for part in found for one in part.adaptations)
    return LabelledLogits(logits, labels, None, adaptations)


def pooled_run(parts: TrainFolds, place: Path) -> ScoredRun:
    """Return the runs of all folds of one setting and seed as one run.

    Raises:
        FitError, IdentityError: see :func:`fold_runs`.
    """
    runs, rows = fold_runs(parts, place), parts.scored_rows
    found, record = fold_logits(parts, runs), runs[0].record
    counts = parts.cache.class_counts("train")
    metrics = evaluate_logits(
        found.logits, rows.labels, counts, groups=record.groups, units=rows.units
    )
    metrics = replace(metrics, adaptations=found.adaptations, stale=record.stale)
    seconds = float(np.mean([run.record.cost.head_seconds for run in runs]))
    record = replace(
        record,
        class_counts=tuple(counts.tolist()),
        splits={"train": len(parts.rows), parts.name: len(rows.labels)},
        cost=replace(record.cost, head_seconds=seconds),
        tuning=_tunings([run.record.tuning for run in runs]),
    )
    return ScoredRun({parts.name: metrics}, {parts.name: found.right}, record, str(place))


def with_folds(
    parts: TrainFolds, comparison: Mapping[str, Any], entries: Sequence[ComparisonEntry]
) -> Mapping[str, Any]:
    """Return a comparison with how the rows were divided, and the scores of each fold."""
    lines = [
        {**line, **_spread(parts, entry)}
        for line, entry in zip(comparison["entries"], entries, strict=True)
    ]
    return {**comparison, "entries": lines, "folds": parts.record()}


def _spread(parts: TrainFolds, entry: ComparisonEntry) -> JsonObject:
    """Return ``interval`` of the mean accuracy per class, and it in each fold: ``by_fold``."""
    rows, classes = parts.scored_rows, len(parts.cache.classes)
    right = np.mean([run.right[parts.name] for run in entry.runs], axis=0)
    borders = np.cumsum([len(labelled_split(c, LEFT_OUT).labels) for c in parts.left_out])[:-1]
    pairs = zip(np.split(right, borders), np.split(rows.labels, borders), strict=True)
    ungrouped = np.full(classes, UNGROUPED)
    nothing = np.zeros(len(right))  # the difference to a run that is never right is the score
    found = paired_bootstrap(nothing, right, rows.labels, rows.units, groups=ungrouped)
    return {
        "interval": {parts.name: [found.low, found.high]},
        "by_fold": [class_mean(part, labels, classes) for part, labels in pairs],
    }


def require_same_rows(out: Path, parts: TrainFolds | None) -> None:
    """Refuse to replace tables of one kind of rows by those of another.

    Raises:
        UsageError: an ablation on folds is there and this one is not, or the other way round.
    """
    place = out / "results.json"
    before = record_there(place) if place.is_file() else None
    name = "a split" if parts is None else parts.name
    if before is not None and name != (there := _rows_in_words(before)):
        raise UsageError(
            f"{out} holds an ablation that compares on {there}, and this one compares on {name}; "
            "choose another --out"
        )


def _rows_in_words(results: Mapping[str, Any]) -> str:
    folds = results.get("folds")
    return "a split" if folds is None else f"{folds['folds']} folds of train"


def _tunings(of_folds: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """Return what was tuned, with what was chosen in each fold."""
    first = of_folds[0]
    if first is None:
        return None
    chosen = {f"fold {n}": dict((t or first)["chosen"]) for n, t in enumerate(of_folds, start=1)}
    return {**first, "chosen": chosen}
