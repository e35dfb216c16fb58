"""The table of classes: how often each is right, by line, and what it is taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltcache.report.formats import rows_in_words
from ltcache.report.html.cells import PageCell, PageTable
from ltcache.report.html.predictions import LinePredictions
from ltcache.report.reading import ReportedRuns


def class_table(
    reading: ReportedRuns,
    comparison: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    split: str,
    best: LinePredictions | None,
) -> PageTable:
    """Return one row for each class.

    Args:
        entries: the lines of the comparison that get columns.
        best: whose most frequent confusion is shown; None: of nobody.
    """
    run = reading.entries[0].runs[0]
    names, counts = reading.class_names, comparison["class_counts"]
    groups = run.record.groups.assign(counts)
    tested = run.metrics[split].per_class_rows
    base = next(e for e in comparison["entries"] if e["name"] == comparison["baseline"])
    others = [entry for entry in entries if entry is not base]
    confused = _first_confusions(best)
    rows = []
    for label, name in enumerate(names):
        before = base["per_class"][split][label]
        values = [entry["per_class"][split][label] for entry in others]
        cells = [PageCell(name), PageCell.number(counts[label]), PageCell(str(groups[label]))]
        cells += [PageCell.number(tested[label]), PageCell.percent(before)]
        for value in values:
            gain = None if value is None or before is None else value - before
            cells += [PageCell.percent(value), PageCell.percent(gain, signed=True)]
        if best is not None:
            other, count = confused.get(label, (-1, 0))
            cells.append(PageCell(f"{names[other]} ({count})" if count else "-", count))
        rows.append(cells)
    heading = ["class", "training images", "group", "scored images", base["name"]]
    for entry in others:
        heading += [entry["name"], f"{entry['name']} − {base['name']}"]
    if best is not None:
        heading.append(f"most often taken for, by {best.name} (seed {best.seed})")
    words = rows_in_words(comparison, split)
    caption = f"Accuracy of each class in %, {words}, mean over seeds; differences in points."
    return PageTable("classes", caption, heading, rows, searched=True)


def _first_confusions(best: LinePredictions | None) -> dict[int, tuple[int, int]]:
    """Return class -> the class that it is most often taken for, and how often."""
    found: dict[int, tuple[int, int]] = {}
    for pair in best.confusions() if best is not None else ():
        found.setdefault(pair.label, (pair.predicted, pair.count))
    return found
