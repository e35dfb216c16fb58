"""An ablation on folds as what a report is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ltcache.ablate.fold_scores import fold_logits, fold_runs, pooled_run
from ltcache.ablate.folds import TrainFolds, divide
from ltcache.cache import Cache, has_labels, open_cache
from ltcache.errors import CacheError, UsageError
from ltcache.records import JsonObject, record_there, result_folder
from ltcache.report import (
    RESULTS,
    TUNED_ON,
    ComparisonEntry,
    LineLogits,
    ReportedRuns,
    report,
)
from ltcache.runs import Run


@dataclass(eq=False, kw_only=True)
class FoldedRuns(ReportedRuns):
    """The runs of an ablation on folds: those of all folds of a setting and seed count as one.

    Attributes:
        place: directory of the ablation. results: what it wrote. parts: the folds.
    """

    place: Path
    results: Mapping[str, Any]
    parts: TrainFolds

    def compared(self, baseline: str | None = None, bootstrap: int = 2000) -> JsonObject:
        """Return the comparison that the ablation wrote: see :func:`ltcache.report.report`."""
        return report([self.place], baseline)

    @cached_property
    def entries(self) -> list[ComparisonEntry]:
        """The lines in their order."""
        return [
            ComparisonEntry(
                entry["name"],
                entry["method"],
                entry["overrides"],
                [pooled_run(self.parts, self.place / path) for path in entry["runs"]],
            )
            for entry in self.results["entries"]
        ]

    def first_runs(self) -> Mapping[str, tuple[Run, Path]]:
        """Return name of a line -> the run of its first seed that leaves out the first fold."""
        places = self._first_places()
        return {
            name: (fold_runs(self.parts, path)[0], path / "fold-1") for name, path in places.items()
        }

    def logits_of(self, name: str, split: str) -> LineLogits:
        """Return what the runs of a line's first seed say of the images they were not fitted on."""
        runs = fold_runs(self.parts, self._first_places()[name])
        tuned = has_labels(self.parts.left_out[0], TUNED_ON)
        tuning = fold_logits(self.parts, runs, TUNED_ON) if tuned else None
        rows, seed = self.parts.left_out_rows, runs[0].record.seed
        return LineLogits(seed, self.parts.cache, rows, fold_logits(self.parts, runs), tuning)

    def _first_places(self) -> Mapping[str, Path]:
        return {e["name"]: self.place / e["runs"][0] for e in self.results["entries"]}

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes in label order."""
        return self.parts.cache.classes.names


def read_folds(ablation: str | Path, cache: Cache | str | Path | None = None) -> FoldedRuns:
    """Read what ``ltcache ablate --folds K`` wrote.

    Args:
        cache: that it compared on; None: where the ablation says.

    Raises:
        UsageError: the cache is not there, or its images are no longer divided as they were.
    """
    place = result_folder(ablation)
    results = record_there(place / RESULTS)
    try:
        opened = open_cache(place / results["cache"] if cache is None else cache)
    except CacheError as error:
        raise UsageError(f"{place}: --cache says where the cache of its runs is: {error}") from None
    parts = divide(opened, results["folds"]["folds"])
    if parts.record() != results["folds"]:
        raise UsageError(
            f"{opened.path}: its training images or labels are not those that {place} divided into "
            "folds: run that ablate --folds again, into another --out"
        )
    return FoldedRuns(cache=opened, place=place, results=results, parts=parts)
