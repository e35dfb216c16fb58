"""What the runs say of every image: confusions, calibration; needs the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltcache.cache import Cache
from ltcache.metrics import (
    ConfusedPair,
    PredictedClasses,
    ReliabilityCurve,
    confused_pairs,
    fit_temperature,
)
from ltcache.records import one_line
from ltcache.report.html.cells import PageCell, PageTable
from ltcache.report.line_logits import TUNED_ON, LineLogits
from ltcache.report.reading import ReportedRuns


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
    def of(cls, name: str, line: LineLogits) -> LinePredictions:
        """Read them from the logits of a line."""
        logits, labels = line.scored.logits, line.scored.labels
        found, temperature, after = PredictedClasses.of(logits, labels), None, None
        if line.tuning is not None:
            temperature = fit_temperature(line.tuning.logits, line.tuning.labels)
            scaled = PredictedClasses.of(logits, labels, temperature)
            after = ReliabilityCurve.of(scaled, labels)
        before = ReliabilityCurve.of(found, labels)
        return cls(
            name, line.seed, line.cache, line.rows, labels, found, before, after, temperature
        )

    def confusions(self) -> list[ConfusedPair]:
        """Return the pairs of classes that are confused, the most frequent first."""
        return confused_pairs(self.labels, self.found.predicted)


def predict_lines(
    reading: ReportedRuns, names: Sequence[str], split: str
) -> dict[str, LinePredictions]:
    """Return name -> predictions, for the lines whose cache is there."""
    lines = {name: reading.logits_of(name, split) for name in names}
    return {name: LinePredictions.of(name, line) for name, line in lines.items() if line}


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
