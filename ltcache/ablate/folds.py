"""The training rows of a cache in folds: each is scored by a run that was not fitted on it.

For sets without a test split, or with so few images that a part of them would decide too little.
What belongs together (a unit, equal bytes, near duplicates) lies in one fold. The images of a
class that are all one block train in every fold and are scored in none: a run that has never seen
a class says nothing about a method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ltcache.ablate.choice import class_mean
from ltcache.ablate.resident import resident
from ltcache.ablate.runs import JobOutcome
from ltcache.cache import Cache, labelled_split
from ltcache.errors import UsageError
from ltcache.extract import image_blocks
from ltcache.manifest import ImageBlocks, SplitRecipe, some
from ltcache.metrics import UNGROUPED, evaluate_logits, paired_bootstrap
from ltcache.records import JsonObject, one_line, record_there
from ltcache.report import ComparisonEntry, ScoredRows, ScoredRun
from ltcache.runs import LEFT_OUT, LabelledLogits, open_run

ALWAYS = -1
"""In place of a fold's number: a row that every run is fitted on."""

_UNUSED = "unused"  # the split of rows that take no part, such as those of test


@one_line
@dataclass(frozen=True, eq=False)
class TrainFolds:
    """The labelled training rows of a cache in K folds.

    Args:
        cache: whose rows they are. count: K.
        rows: int64 (n,), the labelled training rows. fold: int64 (n,) in 0..K-1, or ALWAYS.
        blocks: int64 (n,), the block of each. recipe: what made these blocks.
    """

    cache: Cache
    count: int
    rows: np.ndarray
    fold: np.ndarray
    blocks: np.ndarray
    recipe: SplitRecipe

    @property
    def name(self) -> str:
        """What tables call the split."""
        return f"{self.count} folds of train"

    @cached_property
    def left_out(self) -> list[Cache]:
        """The cache of each fold as :meth:`without` returns it, for what is read of the fold."""
        return [resident(self.without(fold)) for fold in range(self.count)]

    @cached_property
    def scored_rows(self) -> ScoredRows:
        """The rows of all folds, one fold after the other; blocks are their units."""
        parts = [labelled_split(cache, LEFT_OUT) for cache in self.left_out]
        units = np.concatenate([np.asarray(part.units) for part in parts])
        return ScoredRows(np.concatenate([part.labels for part in parts]), units)

    def without(self, fold: int) -> Cache:
        """Return the cache with a fold as a split of its own in place of test."""
        table = self.cache.manifest.rows
        split = np.array(table["split"].to_pylist(), dtype=object)
        split[split != "val"] = _UNUSED
        split[self.rows] = np.where(self.fold == fold, LEFT_OUT, "train")
        own = table["unit" if "unit" in table.column_names else "key"].to_pylist()
        unit = np.array([str(name) for name in own], dtype=object)
        unit[self.rows] = [f"block {block}" for block in self.blocks]
        columns = {name: table[name] for name in table.column_names}
        columns |= {"split": pa.array(split, pa.string()), "unit": pa.array(unit, pa.string())}
        return self.cache.with_rows(pa.table(columns))

    def record(self) -> JsonObject:
        """Return how the rows were divided, as ``results.json`` keeps it."""
        return {
            "folds": self.count,
            "by": list(self.recipe.by),
            "near": self.recipe.near,
            "seed": self.recipe.seed,
            "rows": np.bincount(self.fold[self.fold >= 0], minlength=self.count).tolist(),
            "always_trained": int((self.fold == ALWAYS).sum()),
            "tuned": "within each fold, by rows that its runs may know: never by those left out",
        }

    def notes(self) -> list[str]:
        """Return what must be said of classes that no fold leaves out."""
        labels = self.cache.manifest.labels()[self.rows]
        unscored = np.setdiff1d(labels, labels[self.fold >= 0])
        if not len(unscored):
            return []
        names = some(self.cache.classes.names[label] for label in unscored)
        return [
            f"{len(unscored)} class(es) are trained on in every fold and scored in none, since "
            f"their images belong together or are one alone: {names}"
        ]

    def pooled(self, of_folds: Sequence[Sequence[JobOutcome]]) -> list[JobOutcome]:
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
        whole = [outcomes for outcomes in together.values() if len(outcomes) == self.count]
        return [*found, *map(self._one, whole)]

    def _one(self, outcomes: Sequence[JobOutcome]) -> JobOutcome:
        """Return the outcome of the runs of all folds of one setting and seed: each image is scored
        by the run that was not fitted on it."""
        runs = [open_run(outcome.job.place) for outcome in outcomes]
        pairs = zip(runs, self.left_out, strict=True)
        parts = [LabelledLogits.of(run, cache, LEFT_OUT) for run, cache in pairs]
        logits, rows = np.concatenate([part.logits for part in parts]), self.scored_rows
        counts, record = self.cache.class_counts("train"), runs[0].record
        metrics = evaluate_logits(
            logits, rows.labels, counts, groups=record.groups, units=rows.units
        )
        adaptations = tuple(one for part in parts for one in part.adaptations)
        metrics = replace(metrics, adaptations=adaptations, stale=record.stale)
        seconds = float(np.mean([run.record.cost.head_seconds for run in runs]))
        record = replace(
            record,
            class_counts=tuple(counts.tolist()),
            cost=replace(record.cost, head_seconds=seconds),
            tuning=_tunings([run.record.tuning for run in runs]),
        )
        right = {self.name: logits.argmax(axis=1) == rows.labels}
        path = str(outcomes[0].job.place.parent)
        warned = tuple(dict.fromkeys(text for one in outcomes for text in one.warnings))
        value = ScoredRun({self.name: metrics}, right, record, path)
        return JobOutcome(outcomes[0].job, value, warnings=warned)

    def told(
        self, comparison: Mapping[str, Any], entries: Sequence[ComparisonEntry]
    ) -> Mapping[str, Any]:
        """Return a comparison with how the rows were divided, and the scores of each fold."""
        lines = [
            {**line, **self._spread(entry)}
            for line, entry in zip(comparison["entries"], entries, strict=True)
        ]
        return {**comparison, "entries": lines, "folds": self.record()}

    def _spread(self, entry: ComparisonEntry) -> JsonObject:
        """Return ``interval`` of the mean accuracy per class, and it in each fold: ``by_fold``."""
        rows, classes = self.scored_rows, len(self.cache.classes)
        right = np.mean([run.right[self.name] for run in entry.runs], axis=0)
        borders = np.cumsum([len(labelled_split(c, LEFT_OUT).labels) for c in self.left_out])[:-1]
        parts = zip(np.split(right, borders), np.split(rows.labels, borders), strict=True)
        ungrouped = np.full(classes, UNGROUPED)
        nothing = np.zeros(len(right))  # the difference to a run that is never right is the score
        found = paired_bootstrap(nothing, right, rows.labels, rows.units, groups=ungrouped)
        return {
            "interval": {self.name: [found.low, found.high]},
            "by_fold": [class_mean(part, labels, classes) for part, labels in parts],
        }


