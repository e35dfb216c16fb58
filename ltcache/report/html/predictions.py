"""What the runs say of every image: confusions, calibration; needs the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltcache.cache import Cache, has_labels, labelled_split
from ltcache.metrics import (
    ConfusedPair,
    PredictedClasses,
    ReliabilityCurve,
    confused_pairs,
    fit_temperature,
)
from ltcache.records import one_line
from ltcache.report.html.cells import PageCell, PageTable
from ltcache.report.reading import ReportedRuns
from ltcache.runs import LabelledLogits, Run

TUNED_ON = "val"
"""The split that the temperature is fitted on."""


@one_line
@dataclass(frozen=True, eq=False)
class LinePredictions:
    """What the first run of a line says of the labelled rows of a split.

    Attributes:
        name: of the line. seed: of the run. cache: that the rows are of.
        rows: of the cache's manifest, (N,). labels: (N,). found: what was predicted.
        before: how reliable its probabilities are. after: the same with ``temperature``; both are
            None where there are no other rows to fit that on.
    """

    name: str
    seed: int
    cache: Cache
    rows: np.ndarray
    labels: np.ndarray
    found: PredictedClasses
    before: ReliabilityCurve
    after: ReliabilityCurve | None
    temperature: float | None

    @classmethod
    def of(cls, name: str, run: Run, cache: Cache, split: str) -> LinePredictions:
        """Classify the rows."""
        scored = LabelledLogits.of(run, cache, split)
        labels, found = scored.labels, PredictedClasses.of(scored.logits, scored.labels)
        temperature = after = None
        if split != TUNED_ON and has_labels(cache, TUNED_ON):
            tuning = LabelledLogits.of(run, cache, TUNED_ON)
            temperature = fit_temperature(tuning.logits, tuning.labels)
            scaled = PredictedClasses.of(scored.logits, labels, temperature)
            after = ReliabilityCurve.of(scaled, labels)
        rows = np.asarray(cache.rows(split))[labelled_split(cache, split).positions]
        before = ReliabilityCurve.of(found, labels)
        return cls(name, run.record.seed, cache, rows, labels, found, before, after, temperature)

    def confusions(self) -> list[ConfusedPair]:
        """Return the pairs of classes that are confused, the most frequent first."""
        return confused_pairs(self.labels, self.found.predicted)


def predict_lines(
    reading: ReportedRuns, names: Sequence[str], split: str
) -> dict[str, LinePredictions]:
    """Return name -> predictions, for the lines whose cache is there."""
    found = {}
    for entry, line in zip(reading.entries, reading.lines.values(), strict=True):
        run, path = line.runs[0]
        cache = reading.cache_of(run, path) if entry.name in names else None
        if cache is not None:
            found[entry.name] = LinePredictions.of(entry.name, run, cache, split)
    return found


def calibration_table(lines: Sequence[LinePredictions]) -> PageTable:
    """Return the calibration error of each line before and after scaling."""
    rows = [
        [
            PageCell(line.name),
            PageCell.percent(line.before.ece),
            PageCell.percent(None if line.after is None else line.after.ece),
            PageCell.number(line.temperature, 2),
        ]
        for line in lines
    ]
    caption = (
        "Expected calibration error (15 bins) of the first seed, in %, before and after dividing "
        f"the logits by one temperature that was fitted on {TUNED_ON}."
    )
    return PageTable("calibration", caption, ["line", "ECE", "ECE, scaled", "temperature"], rows)