def divide(cache: Cache, count: int) -> TrainFolds:
    """Divide the labelled training rows of a cache into folds, class by class alike.

    Raises:
        UsageError: fewer than 2 folds, or a fold would be empty.
    """
    if count < 2:
        raise UsageError(f"--folds {count}: at least 2, so that there are rows to train on")
    rows = cache.rows("train")[labelled_split(cache, "train").positions]
    blocks, recipe = image_blocks(cache, rows)
    fold = fold_of_rows(ImageBlocks(cache.manifest.labels()[rows], blocks), count)
    filled = len(np.unique(fold[fold >= 0]))
    if filled < count:
        raise UsageError(
            f"--folds {count}: the training images of {cache.path} that a fold can leave out, "
            f"since others of their class stay, fill {filled} folds"
            + (f": --folds {filled}" if filled > 1 else "; nothing can be scored in this way")
        )
    return TrainFolds(cache, count, rows, fold, blocks, recipe)


def fold_of_rows(images: ImageBlocks, count: int) -> np.ndarray:
    """Return int64 (n,), the fold of each row in 0..count-1, or ALWAYS.

    From the largest block to the smallest, each goes where its classes have the fewest rows, of
    equal folds to the one with the fewest rows in all. A class that would lie in one fold alone
    stays in training.
    """
    classes, counts = images.parts
    filled = np.zeros((count, int(images.labels.max(initial=-1)) + 1), np.int64)
    fold = np.full(len(images.sizes), ALWAYS)
    for block in np.argsort(-images.sizes, kind="stable").tolist():
        there = filled[:, classes[block]]
        excess = (counts[block] * (2 * there + counts[block])).sum(axis=1)
        fold[block] = np.lexsort((filled.sum(axis=1), excess))[0]
        filled[fold[block], classes[block]] += counts[block]
    for alone in np.flatnonzero((filled > 0).sum(axis=0) == 1):
        fold[images.blocks[images.labels == alone]] = ALWAYS
    return np.asarray(fold[images.blocks])


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
